"""Training, verifying and timing on a real CUDA device; skipped, with the reason, where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from test_certificate import net, pixels
from test_cli import in_process, one_line
from test_cuda_graph import trained as steps_of
from test_resume import assert_same_end, trained
from test_student import TINY

from mnist_edge.benchmarking.gpu import BoundRun
from mnist_edge.contract import ArithmeticName, DeviceName, ProviderName
from mnist_edge.errors import CheckFailedError, MnistEdgeError
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.cuda import require_working_cuda
from mnist_edge.runtime.session import open_session
from mnist_edge.training.checkpoint import LAST, load_checkpoint
from mnist_edge.training.cuda_graph import cuda_capture
from mnist_edge.training.loop import Run, continued_run, new_run
from mnist_edge.training.recipes import find_recipe, settings_for
from mnist_edge.verification.arithmetic import ARITHMETICS
from mnist_edge.verification.certificate import bound_logits

CUDA: ProviderName = "cuda"
ON_CUDA = SessionSettings(provider=CUDA)


@pytest.fixture(scope="module")
def device() -> DeviceName:
    """The CUDA device of PyTorch."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    return "cuda"


@pytest.fixture(scope="module")
def provider() -> ProviderName:
    """The CUDA provider of onnxruntime, which opens a session here."""
    try:
        require_working_cuda()
    except MnistEdgeError as error:
        pytest.skip(f"onnxruntime has no CUDA here: {error.message}")
    return CUDA


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.01}], ids=str)
def test_a_captured_step_is_the_eager_one(changes: dict[str, float], digits: Dataset, device: DeviceName) -> None:
    """Every loss and weight of replayed steps is that of eager steps on the same device and on the CPU, but for rounding."""
    recipe = dataclasses.replace(find_recipe("seed"), **changes)
    losses, weights = steps_of(recipe, digits, cuda_capture, device=device)
    for expected_losses, expected_weights in (
        steps_of(recipe, digits, None, device=device),
        steps_of(recipe, digits, None),
    ):
        assert losses == pytest.approx(expected_losses, rel=1e-3)
        for found, expected in zip(weights, expected_weights, strict=True):
            torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=1e-3, atol=1e-4)
    assert len(set(losses)) == len(losses)


def run_of(recipe: str, epochs: int = 4) -> Run:
    student = TINY if recipe.startswith("student") else None
    return new_run(
        settings_for(recipe, dataset="digits", train_images=1437, widths=(16, 12), student=student, epochs=epochs)
    )


@pytest.mark.parametrize("recipe", ["seed", "fast", "best"])
def test_training_on_cuda_learns_what_the_cpu_learns(
    recipe: str, tmp_path: Path, digits: Dataset, device: DeviceName
) -> None:
    """The same seed gives the same losses on both, epoch by epoch, but for rounding."""
    losses = {}
    for name in ("cpu", device):
        run = run_of(recipe)
        assert trained(run, digits, tmp_path / name, device=name)
        losses[name] = [record.loss for record in run.progress.history]
    assert losses[device] == pytest.approx(losses["cpu"], rel=1e-2)


@pytest.mark.parametrize("recipe", ["seed", "fast", "student"])
def test_a_stopped_run_goes_on_bit_for_bit_on_cuda(
    recipe: str, tmp_path: Path, digits: Dataset, device: DeviceName
) -> None:
    """Stopped within and between epochs, before and after the capture, and resumed from disk."""
    assert trained(run_of(recipe), digits, tmp_path / "whole", device=device)
    run, stops = run_of(recipe), frozenset({2, 17, 29, 41})
    while not trained(run, digits, tmp_path / "parts", stops, device):
        run = continued_run(load_checkpoint(tmp_path / "parts" / LAST))
    assert_same_end(load_checkpoint(tmp_path / "parts" / LAST), load_checkpoint(tmp_path / "whole" / LAST))


def test_a_divergence_on_cuda_is_found(tmp_path: Path, digits: Dataset, device: DeviceName) -> None:
    """The loss is not read at each step there; the end of the epoch finds it all the same."""
    recipe = dataclasses.replace(find_recipe("seed"), lr=1e6, momentum=0.9, epochs=6)
    run = new_run(dataclasses.replace(settings_for("seed", dataset="digits", train_images=1437), recipe=recipe))
    with pytest.raises(CheckFailedError, match="diverged"):
        trained(run, digits, tmp_path / "run", device=device)


def matrix_product(path: Path, terms: int = 512) -> NDArray[np.float64]:
    """Write a model that is one matrix product over 512 terms, and return its matrix, (512, 64)."""
    weights = np.random.default_rng(0).normal(0, 1, (terms, 64)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", terms])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return weights.astype(np.float64)


def test_tf32_is_off_unless_it_is_requested(tmp_path: Path, provider: ProviderName) -> None:
    """Against a product in float64: fp32 errs in the seventh digit, TF32 in the fourth."""
    weights = matrix_product(tmp_path / "m.onnx")
    feed = np.random.default_rng(1).normal(0, 1, (64, len(weights))).astype(np.float32)
    expected = feed.astype(np.float64) @ weights
    errors = {}
    for tf32 in (False, True):
        opened = open_session(tmp_path / "m.onnx", SessionSettings(provider=provider, tf32=tf32))
        assert set(opened.placement) == {"CUDAExecutionProvider"}
        (found,) = opened.session.run(None, {"x": feed})
        errors[tf32] = np.abs(found - expected).max() / np.abs(expected).max()
    assert errors[False] < 1e-5
    assert errors[True] > 1e-4  # on Ampere and newer


def test_a_bundle_verifies_on_cuda(bundle_folder: Path, tmp_path: Path, provider: ProviderName) -> None:
    """Exactly, layer by layer, with every node on the GPU; and with TF32 as a lossy model."""
    done = in_process(
        "verify", bundle_folder, "--provider", provider, "--layers", "--batch", "5", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    (variant,) = done.json["variants"]
    assert (variant["requirement"], variant["flips"]) == ("exact", 0)
    assert variant["max_relative_error"] < 1e-5
    # 360 images cannot show that a lossy model loses at most 0.1 %, the default.
    lossy = ("--tf32", "--max-accuracy-drop", "2")
    done = in_process("verify", bundle_folder, "--provider", provider, *lossy, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["variants"][0]["requirement"] == "lossy"


def test_a_bundle_evaluates_alike_on_both_providers(
    bundle_folder: Path, tmp_path: Path, provider: ProviderName
) -> None:
    """Accuracy and confusion matrix on CUDA are those of the CPU."""
    found = {
        name: in_process("eval", bundle_folder, "--provider", name, "--json", cwd=tmp_path).json
        for name in ("cpu", provider)
    }
    assert found[provider]["accuracy"] == found["cpu"]["accuracy"]
    assert found[provider]["confusion"] == found["cpu"]["confusion"]


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_bound_runs_on_cuda_are_runs_on_the_cpu(
    batch: int, cuda_graph: bool, bundle_folder: Path, provider: ProviderName
) -> None:
    """With and without a captured graph, each input gives its own logits."""
    images = np.random.default_rng(2).integers(0, 256, (5, batch, 28, 28), dtype=np.uint8)
    settings = dataclasses.replace(ON_CUDA, cuda_graph=cuda_graph)
    classifier = open_classifier(bundle_folder / "model.onnx", settings, trial=False, timeout=None)
    bound = BoundRun(classifier, images[0], provider)
    on_cpu = open_classifier(bundle_folder / "model.onnx")
    for part in images:
        np.testing.assert_allclose(bound.whole(part), on_cpu.run(part), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_rows_of_a_timing_are_of_the_provider_that_they_name(
    bundle_folder: Path, tmp_path: Path, provider: ProviderName
) -> None:
    """Every node of a CUDA row ran on CUDA, with checked predictions; its calls are timed, with and without a graph."""
    options = ("--batch", "1,64", "--rounds", "2", "--duration", "0.05", "--json")
    done = in_process("bench", bundle_folder, "--provider", provider, *options, cwd=tmp_path)
    assert done.code == 0, done.err
    rows: list[dict[str, Any]] = done.json["results"]
    found = {(row["engine"], row["settings"]["provider"], row["settings"]["cuda_graph"], row["batch"]) for row in rows}
    kinds = [
        ("onnxruntime", "cpu", False),
        ("onnxruntime", CUDA, False),
        ("onnxruntime", CUDA, True),
        ("torch", CUDA, False),
    ]
    assert found == {(*kind, batch) for kind in kinds for batch in (1, 64)}
    for row in rows:
        if row["engine"] == "onnxruntime":
            on_cuda = row["settings"]["provider"] == CUDA
            assert set(row["placement"]) == {"CUDAExecutionProvider" if on_cuda else "CPUExecutionProvider"}
            assert (row["gpu_calls"] is not None) == on_cuda


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "train"])
def test_a_hidden_gpu_is_4(
    command: str, bundle_folder: Path, tmp_path: Path, device: DeviceName, provider: ProviderName
) -> None:
    """Where CUDA_VISIBLE_DEVICES hides it, nothing falls back to the CPU."""
    from conftest import mnist_edge

    options = {
        "verify": (bundle_folder, "--provider", provider),
        "train": ("--dataset", "digits", "--device", device),
    }
    done = mnist_edge(command, *options[command], cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (done.code, done.out) == (4, "")
    assert "CUDA" in one_line(done.err)


@pytest.fixture
def matmul() -> Iterator[Any]:
    """PyTorch's settings of products on CUDA, restored afterwards."""
    found = torch.backends.cuda.matmul
    names = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = {name: getattr(found, name) for name in names}
    yield found
    for name, value in before.items():
        setattr(found, name, value)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_gpu_stays_within_the_bounds_of_a_certificate(
    arithmetic: ArithmeticName, device: DeviceName, matmul: Any
) -> None:
    """Of binary32, and of the formats that tensor cores multiply in; at batch sizes with kernels of their own."""
    matmul.allow_tf32 = arithmetic == "tf32"
    # Otherwise parts of a sum may be added in 16 bits.
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(arithmetic, torch.float32)
    chain, inputs = net(0, (784, 600, 400, 200, 100, 10)), pixels(0, 256, 784)
    bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
    largest = 0.0
    for batch in (1, 8, 256):
        values = torch.tensor(inputs[:batch], device=device).to(dtype)
        for layer in chain.layers:
            weight, bias = (torch.tensor(value, device=device).to(dtype) for value in (layer.weight, layer.bias))
            values = torch.nn.functional.linear(values, weight, bias)
            values = values.relu() if layer.relu else values
        apart = np.abs(values.float().cpu().numpy() - bounds.logits[:batch]) / bounds.errors[:batch]
        assert (apart <= 1).all()
        largest = max(largest, float(apart.max()))
    assert largest > 1e-6  # it was compared with what this arithmetic computes
