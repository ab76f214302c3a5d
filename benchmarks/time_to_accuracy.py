"""Test accuracy of the default recipe on MNIST for five seeds, and what it costs beside the seed's 100 epochs.

Before each training, one epoch of the seed's own loop (see train_epoch.py) is timed in the same
process. The seed's whole run was not made: its 100 epochs are extrapolated as 100 times that epoch.
"""

from __future__ import annotations

import time

import torch

from benchmarks.common import mnist_folder, pairs, report, row, take_turns, target
from benchmarks.train_epoch import SeedLoop
from mnist_edge.data.sources import load_dataset
from mnist_edge.training.loop import Hooks, new_run, train
from mnist_edge.training.model import accuracy
from mnist_edge.training.recipes import settings_for

SEEDS = (0, 1, 2, 3, 4)
SEED_EPOCHS = 100


def main(seeds: tuple[int, ...] = SEEDS, epochs: int | None = None) -> None:
    """Measure and report; `epochs` None is the recipe's own number."""
    dataset, seed_loop = load_dataset("mnist", mnist_folder()), SeedLoop()
    left, accuracies = list(seeds), []

    def ours() -> float:
        settings = settings_for("fast", dataset="mnist", train_images=60_000, seed=left.pop(0), epochs=epochs)
        run = new_run(settings)
        started = time.perf_counter()
        train(run, dataset, torch.device("cpu"), Hooks(save=lambda _checkpoint: None))
        seconds = time.perf_counter() - started
        accuracies.append(accuracy(run.model, dataset.test_images, dataset.test_labels))
        return seconds

    seconds = take_turns({"one epoch of the seed's loop": seed_loop.epoch, "ours": ours}, len(seeds))
    hundred = [SEED_EPOCHS * epoch for epoch in seconds["one epoch of the seed's loop"]]
    mean = sum(accuracies) / len(accuracies)
    report(
        "time_to_accuracy",
        measured=f"{__doc__} {torch.get_num_threads()} threads; seeds {', '.join(map(str, seeds))}, one a round.",
        rows=[
            row("mnist-edge, recipe fast, training", "s", seconds["ours"]),
            row("the seed's loop, one epoch", "s", seconds["one epoch of the seed's loop"]),
            row("the seed's loop, 100 epochs, extrapolated", "s", hundred),
            row("test accuracy", "of 1", accuracies),
        ],
        targets=[
            target("mean test accuracy", [mean], at_least=0.984),
            target("ours / the seed's 100 epochs", pairs(seconds["ours"], hundred), at_most=1 / 30),
        ],
    )


if __name__ == "__main__":
    main()
