"""Recognise a model, or what a file is instead of a model, by its content; imports neither torch nor onnx."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal, get_args

from mnist_edge.errors import BadFileError
from mnist_edge.files import require_regular_file

ModelKind = Literal["onnx", "state_dict", "checkpoint", "bundle", "run folder"]
"""What the commands read. `state_dict` is any archive or pickle of torch.save, `checkpoint` any mnist-edge checkpoint."""

ForeignKind = Literal[
    "TorchScript archive",
    "torch.export archive",
    "safetensors file of another program",
    "git-lfs pointer",
    "web page",
    "XML document",
    "Keras or HDF5 file",
    "TensorFlow Lite model",
    "gzip archive",
    "NumPy file",
    "zip archive",
    "unknown file",
]
"""Files that the commands do not read, but that are often given as a model."""

MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
HEAD_BYTES = 4096
HEADER_LIMIT = 100_000_000
"""safetensors itself reads no header larger than this."""

_NAMES: dict[ModelKind, str] = {
    "onnx": "an ONNX model",
    "state_dict": "a file of torch.save",
    "checkpoint": "a checkpoint of mnist-edge",
    "bundle": "a bundle folder",
    "run folder": "a folder without a bundle manifest",
}
_SUFFIXES: dict[str, ModelKind] = {
    ".onnx": "onnx",
    ".safetensors": "checkpoint",
    ".pth": "state_dict",
    ".pt": "state_dict",
    ".ckpt": "state_dict",
    ".bin": "state_dict",
}
"""Used only where the content fits no format: a damaged file, which the loader of its suffix then refuses."""

_FIXES: dict[ForeignKind, str] = {
    "TorchScript archive": "save the weights of the original network with torch.save(net.state_dict(), FILE), or "
    "export it with torch.onnx.export and give the ONNX file",
    "torch.export archive": "export the original network with torch.onnx.export and give the ONNX file",
    "safetensors file of another program": "convert it: torch.save(safetensors.torch.load_file(FILE), 'weights.pth')",
    "git-lfs pointer": "run `git lfs pull` in its repository to get the model itself",
    "web page": "the download saved a page instead of the model: use the link of the raw file",
    "XML document": "give an ONNX file",
    "Keras or HDF5 file": "convert it with tf2onnx and give the ONNX file",
    "TensorFlow Lite model": "convert it with tf2onnx and give the ONNX file",
    "gzip archive": "unpack it and give the model that it contains",
    "NumPy file": "give an ONNX file, or a state_dict saved with torch.save",
    "zip archive": "unpack it and give the model that it contains",
}
_MAGIC: tuple[tuple[int, bytes, ForeignKind], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "git-lfs pointer"),
    (0, b"\x89HDF\r\n\x1a\n", "Keras or HDF5 file"),
    (4, b"TFL3", "TensorFlow Lite model"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"\x93NUMPY", "NumPy file"),
)
"""Offset, bytes found there, kind."""

_ONNX_FIELDS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2")
"""First bytes of the tags of ModelProto's fields 2 to 8, 14, 20, 25 and 26: what can follow `ir_version`, field 1."""


def model_kind(path: Path) -> ModelKind | ForeignKind:
    """Recognise a model by its content; read at most a header, never the weights.

    The suffix counts only where the content fits no known format, so that a damaged or empty file is refused by the loader
    of the format that its name states.

    Raises:
        BadFileError: a FIFO, socket or device.
        UnavailableError: it does not exist or cannot be read.
    """
    if path.is_dir():
        return "bundle" if (path / "manifest.json").is_file() else "run folder"
    size = require_regular_file(path, "a model")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found: ModelKind | ForeignKind | None = _binary_kind(path, head, size) or _text_kind(head)
    found = found or _SUFFIXES.get(path.suffix.lower())
    return found or "unknown file"


def require_model_kind(path: Path, first: ModelKind, *others: ModelKind) -> ModelKind:
    """Return the kind of a model that a command can read.

    Args:
        path: a file or folder.
        first, others: the kinds that the command reads.

    Raises:
        BadFileError: another kind; names it, and what to do about it.
        UnavailableError: it does not exist or cannot be read.
    """
    kind, expected = model_kind(path), (first, *others)
    for accepted in expected:
        if kind == accepted:
            return accepted
    # A folder without a bundle is nothing to ask for beside a bundle.
    asked = [one for one in expected if one != "run folder" or "bundle" not in expected]
    wanted = " or ".join(_NAMES[one] for one in asked)
    for model in MODEL_KINDS:
        if kind == model:
            raise BadFileError(f"{path} is {_NAMES[model]}, not {wanted}", hint=f"give {wanted}")
    hint = next((fix for name, fix in _FIXES.items() if name == kind), f"give {wanted}")
    raise BadFileError(
        f"{path} is {'an' if kind[0] == 'u' else 'a'} {kind}, not a model that mnist-edge reads", hint=hint
    )


def _binary_kind(path: Path, head: bytes, size: int) -> ModelKind | ForeignKind | None:
    # safetensors first: its header length can look like the magic number of another format.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header <= min(size - 8, HEADER_LIMIT):
        # The metadata entry of training/checkpoint.py comes before the tensors.
        return "checkpoint" if b'"mnist_edge"' in head else "safetensors file of another program"
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _archive_kind(path)
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":  # a pickle and its protocol
        return "state_dict"
    if head[:1] == b"\x08" and b"\x00" < head[1:2] < b"\x40" and head[2:3] and head[2] in _ONNX_FIELDS:
        return "onnx"
    return None


def _archive_kind(path: Path) -> ModelKind | ForeignKind | None:
    """Recognise a zip archive by its directory; nothing is decompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") for name in inner) or inner & {"constants.pkl", "bytecode.pkl", "attributes.pkl"}:
        return "TorchScript archive"
    if "data.pkl" in inner or "data.pkl" in names:
        return "state_dict"
    if "archive_format" in inner:
        return "torch.export archive"
    if any(name.endswith(".npy") for name in names):
        return "NumPy file"
    return "Keras or HDF5 file" if "model.weights.h5" in names else "zip archive"


def _text_kind(head: bytes) -> ForeignKind | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "web page"
    return "XML document" if text.startswith(b"<?xml") else None
