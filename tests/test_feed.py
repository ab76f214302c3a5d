"""Batches and devices: shift and label smoothing against numpy, and every tensor on the device that was chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mnist_edge.errors import UnavailableError
from mnist_edge.ranks import Rank
from mnist_edge.training import group
from mnist_edge.training.cuda_graph import EAGER_STEPS, GraphStep
from mnist_edge.training.feed import Feed
from mnist_edge.training.model import require_devices, resolve_device
from mnist_edge.training.recipes import find_recipe

META = torch.device("meta")
"""Stands in for a GPU: tensors have a shape and a device, and mix with those of the CPU as little as a GPU's do."""


def images_and_labels(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 28, 28), dtype=np.uint8), random.integers(0, 10, count, dtype=np.uint8)


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.4])
def test_shift_and_label_smoothing_are_numpys(shift: int, smoothing: float) -> None:
    """Every pixel and target of an epoch equals a reference that pads, cuts and normalises one image at a time."""
    recipe = dataclasses.replace(find_recipe("fast"), shift=shift, label_smoothing=smoothing, batch_size=7)
    images, labels = images_and_labels(40)
    feed = Feed(images, labels, torch.arange(40), recipe, torch.device("cpu"), Rank())
    batches = list(feed.epoch(torch.Generator().manual_seed(5), from_step=0))

    sampler = torch.Generator().manual_seed(5)
    order = torch.randperm(40, generator=sampler).numpy()
    shifts = torch.randint(2 * shift + 1, (2, 40), generator=sampler).numpy()
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    expected = np.stack([
        padded[image, row : row + 28, column : column + 28].reshape(784) / 127.5 - 1
        for image, row, column in zip(order, *shifts, strict=True)
    ])  # fmt: skip
    targets = np.full((40, 10), smoothing / 10)
    targets[np.arange(40), labels[order]] += 1 - smoothing
    np.testing.assert_allclose(torch.cat([pixels for pixels, _ in batches]).numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(torch.cat([wanted for _, wanted in batches]).numpy(), targets, rtol=0, atol=1e-7)
    assert [len(pixels) for pixels, _ in batches] == [7] * 5 + [5]
    assert shift == 0 or len(np.unique(shifts)) == 2 * shift + 1


@pytest.mark.parametrize("recipe", ["seed", "fast", "best"])
def test_the_whole_feed_is_on_the_device(recipe: str) -> None:
    """Images, labels and every batch: with one tensor left on the CPU, a GPU's step would fail or copy each time."""
    images, labels = images_and_labels(300)
    feed = Feed(images, labels, torch.arange(300), find_recipe(recipe), META, Rank())
    assert {feed.images.device, feed.windows.device, feed.labels.device, feed.targets.device} == {META}
    batches = list(feed.epoch(torch.Generator().manual_seed(0), from_step=0))
    assert {tensor.device for batch in batches for tensor in batch} == {META}
    assert sum(len(pixels) for pixels, _ in batches) == 300


def test_the_learning_rate_of_a_graph_is_on_the_device() -> None:
    """Eager and captured steps read it from a tensor beside the batch: a graph with one on the CPU cannot be captured."""
    rates: list[Tensor] = []

    def step(pixels: Tensor, _targets: Tensor, lr: Tensor) -> Tensor:
        rates.append(lr)
        return torch.zeros((), device=pixels.device)

    graph = GraphStep(step, 4, lambda work: (lambda: None, work()))
    pixels, targets = torch.zeros(4, 784, device=META), torch.zeros(4, 10, device=META)
    for _ in range(EAGER_STEPS + 2):
        graph(pixels, targets, 0.1)
    assert len(rates) == EAGER_STEPS + 1  # the capture is the last
    assert {rate.device for rate in rates} == {META}
    captured = graph.captured
    assert captured is not None
    assert {captured.pixels.device, captured.targets.device, captured.lr.device, captured.loss.device} == {META}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine of four GPUs as far as torch tells, and what the group was joined with."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.update(current=device))
    monkeypatch.setattr(
        group.dist, "init_process_group", lambda backend, **options: found.update(options, backend=backend)
    )
    monkeypatch.setattr(group.dist, "destroy_process_group", lambda: found.update(left=True))
    return found


def test_a_process_has_the_gpu_of_its_local_rank(
    gpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the second machine rank 6 is local rank 2: its GPU is the third, for tensors, NCCL and the group itself."""
    rank = Rank(number=6, local=2, size=8, store=tmp_path / "store")
    monkeypatch.setattr("mnist_edge.training.model.this_rank", lambda: rank)
    device = resolve_device("auto")
    assert device == torch.device("cuda", 2)
    with group.process_group(rank, device):
        pass
    assert gpus["current"] == gpus["device_id"] == torch.device("cuda", 2)
    assert gpus["backend"] == "cpu:gloo,cuda:nccl"
    assert (gpus["rank"], gpus["world_size"], gpus["left"]) == (6, 8, True)


def test_a_stop_is_agreed_on_without_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What travels every step is a CPU tensor, which gloo serves; a lost rank is one line as everywhere."""
    sent: list[Tensor] = []
    monkeypatch.setattr(group.dist, "all_reduce", lambda tensor, _operation: sent.append(tensor))
    stop = group.stop_on_any(Rank(number=1, size=2), lambda: True)
    assert stop()
    assert [tensor.device.type for tensor in sent] == ["cpu"]

    def lost(_tensor: Tensor, _operation: object) -> None:
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(group.dist, "all_reduce", lost)
    with pytest.raises(group.UnavailableError, match="rank 1 of 2 lost another process"):
        stop()


@pytest.mark.usefixtures("gpus")
def test_more_processes_than_gpus_are_refused_before_they_start() -> None:
    """On one GPU, the second of two processes failed, and the first waited for it in NCCL until it was killed."""
    require_devices("auto", 4)
    require_devices("cpu", 5)
    with pytest.raises(UnavailableError, match="5 processes need as many GPUs, and there are 4") as caught:
        require_devices("auto", 5)
    assert caught.value.hint == "--device cpu, or fewer processes"
