"""Test accuracy of the recipe `best` on MNIST for three seeds, and the time of each training.

Each is `mnist-edge train --recipe best --seed N` in a child process, one after the other, with this machine's
default number of threads. The test set is looked at once, for the figure that the command prints last. Seconds
are of training alone, as the command tells them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import MNIST_EDGE, report, row, run_child, target

SEEDS = (0, 1, 2)
LIMIT_S = 15 * 60


def main(seeds: tuple[int, ...] = SEEDS) -> None:
    """Measure and report."""
    accuracies, seconds = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            options = ["--recipe", "best", "--seed", str(seed), "--run", f"seed-{seed}", "--json"]
            done = json.loads(run_child([MNIST_EDGE, "train", "--dataset", "mnist", *options], Path(scratch)).output)
            accuracies.append(done["test_accuracy"])
            seconds.append(done["seconds"])
            print(f"  seed {seed}: {accuracies[-1]:.4f} in {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    report(
        "best_accuracy",
        measured=f"{__doc__} Seeds {', '.join(map(str, seeds))}.",
        rows=[row("test accuracy", "of 1", accuracies), row("training", "s", seconds)],
        targets=[
            target("mean test accuracy", [statistics.mean(accuracies)], at_least=0.9935),
            target("seconds of the slowest training", [max(seconds)], at_most=LIMIT_S),
        ],
    )


if __name__ == "__main__":
    main()
