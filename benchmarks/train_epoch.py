"""Seconds of one epoch of the recipe `seed` on MNIST: ours, the seed's own loop, and the products alone.

Ours is a whole call of `training.loop.train` for one epoch. The seed's loop is its code to the
letter: torchvision's MNIST, a transform for each image, a DataLoader, autograd and `sgd_update`.
The floor is a bare loop over the 14 matrix products of a batch-64 step: 5 forward, 5 for the
weights' gradients, 4 for the inputs'. All three take turns in one process with the same threads.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST

from benchmarks.common import mnist_folder, pairs, report, row, take_turns, target
from mnist_edge.contract import CLASSES, PIXELS, WIDTHS
from mnist_edge.data.sources import load_dataset
from mnist_edge.records import Dataset
from mnist_edge.training.loop import Hooks, new_run, train
from mnist_edge.training.recipes import settings_for

BATCH = 64


def our_epoch(dataset: Dataset) -> float:
    """Seconds of one epoch of the recipe `seed`, preparing the images included."""
    run = new_run(settings_for("seed", dataset="mnist", train_images=len(dataset.train_images), epochs=1))
    started = time.perf_counter()
    train(run, dataset, torch.device("cpu"), Hooks(save=lambda _checkpoint: None))
    return time.perf_counter() - started


class SeedLoop:
    """The seed's training, from docs/seed.md; only `download` is off, as the images are there."""

    def __init__(self) -> None:
        self.net = nn.Sequential(
            nn.Linear(784, 600),
            nn.ReLU(),
            nn.Linear(600, 400),
            nn.ReLU(),
            nn.Linear(400, 200),
            nn.ReLU(),
            nn.Linear(200, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )
        train_set = MNIST(str(mnist_folder()), train=True, transform=data_tf, download=False)
        self.train_data: DataLoader[Any] = DataLoader(train_set, batch_size=BATCH, shuffle=True)
        self.criterion = nn.CrossEntropyLoss()
        self.losses1: list[Any] = []
        self.idx = 0

    def epoch(self) -> float:
        """Seconds of one pass over the training set."""
        started = time.perf_counter()
        train_loss = 0
        for im, label in self.train_data:
            im.float().requires_grad_()
            label.float().requires_grad_()
            out = self.net(im)
            loss = self.criterion(out, label)
            self.net.zero_grad()
            loss.backward()
            sgd_update(self.net.parameters(), 1e-2)
            train_loss += loss.data.numpy()
            if self.idx % 30 == 0:
                self.losses1.append(loss.data.numpy())
            self.idx += 1
        return time.perf_counter() - started


def data_tf(picture: Any) -> Tensor:
    """The seed's transform of one image."""
    x = np.array(picture, dtype="float32") / 255
    x = (x - 0.5) / 0.5
    x = x.reshape((-1,))
    return torch.from_numpy(x)


def sgd_update(parameters: Any, lr: float) -> None:
    """The seed's update."""
    for param in parameters:
        param.data = param.data - lr * param.grad.data


def floor_epoch(images: int) -> float:
    """Seconds of the matrix products of one epoch, and of nothing else."""
    sizes = (PIXELS, *WIDTHS, CLASSES)
    entered = [torch.randn(BATCH, size) for size in sizes]
    deltas = [torch.randn(BATCH, size) for size in sizes]
    weights = [torch.randn(fan_out, fan_in) for fan_in, fan_out in pairwise(sizes)]
    outputs, below = [torch.empty_like(x) for x in entered], [torch.empty_like(x) for x in entered]
    gradients = [torch.empty_like(weight) for weight in weights]
    started = time.perf_counter()
    for _ in range(math.ceil(images / BATCH)):
        for i, weight in enumerate(weights):
            torch.mm(entered[i], weight.t(), out=outputs[i + 1])
            torch.mm(deltas[i + 1].t(), entered[i], out=gradients[i])
            if i:
                torch.mm(deltas[i + 1], weight, out=below[i])
    return time.perf_counter() - started


def main(rounds: int = 3) -> None:
    """Measure and report."""
    dataset, seed_loop = load_dataset("mnist", mnist_folder()), SeedLoop()
    contenders = {
        "ours": lambda: our_epoch(dataset),
        "seed": seed_loop.epoch,
        "floor": lambda: floor_epoch(len(dataset.train_images)),
    }
    seconds = take_turns(contenders, rounds)
    report(
        "train_epoch",
        measured=f"{__doc__} {torch.get_num_threads()} threads.",
        rows=[
            row("mnist-edge, recipe seed", "s an epoch", seconds["ours"]),
            row("the seed's loop", "s an epoch", seconds["seed"]),
            row("the 14 matrix products alone", "s an epoch", seconds["floor"]),
        ],
        targets=[
            target("the seed's loop / ours", pairs(seconds["seed"], seconds["ours"]), at_least=2.5),
            target("ours / the products alone", pairs(seconds["ours"], seconds["floor"])),
        ],
    )


if __name__ == "__main__":
    main()
