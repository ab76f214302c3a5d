"""The exported folder: model files, golden inputs with PyTorch's answers, and a manifest that vouches for all.

A bundle is read with nothing taken on trust: every file's sha256, and the manifest's own.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES, SIDE, DatasetName, InputKind
from mnist_edge.errors import BadFileError, SurroundingsError
from mnist_edge.files import sha256_bytes, sha256_file
from mnist_edge.pixels import Images, Logits
from mnist_edge.records import VariantFile

SCHEMA = "mnist-edge/bundle/2"
MANIFEST, GOLDEN = "manifest.json", "golden.npz"
GOLDEN_IMAGES = 1024
STAGE_IMAGES = 32
NOISE_SEED, NOISE_IMAGES = 20201, 14
NO_LABEL = 255
ROUNDING = 1e-4
"""How far the last stage's sums may lie from the logits, relative to the image's largest: both are PyTorch's,
computed for other numbers of images at once."""
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # a flipped bit says that it is encrypted
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # numpy reads an array's header as Python
)
"""What numpy and zipfile raise on a damaged archive."""
_HINT = "export it again, or copy the whole folder anew"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Inputs with PyTorch's answers, so that a device without torch can be held to them.

    Attributes:
        images: uint8 (M, 28, 28): the first test images (at most 1,024), then all-black, all-white and noise.
        labels: uint8 (M,), 255 where there is none.
        logits: float32 (M, 10), PyTorch's.
        test_logits: float32 (N, 10), PyTorch's on the whole test set, for devices that have it.
        test_sha256: uint8 (32,), of the test images and labels that `test_logits` are for.
        weights_sha256: uint8 (32,), of the weights that gave all these answers.
        stage_rows: int64 (K,), rows of `images` for which the network's inside is kept: the first
            test images (at most 32), and all that are no test images.
        stage_widths: int64 (L,), outputs of each linear layer, input side first.
        stage_sums: float32 (K, sum of the widths), what each linear layer gives for these rows
            before its ReLU, layer after layer.
    """

    images: Images
    labels: Images
    logits: Logits
    test_logits: Logits
    test_sha256: NDArray[np.uint8]
    weights_sha256: NDArray[np.uint8]
    stage_rows: NDArray[np.int64]
    stage_widths: NDArray[np.int64]
    stage_sums: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the bundle says of itself; `accuracy` is PyTorch's on the test set, a fraction of 1."""

    dataset: DatasetName
    input: InputKind
    input_description: str
    labels: tuple[str, ...]
    normalization: str
    opset: int
    weights_sha256: str
    versions: dict[str, str]
    accuracy: float
    parity: dict[str, Any]
    variants: tuple[VariantFile, ...]
    golden_sha256: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose every byte was checked."""

    folder: Path
    manifest: Manifest
    golden: Golden

    def file(self, variant: VariantFile) -> Path:
        """Return the path of a variant's model."""
        return self.folder / variant.file


def sha256_of_test_set(images: Images, labels: Images) -> NDArray[np.uint8]:
    """Hash a test set, uint8 (32,), so that recorded answers are only ever compared on the same images."""
    return sha256_array(sha256_bytes(np.ascontiguousarray(images).tobytes() + np.ascontiguousarray(labels).tobytes()))


def golden_inputs(test_images: Images, test_labels: Images) -> tuple[Images, Images]:
    """Choose the golden images and their labels: see `Golden`."""
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, (NOISE_IMAGES, SIDE, SIDE), dtype=np.uint8)
    plain = np.stack([np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)])
    images = np.concatenate([test_images[:GOLDEN_IMAGES], plain, noise])
    unlabelled = np.full(len(plain) + len(noise), NO_LABEL, np.uint8)
    return images, np.concatenate([test_labels[:GOLDEN_IMAGES], unlabelled])


def stage_rows(labels: Images) -> NDArray[np.int64]:
    """Choose the golden images for which the network's inside is kept: see `Golden.stage_rows`."""
    real, other = np.flatnonzero(labels != NO_LABEL), np.flatnonzero(labels == NO_LABEL)
    return np.concatenate([real[:STAGE_IMAGES], other]).astype(np.int64)


def sha256_array(digest: str) -> NDArray[np.uint8]:
    """A sha256 in hex as uint8 (32,)."""
    return np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)


def golden_bytes(golden: Golden) -> bytes:
    """Serialise; the same content gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{field.name: getattr(golden, field.name) for field in dataclasses.fields(golden)})
    return buffer.getvalue()


def manifest_bytes(manifest: Manifest) -> bytes:
    """Serialise with a sha256 over everything else in the manifest."""
    content = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    content = json.loads(json.dumps(content))
    return _dump({**content, "sha256": sha256_bytes(_dump(content))})


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle, whatever its state."""
    return (folder / MANIFEST).is_file()


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every byte of it.

    Raises:
        SurroundingsError: there is no bundle.
        BadFileError: names the file whose hash differs, that is missing, or that was not put there by export.
    """
    if not is_bundle(folder):
        raise SurroundingsError(
            f"{folder} holds no bundle (no {MANIFEST})", hint="mnist-edge export makes one; check the path"
        )
    manifest = _read_manifest(folder / MANIFEST)
    if not manifest.variants:
        raise BadFileError(f"{folder / MANIFEST} names no variant: there is nothing in the bundle", hint=_HINT)
    hashes = {GOLDEN: manifest.golden_sha256} | {variant.file: variant.sha256 for variant in manifest.variants}
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise BadFileError(f"{path} is missing, or is not a plain file of the bundle", hint=_HINT)
        if sha256_file(path) != expected:
            raise BadFileError(f"{path} was changed: its sha256 differs from the manifest's", hint=_HINT)
    return Bundle(folder=folder, manifest=manifest, golden=_read_golden(folder / GOLDEN))


def _read_manifest(path: Path) -> Manifest:
    from pydantic import TypeAdapter, ValidationError

    try:
        data = path.read_bytes()
        content = json.loads(data)
        stated = content.pop("sha256")
        whole = stated == sha256_bytes(_dump(content)) and data == _dump({**content, "sha256": stated})
        schema = content.pop("schema")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFileError(f"{path} is not a manifest", hint=_HINT) from error
    if schema != SCHEMA:
        raise BadFileError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", hint=_HINT)
    if not whole:
        raise BadFileError(f"{path} was changed: its content does not match its own sha256", hint=_HINT)
    try:
        manifest = TypeAdapter(Manifest).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFileError(f"{path}: {where}: {first['msg']}", hint=_HINT) from error
    if not 0 <= manifest.accuracy <= 1:  # nor is NaN
        raise BadFileError(f"{path}: accuracy: {manifest.accuracy} is no fraction of 1", hint=_HINT)
    if not re.fullmatch("[0-9a-f]{64}", manifest.weights_sha256):
        raise BadFileError(f"{path}: weights_sha256: {manifest.weights_sha256[:80]!r} is no sha256", hint=_HINT)
    return manifest


def _read_golden(path: Path) -> Golden:
    names = [field.name for field in dataclasses.fields(Golden)]
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = Golden(**{name: archive[name] for name in names})
    except DAMAGED as error:
        raise BadFileError(f"{path} is not a golden file", hint=_HINT) from error
    count, tests, rows, layers = (
        len(values) if values.ndim else 0
        for values in (golden.images, golden.test_logits, golden.stage_rows, golden.stage_widths)
    )
    units = int(golden.stage_widths.sum()) if golden.stage_widths.dtype == np.int64 else 0
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((count, SIDE, SIDE), np.uint8),
        "labels": ((count,), np.uint8),
        "logits": ((count, CLASSES), np.float32),
        "test_logits": ((tests, CLASSES), np.float32),
        "test_sha256": ((32,), np.uint8),
        "weights_sha256": ((32,), np.uint8),
        "stage_rows": ((rows,), np.int64),
        "stage_widths": ((layers,), np.int64),
        "stage_sums": ((rows, units), np.float32),
    }
    for name, (shape, dtype) in expected.items():
        found = getattr(golden, name)
        if found.shape != shape or found.dtype != dtype or found.size == 0:
            raise BadFileError(
                f"{path}: {name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}", hint=_HINT
            )
    if not all(np.isfinite(values).all() for values in (golden.logits, golden.test_logits, golden.stage_sums)):
        raise BadFileError(f"{path} holds NaN or infinite answers", hint=_HINT)
    if golden.stage_rows.min() < 0 or golden.stage_rows.max() >= count or golden.stage_widths.min() < 1:
        raise BadFileError(f"{path}: its stages are for images that it does not hold", hint=_HINT)
    strange = golden.labels[(golden.labels >= CLASSES) & (golden.labels != NO_LABEL)]
    if len(strange):
        raise BadFileError(
            f"{path}: labels: {strange[0]} is no class: expected 0 to {CLASSES - 1}, or {NO_LABEL} for none", hint=_HINT
        )
    logits = golden.logits[golden.stage_rows]
    if golden.stage_widths[-1] != CLASSES or not np.allclose(
        golden.stage_sums[:, -CLASSES:],
        logits,
        rtol=0,
        atol=ROUNDING * np.maximum(1, np.abs(logits).max(axis=1, keepdims=True)),
    ):
        raise BadFileError(f"{path}: stage_sums: the last layer's are not its logits", hint=_HINT)
    return golden
