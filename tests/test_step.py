"""The hand-written SGD step against autograd with torch.optim.SGD, the seed's own loop, and finite differences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mnist_edge.training.model import build_model
from mnist_edge.training.recipes import Recipe, find_recipe
from mnist_edge.training.step import WrittenStep, momentum_of

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
KINDS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.01},
    "all": {"momentum": 0.9, "weight_decay": 0.01, "label_smoothing": 0.1},
}


def recipe_with(**changes: float) -> Recipe:
    return dataclasses.replace(find_recipe("seed"), **changes)


def network(widths: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return build_model(widths).to(dtype)


def batch(rows: int, recipe: Recipe, generator: torch.Generator, dtype: torch.dtype = torch.float64):
    """Random pixels from -1 to 1, their labels, and the labels as smoothed distributions."""
    pixels = torch.rand(rows, 784, generator=generator, dtype=dtype) * 2 - 1
    labels = torch.randint(10, (rows,), generator=generator)
    smoothing = recipe.label_smoothing
    targets = nn.functional.one_hot(labels, 10).to(dtype) * (1 - smoothing) + smoothing / 10
    return pixels, labels, targets


def written(model: nn.Sequential, recipe: Recipe) -> WrittenStep:
    return WrittenStep(model, recipe, momentum_of(model, recipe, {}))


def parameters_of(model: nn.Sequential) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_steps_are_those_of_autograd_and_torch_optim(kind: str, dtype: torch.dtype) -> None:
    """Parameters and losses stay with torch.optim.SGD over 100 steps with a changing rate, partial batches included."""
    recipe = recipe_with(**KINDS[kind])
    ours, theirs = network((20, 12), dtype), network((20, 12), dtype)
    step_on = written(ours, recipe)
    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=1, momentum=recipe.momentum, nesterov=bool(recipe.momentum),
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for step in range(100):
        pixels, labels, targets = batch(5 if step % 4 == 3 else 16, recipe, generator, dtype)
        lr = 0.02 + 0.0005 * step
        for group in optimizer.param_groups:
            group["lr"] = lr
        expected = nn.functional.cross_entropy(theirs(pixels), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        loss = step_on(pixels, targets, lr)
        torch.testing.assert_close(loss, expected.detach(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    start = parameters_of(network((20, 12), dtype))
    for ours_now, theirs_now, before in zip(parameters_of(ours), parameters_of(theirs), start, strict=True):
        torch.testing.assert_close(ours_now, theirs_now, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        assert (ours_now - before).abs().max() > 1e-3  # it moved far more than the tolerance


def test_the_steps_are_those_of_the_seed() -> None:
    """On the seed's own network, 100 steps equal `param - lr * param.grad` as its blog post writes it."""
    recipe, criterion = find_recipe("seed"), nn.CrossEntropyLoss()
    ours = network((600, 400, 200, 100), torch.float32)
    theirs = network((600, 400, 200, 100), torch.float32)
    step_on = written(ours, recipe)
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        pixels, labels, targets = batch(64, recipe, generator, torch.float32)
        loss = criterion(theirs(pixels), labels)
        theirs.zero_grad()
        loss.backward()
        for param in theirs.parameters():
            param.data = param.data - 1e-2 * param.grad.data
        torch.testing.assert_close(step_on(pixels, targets, 1e-2), loss.detach(), rtol=1e-5, atol=1e-6)
    for ours_now, theirs_now in zip(parameters_of(ours), parameters_of(theirs), strict=True):
        torch.testing.assert_close(ours_now, theirs_now, rtol=1e-5, atol=1e-6)


def numpy_loss(parameters: list[np.ndarray], pixels: np.ndarray, targets: np.ndarray) -> float:
    """The mean cross entropy of the perceptron from its definition, without torch."""
    values = pixels
    for index in range(0, len(parameters), 2):
        values = values @ parameters[index].T + parameters[index + 1]
        if index < len(parameters) - 2:
            values = np.maximum(values, 0)
    shifted = values - values.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(targets * log_probabilities).sum(axis=1).mean())


def test_the_gradient_is_that_of_finite_differences() -> None:
    """The way a step takes is the slope of the loss, measured by moving single parameters in numpy."""
    recipe = recipe_with(label_smoothing=0.1)
    model = network((9, 7))
    pixels, _, targets = batch(11, recipe, torch.Generator().manual_seed(3))
    before = [parameter.numpy().copy() for parameter in parameters_of(model)]
    loss = written(model, recipe)(pixels, targets, 1.0)
    assert float(loss) == pytest.approx(numpy_loss(before, pixels.numpy(), targets.numpy()), rel=1e-12)
    random = np.random.default_rng(0)
    for index, (old, new) in enumerate(zip(before, parameters_of(model), strict=True)):
        for place in random.choice(old.size, size=min(old.size, 25), replace=False):
            sides = []
            for move in (1e-6, -1e-6):
                moved = [parameter.copy() for parameter in before]
                moved[index].flat[place] += move
                sides.append(numpy_loss(moved, pixels.numpy(), targets.numpy()))
            slope = (sides[0] - sides[1]) / 2e-6
            assert float(old.flat[place] - new.numpy().flat[place]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


@settings(deadline=None, max_examples=40)
@given(
    widths=st.lists(st.integers(1, 12), max_size=4).map(tuple),
    rows=st.integers(1, 9),
    momentum=st.sampled_from([0.0, 0.5, 0.99]),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.3]),
    smoothing=st.floats(0, 0.5),
    lr=st.floats(1e-4, 0.5),
    seed=st.integers(0, 2**31),
)
def test_any_network_and_recipe_steps_as_autograd_does(
    widths: tuple[int, ...], rows: int, momentum: float, weight_decay: float, smoothing: float, lr: float, seed: int
) -> None:
    """Three steps of any depth, from no hidden layer up, equal torch.optim.SGD's."""
    recipe = recipe_with(momentum=momentum, weight_decay=weight_decay, label_smoothing=smoothing)
    ours, theirs = network(widths, seed=seed), network(widths, seed=seed)
    step_on = written(ours, recipe)
    optimizer = torch.optim.SGD(theirs.parameters(), lr, momentum, nesterov=momentum > 0, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        pixels, _, targets = batch(rows, recipe, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(pixels), targets).backward()
        optimizer.step()
        step_on(pixels, targets, lr)
    for ours_now, theirs_now in zip(parameters_of(ours), parameters_of(theirs), strict=True):
        torch.testing.assert_close(ours_now, theirs_now, rtol=1e-9, atol=1e-9)


def test_a_step_leaves_its_batch_alone() -> None:
    """Pixels and targets are the caller's; a step only reads them."""
    recipe = recipe_with(**KINDS["all"])
    pixels, _, targets = batch(8, recipe, torch.Generator().manual_seed(4))
    kept = pixels.clone(), targets.clone()
    written(network((6,)), recipe)(pixels, targets, 0.1)
    assert torch.equal(pixels, kept[0])
    assert torch.equal(targets, kept[1])
