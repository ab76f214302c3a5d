"""Training on a CUDA device: seconds an epoch and losses against the CPU's, and test accuracy of `fast` and `best`.

Each is `mnist-edge train --json` on MNIST in a child process. Seconds are of training alone, as the command reports
them; the first epoch includes the start of CUDA. Losses are means over an epoch, as history.csv records them.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import MNIST_EDGE, report, row, run_child, target

FAST_SEEDS = (0, 1, 2)
BEST_SEEDS = (0,)


@dataclass(frozen=True)
class Training:
    """A finished run: test accuracy of 1, and seconds and mean loss of every epoch."""

    accuracy: float
    seconds: list[float]
    losses: list[float]


def trained(folder: Path, recipe: str, device: str, seed: int) -> Training:
    """Train in a child process."""
    run = f"{recipe}-{device}-{seed}"
    options = ["--recipe", recipe, "--device", device, "--seed", str(seed), "--run", run, "--json"]
    done = json.loads(run_child([MNIST_EDGE, "train", "--dataset", "mnist", *options], folder).output)
    if done["device"] == "cpu" and device != "cpu":
        raise RuntimeError(f"{device} was requested, {done['device']} trained")
    with (folder / run / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    found = Training(
        done["test_accuracy"], [float(line["seconds"]) for line in history], [float(line["loss"]) for line in history]
    )
    print(f"  {run}: {found.accuracy:.4f} in {sum(found.seconds):.1f} s", file=sys.stderr, flush=True)
    return found


def main(fast_seeds: tuple[int, ...] = FAST_SEEDS, best_seeds: tuple[int, ...] = BEST_SEEDS) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fast = [trained(folder, "fast", "cuda", seed) for seed in fast_seeds]
        on_cpu = trained(folder, "fast", "cpu", fast_seeds[0])
        best = [trained(folder, "best", "cuda", seed) for seed in best_seeds]
    differences = [abs(ours / theirs - 1) for ours, theirs in zip(fast[0].losses, on_cpu.losses, strict=True)]
    cpu_epoch = sum(on_cpu.seconds) / len(on_cpu.seconds)
    later = [second for training in fast for second in training.seconds[1:]]
    report(
        "cuda_training",
        measured=f"{__doc__} Recipe fast with seeds {fast_seeds}, recipe best with {best_seeds}.",
        rows=[
            row("fast on CUDA, first epoch", "s", [training.seconds[0] for training in fast]),
            row("fast on CUDA, later epochs", "s an epoch", later),
            row("fast on CUDA, all epochs", "s", [sum(training.seconds) for training in fast]),
            row("fast on the CPU", "s an epoch", on_cpu.seconds),
            row("fast on CUDA, test accuracy", "of 1", [training.accuracy for training in fast]),
            row("fast on the CPU, test accuracy", "of 1", [on_cpu.accuracy]),
            row("loss against the CPU's, by epoch", "relative", differences),
            *([row("best on CUDA, all epochs", "s", [sum(one.seconds) for one in best])] if best else []),
            *([row("best on CUDA, test accuracy", "of 1", [one.accuracy for one in best])] if best else []),
        ],
        targets=[
            target("first epoch: relative difference of the loss", differences[:1], at_most=0.01),
            target("epoch on the CPU / epoch on CUDA", [cpu_epoch / second for second in later]),
        ],
    )


if __name__ == "__main__":
    main()
