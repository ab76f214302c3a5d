"""The Triton target: a repository whose config describes its model, and that is compared like any other program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from conftest import Result, mnist_edge
from onnx import TensorProto
from test_cli import in_process

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.errors import UsageError
from mnist_edge.targets.registry import REGISTRY

NUMBERS = {TensorProto.UINT8: 2, TensorProto.FLOAT16: 10, TensorProto.FLOAT: 11}
"""Triton's enumeration DataType, from its documentation, by ONNX's."""


@pytest.fixture(scope="module")
def repository(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of the fp32 variant of the small bundle, by the command. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    done = export(bundle_folder, folder, "--json")
    assert done.code == 0, done.err
    files = {file["name"]: file["bytes"] for file in done.json["files"]}
    assert set(files) == {
        ".mnist-edge-target", "README.md", "SHA256SUMS", "digits-fp32/config.pbtxt", "digits-fp32/labels.txt", "digits-fp32/1/model.onnx",
    }  # fmt: skip
    assert done.json["facts"] == {"model_bytes": files["digits-fp32/1/model.onnx"]}
    return folder


def export(bundle: Path, folder: Path, *options: str) -> Result:
    return in_process(
        "export", "--target", "triton", "--bundle", bundle, "--output", folder, *options, cwd=folder.parent
    )


def verify(bundle: Path, built: Path, *options: str) -> Result:
    return in_process(
        "verify", bundle, "--target", "triton", "--variant", "fp32", "--built", built, *options, cwd=built.parent
    )


def test_the_folder_holds_the_model_and_says_that_no_server_was_run(repository: Path, bundle_folder: Path) -> None:
    model = (repository / "digits-fp32" / "1" / "model.onnx").read_bytes()
    assert model == (bundle_folder / "model.onnx").read_bytes()
    assert (repository / "digits-fp32" / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    assert "No Triton server was run" in (repository / "README.md").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=repository, check=True)


def test_the_model_of_the_repository_is_verified(repository: Path, bundle_folder: Path) -> None:
    """The file that the server would load, on all test images, and the report does not claim a server."""
    done = verify(bundle_folder, repository, "--json")
    assert done.code == 0, done.err
    report = done.json
    assert (report["passed"], report["target"], report["device"]) == (True, "triton", "onnxruntime")
    assert (report["variants"][0]["images"], report["variants"][0]["flips"]) == (360, 0)
    assert {1, 64} <= set(report["variants"][0]["batches"])


CHANGES = {
    "another type": ("TYPE_UINT8", "TYPE_FP32"),
    "other dimensions": ("28, 28", "784"),
    "another input": ('"image"', '"pixels"'),
    "another output": ('"logits"', '"scores"'),
    "another model": ('"digits-fp32"', '"digits"'),
    "another backend": ('backend: "onnxruntime"', 'backend: "tensorrt"'),
    "a platform": ('backend: "onnxruntime"', 'backend: "onnxruntime"\nplatform: "tensorrt_plan"'),
    "no batches": ("max_batch_size: 64", "max_batch_size: 0"),
    "a negative batch": ("max_batch_size: 64", "max_batch_size: -1"),
    "another output block": ("instance_group", 'output [\n  {\n    name: "more"\n  }\n]\ninstance_group'),
    "other versions": ("dynamic_batching", "version_policy { specific { versions: [ 2 ] } }\ndynamic_batching"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_config_of_another_model_fails(repository: Path, bundle_folder: Path, tmp_path: Path, change: str) -> None:
    """The server would refuse the folder, or feed the model with something else."""
    built = shutil.copytree(repository, tmp_path / "models")
    config = built / "digits-fp32" / "config.pbtxt"
    text = config.read_text()
    config.write_text(text.replace(*CHANGES[change]))
    assert config.read_text() != text
    done = verify(bundle_folder, built)
    assert done.code == 1, done.err
    assert "does not describe its model" in done.err


@pytest.mark.parametrize("name", ["2/model.onnx", "1/model.plan", "../other/1/model.onnx", "labels.txt"])
def test_a_file_that_a_server_would_load_besides_fails(
    repository: Path, bundle_folder: Path, tmp_path: Path, name: str
) -> None:
    """Another version, another model, other classes: what the server loads is not what was compared."""
    built = shutil.copytree(repository, tmp_path / "models")
    file = built / "digits-fp32" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{digit}\n" for digit in "1023456789"))
    done = verify(bundle_folder, built)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "labels.txt does not name the classes of digits" in done.err or "unlike what an export writes" in done.err


def test_a_config_that_is_tuned_for_a_server_passes(repository: Path, bundle_folder: Path, tmp_path: Path) -> None:
    built = shutil.copytree(repository, tmp_path / "models")
    config = built / "digits-fp32" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 4").replace(": 64", ": 8").replace("  ", "\t"))
    assert verify(bundle_folder, built).code == 0


def test_another_model_file_fails(repository: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """One weight in the file that the server would load."""
    built = shutil.copytree(repository, tmp_path / "models")
    path = built / "digits-fp32" / "1" / "model.onnx"
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [10])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] += 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    done = verify(bundle_folder, built)
    assert done.code == 1, done.err
    (built / "digits-fp32" / "1" / "model.onnx").write_bytes(b"")
    assert verify(bundle_folder, built).code in {1, 3}
    shutil.rmtree(built / "digits-fp32")
    assert "holds 0 models" in verify(bundle_folder, built).err


def test_a_folder_of_something_else_is_not_replaced(repository: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """A second model that a user put beside ours, for example; without it, exporting again replaces the folder."""
    built = shutil.copytree(repository, tmp_path / "models")
    (built / "mine" / "1").mkdir(parents=True)
    (built / "mine" / "1" / "model.onnx").write_bytes(b"mine")
    done = export(bundle_folder, built)
    assert (done.code, (built / "mine" / "1" / "model.onnx").read_bytes()) == (2, b"mine")
    assert "mine/1/model.onnx" in done.err
    shutil.rmtree(built / "mine")
    (built / "digits-fp32" / "config.pbtxt").write_text("edited")
    assert "holds changes" in export(bundle_folder, built).err
    shutil.copytree(repository, built, dirs_exist_ok=True)
    assert export(bundle_folder, built).code == 0


def test_a_model_for_one_batch_size_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    """Triton could not collect requests for it, and would refuse max_batch_size."""
    model = onnx.load(bundle_folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    bundle = load_bundle(bundle_folder)

    class Fixed(type(bundle)):  # type: ignore[misc]
        def file(self, _variant: object) -> Path:
            return path

    fixed = Fixed(folder=bundle.folder, manifest=bundle.manifest, golden=bundle.golden)
    with pytest.raises(UsageError, match="needs a model for any batch size, fp32 takes 4"):
        REGISTRY["triton"].build(fixed, bundle.manifest.variants[0], tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.fixture(scope="module")
def model_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Triton's own protobuf of a model's configuration, from the wheel of its client."""
    folder = tmp_path_factory.mktemp("tritonclient")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        folder,
        "tritonclient==2.73.0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    if done.returncode:
        pytest.skip(f"tritonclient cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    # The package itself would import grpc; the generated module needs protobuf alone.
    sys.path.insert(0, str(folder / "tritonclient" / "grpc"))
    try:
        import model_config_pb2

        yield model_config_pb2
    finally:
        sys.path.remove(str(folder / "tritonclient" / "grpc"))


@pytest.mark.slow
def test_the_config_parses_with_tritons_own_protobuf(
    model_config: ModuleType, two_variant_bundle: Path, tmp_path: Path
) -> None:
    """Names and numbers of every field are Triton's, and they describe the graph as the onnx package reads it."""
    from google.protobuf import text_format

    for variant, file in (("fp32", "model.onnx"), ("int8", "int8.onnx")):
        folder = tmp_path / variant
        done = mnist_edge(
            "export", "--target", "triton", "--bundle", two_variant_bundle, "--variant", variant, "--output", folder,
            cwd=tmp_path,
        )  # fmt: skip
        assert done.code == 0, done.err
        text = (folder / f"digits-{variant}" / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config.ModelConfig())
        graph = onnx.load(two_variant_bundle / file).graph
        assert (config.name, config.backend, config.max_batch_size) == (f"digits-{variant}", "onnxruntime", 64)
        for declared, actual in ((config.input, graph.input), (config.output, graph.output)):
            (one,), (tensor,) = declared, actual
            kind = tensor.type.tensor_type
            assert one.name == tensor.name
            assert one.data_type == NUMBERS[kind.elem_type]
            assert list(one.dims) == [side.dim_value for side in kind.shape.dim][1:]
        assert config.output[0].label_filename == "labels.txt"
        assert [group.kind for group in config.instance_group] == [model_config.ModelInstanceGroup.KIND_CPU]
        assert config.HasField("dynamic_batching")
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        with pytest.raises(text_format.ParseError):
            text_format.Parse(text.replace("TYPE_UINT8", "UINT8"), model_config.ModelConfig())
        assert re.search(r"TYPE_UINT8", text)
