"""Seconds of an epoch of plain SGD on MNIST, shared among two processes and not, at growing batch sizes.

Each is `mnist-edge train --recipe seed --epochs 2` in a child process; the seconds an epoch are what it tells. One
process has one thread or two; two processes have one thread each, and add up their gradients over loopback (gloo).
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import MNIST_EDGE, pairs, report, row, run_child, take_turns, target

BATCHES = (64, 1024, 8192)
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


def epoch_seconds(batch: int, processes: int, threads: int) -> float:
    """Seconds an epoch, as the command tells them."""
    options = ["--recipe", "seed", "--epochs", "2", "--batch-size", str(batch), "--run", "run", "--json"]
    command = ["env", f"OMP_NUM_THREADS={threads}", MNIST_EDGE, "train", "--dataset", "mnist"]
    with tempfile.TemporaryDirectory() as scratch:
        child = run_child([*command, *options, "--processes", str(processes)], Path(scratch))
    return float(json.loads(child.output)["seconds_per_epoch"])


def main(rounds: int = 3) -> None:
    """Measure and report."""
    contenders = {
        f"batch {batch}, {name}": partial(epoch_seconds, batch, *way) for batch in BATCHES for name, way in WAYS.items()
    }
    seconds = take_turns(contenders, rounds)
    one, threads, two = WAYS
    report(
        "processes",
        measured=str(__doc__),
        rows=[row(name, "s an epoch", values) for name, values in seconds.items()],
        targets=[
            target(f"batch {batch}: {other} / two processes", pairs(seconds[f"batch {batch}, {other}"], shared))
            for batch in BATCHES
            for shared in [seconds[f"batch {batch}, {two}"]]
            for other in (one, threads)
        ],
    )


if __name__ == "__main__":
    main()
