"""`mnist-edge verify`: what a device's owner relies on before the first picture is decided."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import mnist_edge
from faults import BY_NAME, Golden
from test_bundle import rewrite_bundle
from test_cli import hiding, in_process, one_line

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import golden_bytes
from mnist_edge.cpus import available_cpus
from mnist_edge.errors import CheckFailedError
from mnist_edge.exporting.pipeline import add_variant
from mnist_edge.extras import install_hint
from mnist_edge.records.bundle import VariantSpec
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.verification.verify import VerifyOptions

ROW = {
    "name", "precision", "requirement", "reference", "images", "flips", "flip_rate_upper95", "ties", "max_abs_error", "max_relative_error",
    "accuracy", "margins", "batches", "layers", "passed", "reason", "settings", "certificate", "certificate_reason",
    "outputs_sha256",
}  # fmt: skip
FAULTS = ("weight bytes of the transpose", "divided by 255 twice", "one weight NaN")


def broken(bundle: Path, target: Path, fault: str) -> Path:
    """A bundle whose hashes are right and whose model is wrong."""
    golden = load_bundle(bundle).golden
    proto = BY_NAME[fault].plant(onnx.load(bundle / "model.onnx"), Golden(golden.images, golden.logits))
    return rewrite_bundle(bundle, target, model=proto.SerializeToString(), precision=BY_NAME[fault].precision)


def test_an_untouched_bundle_passes(bundle_folder: Path, tmp_path: Path) -> None:
    """The real command, from another folder, with the keys that scripts read."""
    done = mnist_edge("verify", bundle_folder, "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    report = done.json
    assert (report["schema"], report["passed"], report["settings"]["provider"]) == ("mnist-edge/verify/7", True, "cpu")
    assert report["test_set"] is True
    (row,) = report["variants"]
    assert set(row) == ROW
    assert (row["name"], row["images"], row["flips"], row["passed"], row["reason"]) == ("fp32", 360, 0, True, "")
    assert row["flip_rate_upper95"] == pytest.approx(1 - 0.05 ** (1 / 360))


def test_the_newest_bundle_is_the_default(bundle_folder: Path, tmp_path: Path) -> None:
    """Without a name the bundle exported last is verified; without any, the command says how to make one."""
    assert in_process("verify", cwd=tmp_path).code == 4
    for name in ("old", "new"):
        shutil.copytree(bundle_folder, tmp_path / "exported" / name)
    (tmp_path / "exported" / "new" / "manifest.json").touch()
    assert in_process("verify", "--json", cwd=tmp_path).json["model"] == "exported/new"


def test_a_changed_byte_is_3(bundle_folder: Path, tmp_path: Path) -> None:
    """Damage is told apart from a wrong model, and the file is named."""
    folder = shutil.copytree(bundle_folder, tmp_path / "b")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (3, "bad-file")
    assert str(folder / "model.onnx") in one_line(done.err)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_model_under_right_hashes_is_1(fault: str, bundle_folder: Path, tmp_path: Path) -> None:
    """Hashes vouch for bytes, not for answers: the report is still printed, and the exit code is 1."""
    folder = broken(bundle_folder, tmp_path / "b", fault)
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (1, False)
    (row,) = done.json["variants"]
    assert not row["passed"]
    assert row["reason"] in one_line(done.err)
    table = in_process("verify", folder, cwd=tmp_path)
    assert table.code == 1
    assert "FAILED" in table.out


def test_cuda_on_a_machine_without_it_is_4(bundle_folder: Path, tmp_path: Path) -> None:
    """Never a CPU verdict under the name of CUDA."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    done = in_process("verify", bundle_folder, "--provider", "cuda", "--json", cwd=tmp_path)
    assert (done.code, set(done.json)) == (4, {"schema", "error"})
    assert install_hint("cuda") in one_line(done.err)


def edited(bundle: Path, target: Path, change: Callable[[onnx.ModelProto], object], **manifest: object) -> Path:
    """A bundle with right hashes whose graph and manifest were edited by hand."""
    proto = onnx.load(bundle / "model.onnx")
    change(proto)
    return rewrite_bundle(bundle, target, model=proto.SerializeToString(), **manifest)


def renamed(old: str, new: str) -> Callable[[onnx.ModelProto], object]:
    """Call the graph's input or output otherwise; its answers stay."""

    def change(proto: onnx.ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.name = new if value.name == old else value.name
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return change


def stating(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    """Write another word into the graph's metadata."""

    def change(proto: onnx.ModelProto) -> None:
        stated = {entry.key: entry.value for entry in proto.metadata_props}
        onnx.helper.set_model_props(proto, stated | {f"mnist_edge.{key}": value})

    return change


def fixed_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def nothing(_proto: onnx.ModelProto) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "manifest", "said"),
    [
        (renamed("image", "x"), {}, ("image uint8 (batch, 28, 28) to logits", "x uint8 (batch, 28, 28) to logits")),
        (renamed("logits", "y"), {}, ("image uint8 (batch, 28, 28) to logits", "image uint8 (batch, 28, 28) to y")),
        (fixed_batch, {}, ("image uint8 (batch, 28, 28)", "image uint8 (1, 28, 28)")),
        (nothing, {"input": "float"}, ("pixels float32 (batch, 784) to logits", "image uint8 (batch, 28, 28)")),
        (nothing, {"input_description": "x"}, ("input_description", "'image uint8 (batch, 28, 28)'", "'x'")),
        (nothing, {"normalization": "mnist"}, ("normalization mnist", "has raw")),
        (stating("normalization", "seed"), {}, ("normalization raw", "has seed")),
        (stating("dataset", "kmnist"), {}, ("dataset digits", "has kmnist")),
        (nothing, {"dataset": "mnist"}, ("dataset mnist", "has digits")),
        (stating("labels", "no JSON"), {}, ("mnist_edge.labels", "'no JSON'")),
        (stating("labels", '{"0": 0}'), {}, ("mnist_edge.labels", "no JSON list")),
        (stating("labels", "[0, 1]"), {}, ("mnist_edge.labels", "no JSON list")),
        (stating("labels", "3"), {}, ("mnist_edge.labels", "no JSON list")),
        (stating("labels", "[" * 100_000), {}, ("mnist_edge.labels", "no JSON list")),
    ],
    ids=[
        "input name", "output name", "fixed batch", "input kind", "input in words", "normalisation", "stated normalisation",
        "dataset", "manifest's dataset", "labels no JSON", "labels no list", "labels no names", "a number", "deep labels",
    ],
)  # fmt: skip
def test_a_graph_that_breaks_the_promise_of_its_manifest_is_3(
    change: Callable[[onnx.ModelProto], object],
    manifest: dict[str, str],
    said: tuple[str, ...],
    bundle_folder: Path,
    tmp_path: Path,
) -> None:
    """Its answers are right, but a program written by the documentation would not run: expected and found are named."""
    folder = edited(bundle_folder, tmp_path / "b", change, **manifest)
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (3, "bad-file"), done.err
    assert str(folder) in done.err
    for piece in said:
        assert piece in done.err.splitlines()[-1]


def test_a_graph_that_says_nothing_of_itself_passes(bundle_folder: Path, tmp_path: Path) -> None:
    """The control of the test above, and no metadata contradict nothing."""
    folder = edited(bundle_folder, tmp_path / "b", lambda proto: proto.ClearField("metadata_props"))
    assert in_process("verify", folder, cwd=tmp_path).code == 0
    folder = edited(bundle_folder, tmp_path / "c", nothing)
    assert in_process("verify", folder, cwd=tmp_path).code == 0


@pytest.mark.parametrize("against", [False, True])
def test_answers_for_another_test_set_than_the_one_at_hand_fail(
    against: bool, bundle_folder: Path, tmp_path: Path
) -> None:
    """A golden file cannot get round the test set by saying that its answers are for another one."""
    golden = load_bundle(bundle_folder).golden
    changed = dataclasses.replace(golden, test_sha256=golden.test_sha256[::-1].copy())
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=golden_bytes(changed))
    options = ("--against", bundle_folder / "model.onnx") if against else ()
    done = in_process("verify", folder, *options, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"], done.json["test_set"]) == (1, False, against)
    told = "golden.npz holds PyTorch's outputs for another test set than that of digits found here"
    assert done.json["variants"][0]["reason"] == told
    assert told in one_line(done.err)
    table = in_process("verify", folder, *options, cwd=tmp_path)
    assert "not at hand" not in table.out
    assert ("only the golden inputs were compared" in table.out) == (not against)


def test_a_layer_that_drifts_behind_right_answers_says_why_it_passes(bundle_folder: Path, tmp_path: Path) -> None:
    """Logits are owed, not layer outputs; the table marks the layer, and nothing where none drifts."""
    told = "differs"
    golden = load_bundle(bundle_folder).golden
    sums = golden.pre_activations.copy()
    sums[:, : golden.layer_widths[0]] *= 2
    changed = golden_bytes(dataclasses.replace(golden, pre_activations=sums))
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", golden=changed)
    done = in_process("verify", folder, "--layers", cwd=tmp_path, COLUMNS="160")
    assert done.code == 0, done.err
    (line, _) = [line for line in done.out.splitlines() if told in line.split()]  # both its tensors
    assert line.split()[:2] == ["1", "pre-activations"]
    assert "layer 1 differs, " in done.out
    assert "; the logits agree nevertheless" in done.out
    assert told not in in_process("verify", bundle_folder, "--layers", cwd=tmp_path, COLUMNS="160").out
    wrong = broken(bundle_folder, tmp_path / "wrong", FAULTS[0])
    done = in_process("verify", wrong, cwd=tmp_path, COLUMNS="160")
    assert ("drifts" in done.out, told in done.out) == (True, False)


def test_more_threads_than_cores_are_2(bundle_folder: Path, tmp_path: Path) -> None:
    """onnxruntime would start them all; the line names what there is, and as many as that are taken."""
    cores = available_cpus()
    done = in_process("verify", bundle_folder, "--threads", str(cores + 1), "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")
    assert f"--threads {cores + 1}, but this process may use {cores} CPUs" in one_line(done.err)
    assert f"--threads {cores}" in done.err
    done = in_process("verify", bundle_folder, "--threads", str(cores), "--json", cwd=tmp_path)
    assert (done.code, done.json["settings"]["threads"]) == (0, cores)


def test_against_a_run_folder_compares_with_live_pytorch(workplace: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """The weights that the bundle was made of pass; other weights do not."""
    torch = pytest.importorskip("torch")
    from mnist_edge.training.state_dict import read_model

    run = workplace / "runs" / "digits"
    done = in_process("verify", bundle_folder, "--against", run, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (0, True)
    assert str(run) in done.json["reference"]
    state = read_model(run).network.state_dict()
    state["4.bias"][3] += 1
    torch.save(state, tmp_path / "other.pth")
    done = in_process("verify", bundle_folder, "--against", "other.pth", "--normalize", "seed", "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (1, False)


def test_a_missing_bundle_is_4(tmp_path: Path) -> None:
    """A wrong path is named, with how a bundle comes to be."""
    done = in_process("verify", tmp_path / "nowhere", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert "nowhere" in one_line(done.err)
    assert "mnist-edge export" in done.err


def test_a_device_without_torch_onnx_and_digits_verifies_on_the_golden_inputs(
    bundle_folder: Path, tmp_path: Path
) -> None:
    """onnxruntime and numpy are enough, and the report says that the test set was not at hand."""
    workshop = ("torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "safetensors", "sklearn", "matplotlib")
    environment = hiding(tmp_path / "site", *workshop)
    done = mnist_edge("verify", bundle_folder, "--json", cwd=tmp_path, **environment)
    assert done.code == 0, done.err
    assert (done.json["passed"], done.json["test_set"], done.json["variants"][0]["images"]) == (True, False, 376)
    assert "only the golden inputs" in one_line(done.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "form"), [("", 0, "--json"), ("weight bytes of the transpose", 1, "--threads=1")]
)
def test_a_reader_that_left_changes_neither_verdict_nor_manners(
    fault: str, code: int, form: str, bundle_folder: Path, tmp_path: Path
) -> None:
    """`| head -1` gets no traceback, and a script with pipefail still gets the verdict."""
    folder = broken(bundle_folder, tmp_path / "b", fault) if fault else bundle_folder
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_edge", "verify", folder, form],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stream:
        said = stream.read()
    assert process.wait() == code
    assert "Traceback" not in said
    assert "Exception" not in said
    assert "BrokenPipe" not in said


def test_every_variant_is_verified_and_one_can_be_chosen(two_variant_bundle: Path, tmp_path: Path) -> None:
    """Both by default; a name that is not there lists those that are."""
    drop = ("--max-accuracy-drop", "5", "--json")
    done = in_process("verify", two_variant_bundle, *drop, cwd=tmp_path)
    assert done.code == 0, done.err
    assert [(row["name"], row["requirement"], row["precision"]) for row in done.json["variants"]] == [
        ("fp32", "exact", "fp32"), ("int8", "lossy", "int8"),
    ]  # fmt: skip
    done = in_process("verify", two_variant_bundle, *drop, "--variant", "int8", cwd=tmp_path)
    assert [row["name"] for row in done.json["variants"]] == ["int8"]
    done = in_process("verify", two_variant_bundle, *drop, "--variant", "int4", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (2, "usage")
    assert "has no variant 'int4'; it has fp32, int8" in one_line(done.err)
    done = in_process("verify", two_variant_bundle, "--variant", "fp32", cwd=tmp_path)
    assert done.code == 0


def test_a_variant_is_compared_with_the_variant_that_it_names(
    two_variant_bundle: Path, digits: Dataset, tmp_path: Path
) -> None:
    """Its parent's outputs count, and not PyTorch's; --against replaces both."""
    folder = shutil.copytree(two_variant_bundle, tmp_path / "b")
    spec = VariantSpec(name="copy", precision="int8", requirement="exact", reference="int8")
    add_variant(folder, spec, (folder / "int8.onnx").read_bytes(), digits)
    done = in_process("verify", folder, "--variant", "copy", "--layers", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = done.json["variants"]
    assert (row["reference"], row["max_abs_error"], row["layers"]["first"]) == ("the variant int8", 0, None)
    done = in_process("verify", folder, "--variant", "copy", "--against", folder / "model.onnx", "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (1, False)


def test_a_model_with_weights_of_its_own_is_judged_by_its_accuracy(
    bundle_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    """Another architecture with other logits passes where it is as accurate; it has no layers in common, and says so."""
    folder = shutil.copytree(bundle_folder, tmp_path / "b")
    proto = onnx.load(folder / "model.onnx")
    logits = proto.graph.output[0].name
    last = next(node for node in proto.graph.node if logits in node.output)
    last.output[0] = "before"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(7 * np.eye(10, dtype=np.float32), "scaled"))
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["before", "scaled"], [logits]))
    stated = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, stated | {"mnist_edge.weights_sha256": "0" * 64})
    spec = VariantSpec(name="student", precision="fp32", requirement="accuracy", max_accuracy_drop=0.01)
    add_variant(folder, spec, proto.SerializeToString(), digits)
    done = in_process("verify", folder, "--layers", "--max-accuracy-drop", "1", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    row = done.json["variants"][1]
    assert (row["requirement"], row["max_abs_error"], row["margins"]) == ("accuracy", None, None)
    assert (row["layers"]["tensors"], row["layers"]["detail"][:21]) == ([], "it has weights of its")
    for owed in ("exact", "lossy"):
        other = dataclasses.replace(spec, name="other", requirement=owed)
        with pytest.raises(CheckFailedError, match="exported from other weights"):
            add_variant(folder, other, proto.SerializeToString(), digits)


def test_tf32_is_lossy_and_cuda_only(bundle_folder: Path, tmp_path: Path) -> None:
    """Products rounded to 10 bits are not held to an fp32 tolerance, and nothing on a CPU is called TF32."""
    done = in_process("verify", bundle_folder, "--tf32", cwd=tmp_path)
    assert done.code == 2
    assert "--tf32 is an option of CUDA" in one_line(done.err)
    options = VerifyOptions(session=SessionSettings(provider="cuda", tf32=True))
    assert (options.requirement("exact", "fp32").kind, options.requirement("exact", "fp32").allowed_drift) == (
        "lossy",
        1e-2,
    )
    assert options.requirement("accuracy", "int8").kind == "accuracy"
    assert VerifyOptions(session=SessionSettings(provider="cuda")).requirement("exact", "fp32").kind == "exact"
