"""A model is recognised by its content; what is something else is named, with a fix."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from test_checkpoint import made

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.model_kind import model_kind, require_model_kind
from mnist_edge.training.checkpoint import save_checkpoint

STATE = {"0.weight": torch.zeros(10, 784), "0.bias": torch.zeros(10)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"


def onnx_model(path: Path) -> None:
    sides = ["batch", 4]
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = [value("x", onnx.TensorProto.FLOAT, sides)], [value("y", onnx.TensorProto.FLOAT, sides)]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs)).SerializeToString())


def legacy(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


def traced(path: Path) -> None:
    script = torch.jit.trace(torch.nn.Linear(784, 10), torch.zeros(1, 784))
    script.save(str(path))


def libtorch_2019(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/version", "m/code/m.py", "m/attributes.pkl", "m/tensors/0", "m/model.json"):
            archive.writestr(name, "1\n")


def numpy_archive(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3))
    path.write_bytes(buffer.getvalue())


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "TorchScript archive": (traced, "torch.onnx.export"),
    "TorchScript archive of 2019": (libtorch_2019, "torch.onnx.export"),
    "git-lfs pointer": (lambda path: path.write_bytes(POINTER), "git lfs pull"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>404: Not Found</html>"), "raw file"),
    "XML document": (lambda path: path.write_text("<?xml version='1.0'?><Error/>"), "ONNX"),
    "safetensors file of another program": (lambda path: save_file(STATE, path), "safetensors.torch.load_file"),
    "Keras or HDF5 file": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "tf2onnx"),
    "TensorFlow Lite model": (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100)), "tf2onnx"),
    "gzip archive": (lambda path: path.write_bytes(gzip.compress(b"model")), "unpack"),
    "NumPy file": (numpy_archive, "torch.save"),
}


@pytest.mark.parametrize("suffix", [".onnx", ".pth", ".pt", ".safetensors", ""])
def test_models_are_recognised_under_any_name(suffix: str, tmp_path: Path) -> None:
    """ONNX, both forms of torch.save and a checkpoint are what they are, whatever they are called."""
    path = tmp_path / f"model{suffix}"
    onnx_model(path)
    assert model_kind(path) == "onnx"
    path.write_bytes(save_checkpoint(tmp_path, made()).read_bytes())
    assert model_kind(path) == "checkpoint"
    torch.save(STATE, path)
    assert model_kind(path) == "state_dict"
    legacy(path)
    assert model_kind(path) == "state_dict"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert model_kind(path) == "state_dict"


def test_folders_are_bundles_or_runs(tmp_path: Path) -> None:
    """A folder with a manifest is a bundle, whatever its state; any other may be a run folder."""
    assert model_kind(tmp_path) == "run folder"
    (tmp_path / "manifest.json").touch()
    assert model_kind(tmp_path) == "bundle"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("suffix", [".onnx", ".pth", ".safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_model_is_named_with_a_fix(name: str, suffix: str, tmp_path: Path) -> None:
    """The error names the real kind and what to do, not that the file is damaged."""
    write, fix = FOREIGN[name]
    path = tmp_path / f"model{suffix}"
    write(path)
    with pytest.raises(BadFileError) as caught:
        require_model_kind(path, "onnx", "state_dict", "checkpoint")
    assert str(path) in caught.value.message
    assert name.removesuffix(" of 2019") in caught.value.message
    assert fix in caught.value.hint


def test_a_model_of_another_kind_than_the_command_reads_is_refused(tmp_path: Path) -> None:
    """ONNX under the name of a .pth is called ONNX where a state_dict is needed."""
    path = tmp_path / "model.pth"
    onnx_model(path)
    with pytest.raises(BadFileError, match=r"an ONNX model, not a file of torch.save or a checkpoint"):
        require_model_kind(path, "state_dict", "checkpoint")
    assert require_model_kind(path, "state_dict", "onnx") == "onnx"


def test_the_hint_asks_for_a_bundle_and_not_for_a_folder_without_one(tmp_path: Path) -> None:
    """`verify` and `inspect` pass a folder on, whatever it holds; as advice that would be no help."""
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(BadFileError) as raised:
        require_model_kind(tmp_path / "photo.jpg", "onnx", "bundle", "run folder")
    assert raised.value.hint == "give an ONNX model or a bundle folder"


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".onnx", "onnx"), (".pth", "state_dict"), (".safetensors", "checkpoint")]
)
def test_the_suffix_decides_where_the_content_does_not(suffix: str, kind: str, tmp_path: Path) -> None:
    """A damaged file goes to the loader of its suffix, which says what is wrong; without a suffix it is unknown."""
    for content in (b"", b"\0\1\2\3 no model", b"PK\x03\x04 cut short"):
        (tmp_path / f"model{suffix}").write_bytes(content)
        assert model_kind(tmp_path / f"model{suffix}") == kind
        (tmp_path / "model").write_bytes(content)
        assert model_kind(tmp_path / "model") == "unknown file"


def test_fifos_devices_and_sockets_are_refused_at_once(tmp_path: Path) -> None:
    """Nothing is read from what may block or never end."""
    os.mkfifo(tmp_path / "fifo.pth")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket.pth")
        for path in (tmp_path / "fifo.pth", tmp_path / "socket.pth", Path("/dev/zero")):
            with pytest.raises(BadFileError, match=str(path)):
                model_kind(path)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    """A path that does not exist is the environment's fault."""
    with pytest.raises(UnavailableError, match="does not exist"):
        model_kind(tmp_path / "none.pth")
