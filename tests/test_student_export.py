"""A student as an ONNX file: packed weights that onnxruntime folds, PyTorch's logits, and faults that are found."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_student import TINY, checkpoint, student

from benchmarks.planted_students import FAULTS
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.cli.app import app
from mnist_edge.errors import BadFileError, CheckFailedError, UsageError
from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
from mnist_edge.exporting.proof import require_equal_logits
from mnist_edge.exporting.variants.kind import Built, VariantContext
from mnist_edge.exporting.variants.student import build
from mnist_edge.exporting.variants.student_graph import student_graph
from mnist_edge.onnx_graph import pack
from mnist_edge.records.data import Dataset
from mnist_edge.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from mnist_edge.training.loop import Hooks, new_run, train
from mnist_edge.training.model import reference_logits
from mnist_edge.training.qat import QuantisedNetwork, deployed_network
from mnist_edge.training.recipes import settings_for
from mnist_edge.training.student import quantised_network
from mnist_edge.training.student_shape import STUDENTS, StudentShape
from mnist_edge.verification.precision import precision_of
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.verify import VerifyOptions, verify_bundle

ALL4 = dataclasses.replace(TINY, bits=(4, 4, 4, 4))
ALL2 = dataclasses.replace(TINY, bits=(2, 2, 2, 2))
FORMS = [(TINY, 18), (TINY, 25), (ALL4, 18), (ALL4, 20), (ALL4, 21), (ALL4, 23), (ALL2, 18), (ALL2, 25)]


@pytest.fixture(autouse=True)
def without_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are not run first in a process of their own, which tests/test_attack.py covers."""
    monkeypatch.setattr("mnist_edge.runtime.trial.require_bounded", lambda *_args: None)


RUNTIME = {"Cast", "Unsqueeze", "Conv", "FusedConv", "Flatten", "Gemm", "ReorderInput", "ReorderOutput", "Relu"}
"""All that may run on each call; of these only the Cast and the reorderings of the image do not multiply."""


@pytest.mark.parametrize(("shape", "opset"), FORMS, ids=lambda value: getattr(value, "bits", value))
def test_onnxruntime_folds_the_weights(tmp_path: Path, digits: Dataset, shape: StudentShape, opset: int) -> None:
    """In every form the logits are PyTorch's, and no node that unpacks weights is left when the session is created."""
    network = quantised_network(student(shape))
    model = student_graph(network, opset)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": digits.test_images})[0]
    expected = reference_logits(deployed_network(network), digits.test_images, normalization="raw")
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert set(kinds) <= RUNTIME
    assert kinds.count("Cast") == 1
    assert (sum("Conv" in kind for kind in kinds), kinds.count("Gemm"), kinds.count("Flatten")) == (3, 1, 1)


def test_without_folding_the_weights_would_be_unpacked_on_every_run() -> None:
    """The assertion above can fail: the file itself holds the nodes that unpack."""
    for opset, unpacks in ((18, {"BitShift", "BitwiseAnd", "Sub", "Split", "Mul"}), (21, {"Split", "Mul"})):
        graph = onnx.load_model_from_string(student_graph(quantised_network(student(ALL4)), opset)).graph
        kinds = [node.op_type for node in graph.node]
        assert unpacks <= set(kinds)
        assert "DequantizeLinear" not in kinds
        assert kinds.count("Cast") > 1


LIMITS = {"fast": 5_000, "3k": 5_000, "6k": 8_000, "12k": 12_300, "40k": 40_000}


def test_files_keep_to_their_limits() -> None:
    """Packed or INT4, each student's file is below its limit, with at most 930 and 760 bytes beside its weights."""
    for name, shape in STUDENTS.items():
        network = quantised_network(student(shape))
        packed, int4 = len(student_graph(network, 18)), len(student_graph(network, 21))
        assert int4 < packed <= LIMITS[name]
        assert packed - shape.weight_bytes <= 930
        assert int4 - shape.weight_bytes <= 760


def test_bytes_are_packed_as_onnx_stores_int4() -> None:
    """By onnx's own packing: the first of two integers lies in the low nibble."""
    integers = np.arange(-7, 7, dtype=np.int8)
    tensor = onnx.helper.make_tensor("x", onnx.TensorProto.INT4, [14], integers)
    raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data
    assert pack(integers, 4) == raw
    assert pack(np.array([1, -1, 0, -2], np.int8), 2) == bytes([0b10_00_11_01])


@pytest.mark.parametrize(("shape", "opset", "precision"), [(ALL4, 18, "int4"), (ALL4, 21, "int4"), (ALL2, 18, "int2")])
def test_the_precision_is_read_from_the_graph(tmp_path: Path, shape: StudentShape, opset: int, precision: str) -> None:
    """`verify` compares the precision in the manifest with the graph's: packed weights count as what they are."""
    (tmp_path / "model.onnx").write_bytes(student_graph(quantised_network(student(shape)), opset))
    assert precision_of(tmp_path / "model.onnx") == precision


def test_a_graph_that_computes_otherwise_is_not_published(digits: Dataset) -> None:
    """Another student's graph, or one with a NaN: found on the whole test set before the bundle is touched."""
    network = quantised_network(student(ALL4))
    expected = reference_logits(deployed_network(network), digits.test_images, normalization="raw")
    require_equal_logits("student", student_graph(network, 18), digits.test_images, expected)
    other = quantised_network(student(ALL4, seed=1))
    with pytest.raises(CheckFailedError, match="differ on 360 of 360"):
        require_equal_logits("student", student_graph(other, 18), digits.test_images, expected)
    scale = network.layers[1].scale.copy()
    scale[0] = np.nan
    broken = dataclasses.replace(network.layers[1], scale=scale)
    changed = dataclasses.replace(network, layers=(network.layers[0], broken, *network.layers[2:]))
    with pytest.raises(CheckFailedError, match="differ on"):
        require_equal_logits("student", student_graph(changed, 18), digits.test_images, expected)


@pytest.fixture(scope="module")
def trained_student(digits: Dataset) -> QuantisedNetwork:
    """A student of four layers that knows the digits."""
    shape = StudentShape(name="3k", convs=((8, 7, 3), (8, 3, 2), (12, 3, 1)), bits=(4, 4, 4, 4))
    settings = settings_for("student", dataset="digits", train_images=1437, student=shape, epochs=12, batch_size=64)
    run = new_run(settings)
    train(run, digits, torch.device("cpu"), Hooks(save=lambda _state: None))
    return quantised_network(run.model)


@pytest.fixture(scope="module")
def alone(trained_student: QuantisedNetwork, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of that student alone. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("student") / "bundle"
    request = ExportRequest(
        model=deployed_network(trained_student),
        dataset=digits,
        output=folder,
        input="uint8",
        opset=18,
        normalization="raw",
        student=trained_student,
    )
    export_bundle(request)
    return folder


def test_a_student_alone_is_exact(alone: Path, digits: Dataset) -> None:
    """Its bundle holds PyTorch's logits, and its layer outputs for `verify --layers`."""
    bundle = load_bundle(alone)
    (variant,) = bundle.manifest.variants
    assert (variant.name, variant.precision, variant.requirement) == ("student-3k", "int4", "exact")
    assert variant.accuracy > 0.9
    (found,) = verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions(layers=True)).variants
    assert found.passed
    assert found.max_abs_error < 1e-4
    assert [tensor.layer for tensor in found.layers.tensors] == [1, 1, 2, 2, 3, 3, 4]
    assert all(tensor.drift < 1e-4 for tensor in found.layers.tensors)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(
    alone: Path, trained_student: QuantisedNetwork, digits: Dataset, tmp_path: Path, fault
) -> None:
    """A broken export of a student fails `verify`, with the layer that is wrong, or is a bad file."""
    folder = shutil.copytree(alone, tmp_path / "bundle")
    (folder / "model.onnx").write_bytes(fault.plant(trained_student))
    bundle = load_bundle_unsigned(folder)
    if fault.layer is None:
        with pytest.raises(BadFileError, match=r"truncated|declares"):
            verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions())
        return
    (found,) = verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions()).variants
    assert not found.passed
    assert found.layers.first == fault.layer


def load_bundle_unsigned(folder: Path):
    """The bundle of a folder whose model was replaced together with its hash in the manifest."""
    from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes, read_manifest
    from mnist_edge.files import sha256_file

    manifest, model = read_manifest(folder / MANIFEST), folder / "model.onnx"
    variant = dataclasses.replace(manifest.variants[0], bytes=model.stat().st_size, sha256=sha256_file(model))
    (folder / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(variant,))))
    return load_bundle(folder)


def here(*arguments: str | Path) -> None:
    """A command in this process."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let student-3k be a tiny one, and its recipe a short one."""
    from mnist_edge.training import recipes, student_shape

    read = recipes._read
    short = {"epochs": 4, "small_set_factor": 1}
    monkeypatch.setattr(
        recipes, "_read", lambda path: {name: {**values, **short} for name, values in read(path).items()}
    )
    monkeypatch.setitem(student_shape.STUDENTS, "3k", ALL4)


@pytest.fixture
def context(variant_context: VariantContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VariantContext:
    """What variants of the bundle of the digits are made from, in a folder without runs."""
    monkeypatch.chdir(tmp_path)
    small(monkeypatch)
    own = {"runs": Path("runs/variants/digits"), "user_runs": Path("runs"), "max_accuracy_drop": 0.1}
    return dataclasses.replace(variant_context, **own)


def built(context: VariantContext) -> tuple[Built, list[str]]:
    """The variant student-3k, and what was reported while it was made."""
    lines: list[str] = []
    return build("3k", dataclasses.replace(context, notify=lines.append)), lines


def test_a_variant_is_trained_once(context: VariantContext) -> None:
    """Its run folder is found again, and another recipe's or dataset's run in it is replaced."""
    first, lines = built(context)
    assert any("training student-3k" in line for line in lines)
    checkpoint = load_checkpoint(context.runs / "student-3k" / LAST)
    assert (checkpoint.progress.epoch, checkpoint.settings.student) == (4, ALL4)
    assert first.made == {
        "recipe": "student", "epochs": 4, "seed": 0, "encoding": "4 bits, packed into uint8", "weights": 8 * 49 + 32 + 800 + 80,
    }  # fmt: skip
    assert first.spec.requirement == "accuracy"
    again, lines = built(context)
    assert not any("training" in line for line in lines)
    assert again.model == first.model
    other = dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, holdout=0.3))
    _, lines = built(other)
    assert any("training student-3k" in line for line in lines)
    assert load_checkpoint(context.runs / "student-3k" / LAST).settings.recipe.holdout == 0.3


def test_a_finished_run_of_the_users_is_taken(context: VariantContext) -> None:
    """Whatever its recipe and seed; not one that is unfinished or of another shape."""
    run = Path("runs/digits-student-3k")
    settings = settings_for("student", dataset="digits", train_images=1437, student=ALL4, epochs=2, seed=5)
    start = new_run(settings)
    run.mkdir(parents=True)
    steps: list[int] = []
    hooks = Hooks(
        save=lambda state: save_checkpoint(run, state),
        on_step=lambda done, _all: steps.append(done),
        stop=lambda: len(steps) == 3,
    )
    assert not train(start, context.dataset, torch.device("cpu"), hooks)
    assert built(context)[0].made["seed"] == 0
    assert train(start, context.dataset, torch.device("cpu"), hooks)
    found, lines = built(context)
    assert any("taking the finished run with the recipe student, 2 epochs" in line for line in lines)
    assert (found.made["epochs"], found.made["seed"], found.selection) == (2, 5, None)
    other = load_checkpoint(run / LAST)
    other.settings = dataclasses.replace(other.settings, dataset="mnist")
    save_checkpoint(run, other)
    assert built(context)[0].made["seed"] == 0


def test_a_run_that_held_fewer_images_out_is_judged_on_those(context: VariantContext) -> None:
    """Images that it was trained on say nothing about it."""
    built(context)
    more = dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, holdout=0.3))
    shutil.copytree(context.runs / "student-3k", "runs/digits-student-3k")
    found, _ = built(more)
    assert found.selection is not None
    assert len(found.selection.labels) == round(1437 * 0.05)
    assert len(more.selection.labels) == round(1437 * 0.3)


def test_normalised_pixels_are_refused(context: VariantContext) -> None:
    """A bundle of `--input float` cannot hold a student, which takes raw images."""
    with pytest.raises(UsageError, match="takes raw images"):
        build("3k", dataclasses.replace(context, input="float"))
    assert not Path("runs").exists()


def test_options_that_no_student_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalised pixels, and variants of a student's own run: exit code 2, and nothing is trained or published."""
    monkeypatch.chdir(tmp_path)
    small(monkeypatch)
    Path("runs/student").mkdir(parents=True)
    save_checkpoint(Path("runs/student"), checkpoint(ALL4))
    with pytest.raises(UsageError, match="takes raw images"):
        here("export", "--run", "runs/student", "--input", "float")
    with pytest.raises(UsageError, match="is a student"):
        here("export", "--run", "runs/student", "--variant", "int8")
    with pytest.raises(UsageError, match="takes raw pixels"):
        here("export", "--run", "runs/student", "--normalize", "unit")
    assert not Path("exported").exists()
    here("export", "--run", "runs/student")
    assert load_bundle(Path("exported/digits-student-3k")).manifest.dataset == "digits"


@pytest.mark.slow
def test_a_killed_export_continues_the_training(workplace: Path, tmp_path: Path) -> None:
    """SIGTERM saves the last step and ends with 143; the same command continues there and publishes."""
    command = [
        sys.executable, "-m", "mnist_edge", "export", "--run", workplace / "runs" / "digits",
        "--variant", "student-fast", "--max-accuracy-drop", "100",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert any("student-fast: epoch" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGTERM)
        assert "the same command continues it" in process.stderr.read()
    assert process.returncode == 143
    run = tmp_path / "runs" / "variants" / "digits" / "student-fast"
    done = load_checkpoint(run / LAST).progress.epoch
    assert done >= 10  # the first line comes after a tenth of the epochs
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"{done} of 110 epochs" in again.stderr
    assert load_bundle(tmp_path / "exported" / "digits").variant("student-fast").passed
