"""Seconds of one epoch of the recipe `seed` on MNIST: ours, the seed's own loop, autograd, and the products alone.

Ours is a whole call of `training.loop.train` for one epoch. The seed's loop is its code to the
letter: torchvision's MNIST, a transform for each image, a DataLoader, autograd and `sgd_update`.
Autograd is the same recipe on tensors that stay in memory, with torch.optim.SGD. The floor is a bare loop
over the 14 matrix products of a batch-64 step: 5 forward, 5 for the weights' gradients, 4 for the inputs'.
All take turns in one process with the same threads; where there is a GPU, all run on it.
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
from mnist_edge.records.data import Dataset
from mnist_edge.training.loop import Hooks, new_run, train
from mnist_edge.training.model import build_model, normalize_pixels
from mnist_edge.training.recipes import settings_for

BATCH = 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for_device() -> None:
    """Have everything done that a GPU was asked for."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def our_epoch(dataset: Dataset) -> float:
    """Seconds of one epoch of the recipe `seed`, preparing the images included."""
    run = new_run(settings_for("seed", dataset="mnist", train_images=len(dataset.train_images), epochs=1))
    started = time.perf_counter()
    train(run, dataset, DEVICE, Hooks(save=lambda _checkpoint: None))
    wait_for_device()
    return time.perf_counter() - started


class Autograd:
    """The recipe as most would write it: images normalised once and kept on the device, autograd, torch.optim.SGD."""

    def __init__(self, dataset: Dataset) -> None:
        self.pixels = normalize_pixels(torch.tensor(dataset.train_images).flatten(1)).to(DEVICE)
        self.labels = torch.tensor(dataset.train_labels).long().to(DEVICE)
        self.net = build_model(WIDTHS).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-2)

    def epoch(self) -> float:
        """Seconds of one pass over the training set."""
        started = time.perf_counter()
        total = torch.zeros((), device=DEVICE)
        for rows in torch.split(torch.randperm(len(self.labels), device=DEVICE), BATCH):
            loss = nn.functional.cross_entropy(self.net(self.pixels[rows]), self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        float(total)
        wait_for_device()
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
        ).to(DEVICE)
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
            out = self.net(im.to(DEVICE))
            loss = self.criterion(out, label.to(DEVICE))
            self.net.zero_grad()
            loss.backward()
            sgd_update(self.net.parameters(), 1e-2)
            train_loss += loss.data.cpu().numpy()
            if self.idx % 30 == 0:
                self.losses1.append(loss.data.cpu().numpy())
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
    entered = [torch.randn(BATCH, size, device=DEVICE) for size in sizes]
    deltas = [torch.randn(BATCH, size, device=DEVICE) for size in sizes]
    weights = [torch.randn(fan_out, fan_in, device=DEVICE) for fan_in, fan_out in pairwise(sizes)]
    outputs, below = [torch.empty_like(x) for x in entered], [torch.empty_like(x) for x in entered]
    gradients = [torch.empty_like(weight) for weight in weights]
    started = time.perf_counter()
    for _ in range(math.ceil(images / BATCH)):
        for i, weight in enumerate(weights):
            torch.mm(entered[i], weight.t(), out=outputs[i + 1])
            torch.mm(deltas[i + 1].t(), entered[i], out=gradients[i])
            if i:
                torch.mm(deltas[i + 1], weight, out=below[i])
    wait_for_device()
    return time.perf_counter() - started


def main(rounds: int = 5) -> None:
    """Measure and report."""
    dataset, seed_loop = load_dataset("mnist", mnist_folder()), SeedLoop()
    contenders = {
        "ours": lambda: our_epoch(dataset),
        "seed": seed_loop.epoch,
        "autograd": Autograd(dataset).epoch,
        "floor": lambda: floor_epoch(len(dataset.train_images)),
    }
    seconds = take_turns(contenders, rounds)
    on_gpu = DEVICE.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    report(
        "train_epoch",
        measured=f"{__doc__} On {device}.",
        rows=[
            row("mnist-edge, recipe seed", "s an epoch", seconds["ours"]),
            row("the seed's loop", "s an epoch", seconds["seed"]),
            row("autograd on resident tensors", "s an epoch", seconds["autograd"]),
            row("the 14 matrix products alone", "s an epoch", seconds["floor"]),
        ],
        targets=[
            target("the seed's loop / ours", pairs(seconds["seed"], seconds["ours"]), at_least=50 if on_gpu else 4),
            target("autograd / ours", pairs(seconds["autograd"], seconds["ours"]), at_least=5 if on_gpu else None),
            target(
                "ours / the products alone", pairs(seconds["ours"], seconds["floor"]), at_most=None if on_gpu else 1.3
            ),
        ],
    )


if __name__ == "__main__":
    main()
