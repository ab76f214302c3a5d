"""The logic around a CUDA graph, with a stand-in that records work and does it on each replay, as a graph does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mnist_edge.ranks import Rank
from mnist_edge.records.data import Dataset
from mnist_edge.training.cuda_graph import EAGER_STEPS, GraphStep
from mnist_edge.training.feed import Feed
from mnist_edge.training.model import build_model
from mnist_edge.training.recipes import Recipe, find_recipe
from mnist_edge.training.step import WrittenStep, momentum_of

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class FakeGraph:
    """Counts captures and replays; a capture does no work, a replay does all of it into the same place."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captures += 1
        result = torch.full((), torch.nan)

        def replay() -> None:
            self.replays += 1
            result.copy_(work())

        return replay, result


def trained(
    recipe: Recipe, digits: Dataset, capture: Capture | None, epochs: int = 2, device: str = "cpu"
) -> tuple[list[float], list[Tensor]]:
    """Losses and parameters after training on the digits, with a rate that changes at every step."""
    torch.manual_seed(0)
    model = build_model((24, 16)).to(device)
    step = WrittenStep(model, recipe, momentum_of(model, recipe, {}))
    take = step if capture is None else GraphStep(step, recipe.batch_size, capture)
    chosen = torch.arange(len(digits.train_images))
    feed = Feed(digits.train_images, digits.train_labels, chosen, recipe, torch.device(device), Rank())
    sampler = torch.Generator().manual_seed(1)
    losses = [
        take(pixels, targets, 0.05 / (1 + number))
        for _ in range(epochs)
        for number, (pixels, targets) in enumerate(feed.epoch(sampler, from_step=0))
    ]
    return [float(loss) for loss in losses], [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.01}], ids=str)
def test_replayed_steps_are_the_eager_ones(changes: dict[str, float], digits: Dataset) -> None:
    """Every loss and weight is that of eager steps: each replay learns from its own batch at its own rate."""
    recipe = dataclasses.replace(find_recipe("seed"), **changes)
    graph = FakeGraph()
    losses, weights = trained(recipe, digits, graph.capture)
    expected_losses, expected_weights = trained(recipe, digits, None)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for found, expected in zip(weights, expected_weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(set(losses)) == len(losses)  # each is kept, not the place that the next one overwrites


def test_one_capture_serves_all_full_batches(digits: Dataset) -> None:
    """The first steps and the short last batch of an epoch are eager; all others replay one graph."""
    graph = FakeGraph()
    losses, _ = trained(find_recipe("seed"), digits, graph.capture)
    full = 2 * (len(digits.train_images) // 64)
    assert len(losses) == full + 2
    assert graph.captures == 1
    assert graph.replays == full - EAGER_STEPS
