"""Students: rounded weights, batch normalisation and steps against PyTorch's own; runs that resume bit for bit."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint import made
from test_checkpoint_content import content_of, replaced, signed
from test_cuda_graph import FakeGraph
from test_resume import assert_same_end, trained
from torch import Tensor, nn

from mnist_edge.cli.app import app
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.ranks import ALONE
from mnist_edge.records.data import Dataset
from mnist_edge.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from mnist_edge.training.cuda_graph import GraphStep
from mnist_edge.training.feed import Feed
from mnist_edge.training.loop import continued_run, new_run
from mnist_edge.training.model import reference_logits
from mnist_edge.training.network import deployed_accuracy
from mnist_edge.training.qat import deployed_network, quantise, rounded
from mnist_edge.training.recipes import Settings, find_recipe, settings_for
from mnist_edge.training.state_dict import read_model
from mnist_edge.training.step import momentum_of
from mnist_edge.training.student import AVERAGING, EPSILON, HiddenLayer, Student, quantised_network
from mnist_edge.training.student_shape import STUDENTS, LayerShape, StudentShape
from mnist_edge.training.student_step import StudentStep

TINY = StudentShape(name="3k", convs=((8, 7, 5), (4, 1, 1), (8, 5, 1)), bits=(4, 8, 2, 4))
"""Every number of bits, kernels of one pixel and of the whole feature map; 5x5 outputs, then 1x1."""


def settings_of(shape: StudentShape = TINY, **changes: Any) -> Settings:
    given = {"epochs": 3, "batch_size": 128, **changes}
    return settings_for("student", dataset="digits", train_images=1437, widths=(), student=shape, **given)


def student(shape: StudentShape = TINY, seed: int = 0) -> Student:
    """A student whose running statistics and factors are those of no fresh one."""
    torch.manual_seed(seed)
    model = Student(shape)
    for key, value in model.state_dict().items():
        if not key.endswith(".weight"):
            value.copy_(torch.rand_like(value) + (0.5 if key.endswith(("variance", "gain")) else -0.5))
    return model


def test_every_student_has_the_size_of_its_name() -> None:
    """Weights, scales and biases take about the kilobytes that the name promises; no shape is one that is refused."""
    for name, shape in STUDENTS.items():
        assert shape.problem() is None
        assert shape.name == name
        if name != "fast":
            assert shape.weight_bytes == pytest.approx(1000 * int(name.removesuffix("k")), rel=0.35)
    assert STUDENTS["3k"].weight_bytes == (16 * 49 + 16 * 16 * 9 + 28 * 16 * 9 + 10 * 28) // 2 + 4 * (16 + 16 + 28 + 10)


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("convs", {"convs": (), "bits": (4,)}),
    ("convs", {"convs": ((6, 5, 3),) * 9}),
    ("convs", {"convs": ((6, 29, 1), (4, 1, 1), (8, 5, 1))}),
    ("convs", {"convs": ((6, 5, 0), (4, 1, 1), (8, 5, 1))}),
    ("convs", {"convs": ((2**40, 5, 3), (4, 1, 1), (8, 5, 1))}),
    ("convs", {"convs": ((6, 5, 8), (4, 3, 1), (8, 2, 1))}),
    ("convs", {"convs": ((9, 7, 5), (4, 1, 1), (8, 5, 1))}),
    ("bits", {"bits": (4, 8, 2)}),
    ("bits", {"bits": (4, 8, 3, 4)}),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_a_shape_that_no_student_can_have_is_named(tmp_path: Path, case: int) -> None:
    """Kernels beyond the image, strides of 0, missing bits: found in a checkpoint with a valid hash, before any use."""
    field, changes = WRONG[case]
    metadata, tensors = content_of(save_checkpoint(tmp_path, checkpoint()))
    for key, value in changes.items():
        metadata = replaced(metadata, f"settings.student.{key}", value)
    with pytest.raises(BadFileError, match=rf"settings\.student\.{field} is "):
        load_checkpoint(signed(tmp_path / LAST, metadata, tensors))


def test_rows_are_rounded_to_integers_with_a_scale_each() -> None:
    """By hand: the largest weight of a row becomes 7, and 1 at two bits; the gradient passes as if nothing was rounded."""
    weight = torch.tensor([[0.7, -0.36, 0.1, 0.04], [-1.4, 0.29, 0.0, 1.0]], requires_grad=True)
    integers, scale = quantise(weight.detach(), 4)
    assert integers.tolist() == [[7, -4, 1, 0], [-7, 1, 0, 5]]
    assert scale.flatten().tolist() == pytest.approx([0.1, 0.2])
    assert quantise(weight.detach(), 2)[0].tolist() == [[1, -1, 0, 0], [-1, 0, 0, 1]]
    assert quantise(torch.zeros(1, 3), 4)[0].tolist() == [[0, 0, 0]]
    deployed = rounded(weight, 4)
    assert deployed.flatten().tolist() == pytest.approx([0.7, -0.4, 0.1, 0, -1.4, 0.2, 0, 1])
    gradient = torch.arange(8.0).reshape(2, 4)
    deployed.backward(gradient)
    assert torch.equal(weight.grad, gradient)


def reference_layer(layer: HiddenLayer) -> nn.Sequential:
    """The same layer of PyTorch's own modules, its weight rounded by hand."""
    outputs, inputs, kernel, _ = layer.weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, layer.stride, bias=False)
    most = 2 ** (layer.bits - 1) - 1
    scale = layer.weight.detach().abs().reshape(outputs, -1).max(dim=1).values[:, None, None, None] / most
    conv.weight.data = (layer.weight.detach() / scale).round() * scale
    norm = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=AVERAGING)
    norm.load_state_dict({
        "weight": layer.gain, "bias": layer.shift, "running_mean": layer.mean.clone(),
        "running_var": layer.variance.clone(), "num_batches_tracked": torch.tensor(0),
    })  # fmt: skip
    return nn.Sequential(conv, norm, nn.ReLU())


@pytest.mark.parametrize("kernel", [3, 7], ids=["convolution", "fully connected"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_that_of_pytorch(kernel: int, training: bool) -> None:
    """Activations, gradients and running statistics are those of Conv2d, BatchNorm2d and ReLU on rounded weights."""
    torch.manual_seed(1)
    ours = HiddenLayer(LayerShape(outputs=5, inputs=3, kernel=kernel, stride=2 if kernel < 7 else 1, bits=4))
    ours.mean += 0.3
    theirs = reference_layer(ours).train(training)
    values = torch.randn(9, 3, 7, 7)
    found, expected = ours.train(training)(values), theirs(values)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs[0].weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.gain.grad, theirs[1].weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.mean, theirs[1].running_mean)
    torch.testing.assert_close(ours.variance, theirs[1].running_var)


@pytest.mark.parametrize("kind", [{"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.0}], ids=str)
def test_a_step_is_nesterovs(kind: dict[str, float]) -> None:
    """Ten steps by hand, as torch.optim.SGD documents them: decay on weights alone, gradients of `backward`."""
    recipe = dataclasses.replace(find_recipe("student"), **{"weight_decay": 0.0, **kind})
    ours, theirs = student(), student().train()
    step = StudentStep(ours, recipe, momentum_of(ours, recipe, {}))
    buffers = {key: torch.zeros_like(value) for key, value in theirs.named_parameters()}
    for _ in range(10):
        pixels, labels = torch.rand(32, 784), torch.randint(10, (32,))
        loss = nn.functional.cross_entropy(theirs(pixels), labels)
        theirs.zero_grad()
        loss.backward()
        for key, value in theirs.named_parameters():
            decay = recipe.weight_decay if key.endswith(".weight") else 0.0
            gradient = value.grad + decay * value.detach()
            buffers[key] = recipe.momentum * buffers[key] + gradient
            value.data -= 0.1 * (gradient + recipe.momentum * buffers[key])
        found = step(pixels, nn.functional.one_hot(labels, 10).float(), 0.1)
        torch.testing.assert_close(found, loss.detach())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key, rtol=1e-4, atol=1e-5)


def test_the_deployed_network_is_the_trained_one(digits: Dataset) -> None:
    """Scales and biases in float16, the factor of the pixels and batch normalisation within them: nearly equal logits."""
    model = student().eval()
    pixels = torch.from_numpy(digits.test_images).flatten(1).float() / 255
    with torch.no_grad():
        expected = model(pixels).numpy()
    deployed = deployed_network(quantised_network(model))
    found = reference_logits(deployed, digits.test_images, normalization="raw")
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()
    assert [type(layer).__name__ for layer in deployed] == [
        "Unflatten", "Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "Flatten",
    ]  # fmt: skip


def test_integers_and_float16_are_all_that_is_deployed() -> None:
    """Every layer keeps to its bits, and no scale is below float16's smallest normal number."""
    network = quantised_network(student())
    for layer, shape in zip(network.layers, TINY.layers(), strict=True):
        most = 2 ** (shape.bits - 1) - 1
        assert (layer.integers.dtype, layer.scale.dtype, layer.bias.dtype) == (np.int8, np.float16, np.float16)
        assert np.abs(layer.integers).max() == most
        assert np.abs(layer.scale).min() > np.finfo(np.float16).smallest_normal
        assert layer.integers.shape == (shape.outputs, shape.inputs, shape.kernel, shape.kernel)


def test_a_batch_of_one_image_trains() -> None:
    """Its hidden layer has one value per channel, which has no variance: it is normalised as in use."""
    model = student()
    recipe = find_recipe("student")
    loss = StudentStep(model, recipe, momentum_of(model, recipe, {}))(torch.rand(1, 784), torch.eye(10)[:1], 0.1)
    assert bool(loss.isfinite())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_a_captured_step_trains_as_an_eager_one() -> None:
    """Replayed as a CUDA graph, the steps end at the same weights, momentum and running statistics."""
    recipe = dataclasses.replace(find_recipe("student"), batch_size=16)
    ends = []
    for graph in (None, FakeGraph()):
        model, generator = student(), torch.Generator().manual_seed(0)
        step = StudentStep(model, recipe, momentum_of(model, recipe, {}))
        step_on = step if graph is None else GraphStep(step, 16, graph.capture)
        for rows in (16, 16, 16, 16, 16, 7, 16):
            pixels, labels = torch.rand(rows, 784, generator=generator), torch.arange(rows) % 10
            step_on(pixels, torch.eye(10)[labels], 0.05)
        ends.append([*model.state_dict().values(), *step.momentum.values()])
    assert graph.replays > 0
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_the_last_epochs_may_be_undistorted(digits: Dataset) -> None:
    """Without distortion every pixel is that of its image; the recipe states from which epoch on."""
    recipe = dataclasses.replace(find_recipe("student"), epochs=20, undistorted=0.1, batch_size=100)
    assert [epoch for epoch in range(20) if not recipe.distorts(epoch)] == [18, 19]
    assert dataclasses.replace(recipe, undistorted=0.0).distorts(19)
    images, labels = digits.train_images[:250], digits.train_labels[:250]
    for given in (recipe, dataclasses.replace(recipe, rotation=0, scaling=0, shear=0, elastic=0, shift=2)):
        feed = Feed(images, labels, torch.arange(250), given, torch.device("cpu"), ALONE, "unit")
        plain, distorted = (
            torch.cat([pixels for pixels, _ in feed.epoch(torch.Generator().manual_seed(3), 0, distort=distort)])
            for distort in (False, True)
        )
        order = torch.randperm(250, generator=torch.Generator().manual_seed(3))
        assert torch.equal(plain, torch.from_numpy(images)[order].flatten(1).float() / 255)
        assert not torch.equal(plain, distorted)


def test_a_run_keeps_to_its_undistorted_epochs(tmp_path: Path, digits: Dataset) -> None:
    """With a share of 1 it trains as if the recipe shifted nothing, to the last bit."""
    plain = dataclasses.replace(settings_of(epochs=1).recipe, rotation=0, scaling=0, shear=0, elastic=0, shift=0)
    ends = []
    for name, recipe in (("never", dataclasses.replace(plain, shift=2, undistorted=1.0)), ("none", plain)):
        run = new_run(dataclasses.replace(settings_of(), recipe=recipe))
        assert trained(run, digits, tmp_path / name)
        ends.append(run.model.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


@pytest.mark.parametrize("stops", [{1}, {11, 12}, {5, 22, 30}], ids=str)
def test_a_stopped_student_goes_on_bit_for_bit(tmp_path: Path, digits: Dataset, stops: set[int]) -> None:
    """Weights, momentum and running statistics end as those of a run that nobody stopped, through undistorted epochs."""
    settings = dataclasses.replace(settings_of(), recipe=dataclasses.replace(settings_of().recipe, undistorted=0.4))
    assert trained(new_run(settings), digits, tmp_path / "whole")
    run = new_run(settings)
    while not trained(run, digits, tmp_path / "parts", frozenset(stops)):
        run = continued_run(load_checkpoint(tmp_path / "parts" / LAST))
    ends = [load_checkpoint(tmp_path / name / LAST) for name in ("parts", "whole")]
    assert_same_end(*ends)
    assert all(value.dtype == torch.float32 for value in ends[0].weights.values())


def checkpoint(shape: StudentShape = TINY) -> Any:
    """A student's checkpoint with something in every field."""
    model = student(shape)
    momentum = {key: torch.randn_like(value) for key, value in model.named_parameters()}
    return dataclasses.replace(
        made(), settings=settings_of(shape), weights=model.state_dict(), momentum=momentum,
    )  # fmt: skip


TENSORS: list[tuple[str, Callable[[Tensor], Tensor | None]]] = [
    ("model.0.weight", lambda value: value[:, :, :-1]),
    ("model.0.weight", lambda value: value.flatten(1)),
    ("model.0.mean", lambda value: value[:-1]),
    ("model.1.variance", lambda value: -value),
    ("model.1.variance", lambda _value: None),
    ("model.2.gain", lambda value: value.double()),
    ("model.3.mean", lambda _value: torch.zeros(10)),
    ("momentum.0.weight", lambda value: value[:-1]),
    ("momentum.0.mean", lambda _value: torch.zeros(8)),
    ("momentum.3.bias", lambda _value: torch.zeros(2**16)),
    ("model.0.num_batches_tracked", lambda _value: torch.tensor(3)),
]


@pytest.mark.parametrize("case", range(len(TENSORS)))
def test_a_tensor_of_no_such_student_is_refused_by_name(tmp_path: Path, case: int) -> None:
    """Shapes, dtypes and signs of weights, statistics and momentum are checked although the hash is right."""
    name, change = TENSORS[case]
    metadata, tensors = content_of(save_checkpoint(tmp_path, checkpoint()))
    tensors[name] = change(tensors.get(name, torch.zeros(())))
    kept = {key: value for key, value in tensors.items() if value is not None}
    with pytest.raises(BadFileError, match=name.removeprefix("model.")):
        load_checkpoint(signed(tmp_path / LAST, metadata, kept))


def test_settings_of_no_student_are_refused(tmp_path: Path) -> None:
    """An unknown name or setting: the field is named."""
    metadata, tensors = content_of(save_checkpoint(tmp_path, checkpoint()))
    for field, value in (
        ("student.name", "7k"),
        ("student.dropout", 0.5),
        ("student", "6k"),
        ("student.convs", [[6, 5]]),
    ):
        with pytest.raises(BadFileError, match=field.rsplit(".", maxsplit=1)[-1]):
            load_checkpoint(signed(tmp_path / LAST, replaced(metadata, f"settings.{field}", value), tensors))


def test_a_perceptron_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Checkpoints from before students were known have neither their shape nor a share of undistorted epochs."""
    metadata, tensors = content_of(save_checkpoint(tmp_path, made()))
    before = copy.deepcopy(metadata)
    del before["settings"]["student"], before["settings"]["recipe"]["undistorted"]
    assert load_checkpoint(signed(tmp_path / LAST, before, tensors)).settings == made().settings


def test_a_student_whose_scales_exceed_float16_is_a_bad_file(tmp_path: Path) -> None:
    """A crafted checkpoint does not become a network of infinite weights."""
    crafted = checkpoint()
    crafted.weights["1.gain"] = torch.full_like(crafted.weights["1.gain"], 1e30)
    with pytest.raises(BadFileError, match="layer 2 are beyond float16"):
        read_model(save_checkpoint(tmp_path, crafted))


def test_the_accuracy_of_a_run_is_that_of_the_deployed_network(digits: Dataset) -> None:
    """Held-out and test accuracy are counted on float16 scales and running statistics, not on a batch's own."""
    model = student()
    deployed = deployed_network(quantised_network(model))
    logits = reference_logits(deployed, digits.test_images, normalization="raw")
    expected = float((logits.argmax(axis=1) == digits.test_labels).mean())
    assert deployed_accuracy(model, digits.test_images, digits.test_labels) == expected


def here(*arguments: str | Path) -> None:
    """`mnist-edge train` in this process."""
    app(["train", "--dataset", "digits", *map(str, arguments)], standalone_mode=False)


def test_a_student_is_trained_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--student 3k` has a run folder and a recipe of its own, and resumes with the command that started it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnist_edge.reporting.plots.loss.loss_curve", lambda *_args: None)
    here("--student", "3k", "--epochs", "1")
    run = Path("runs/digits-student-3k")
    settings = load_checkpoint(run / LAST).settings
    assert (settings.student, settings.recipe.name) == (STUDENTS["3k"], "student")
    here("--student", "3k", "--resume", run, "--epochs", "2")
    assert load_checkpoint(run / LAST).progress.epoch == 2
    for option, wanted in (("--student", "6k"), ("--widths", "16")):
        with pytest.raises(UsageError, match=f"{option} {wanted}: the checkpoint has"):
            here(option, wanted, "--resume", run)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--widths", "16"), "layers of its own"),
        (("--processes", "2"), "trained by one process"),
        (("--resume", "weights.pth"), "starts from fresh weights"),
    ],
    ids=str,
)
def test_options_that_no_student_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    """Hidden widths, several processes and the weights of a perceptron: exit code 2, and no run folder."""
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": torch.zeros(10, 784), "0.bias": torch.zeros(10)}, "weights.pth")
    with pytest.raises(UsageError, match=reason):
        here("--student", "3k", *arguments)
    assert not Path("runs").exists()
