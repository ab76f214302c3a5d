"""Test accuracy and file size of every student on MNIST: recipe `student-best`, means over three seeds.

Each is `mnist-edge train --student NAME --recipe student-best --seed N` and `mnist-edge export --run RUN` in child
processes. Shapes and recipe were chosen on images held out of the training set; the test set is looked at once, for the
figures that are reported here. Bytes are those of the whole ONNX file, accuracy is that of the file in onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import MNIST_EDGE, report, row, run_child, target, train_or_continue, trained_on

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Goal:
    """What a student must reach: bytes of the file at most, accuracy that it must have, and that is hoped for."""

    bytes: int
    must: float
    goal: float


GOALS: dict[str, Goal | None] = {
    "fast": None,
    "3k": Goal(5_000, 0.990, 0.992),
    "6k": Goal(8_000, 0.993, 0.9945),
    "12k": Goal(12_300, 0.994, 0.995),
    "40k": Goal(40_000, 0.9945, 0.996),
}


@dataclass(frozen=True)
class Trained:
    """A student of one seed: test accuracy (of 1) and bytes of its file, seconds of its training."""

    accuracy: float
    bytes: int
    seconds: float


def train_one(student: str, seed: int, recipe: str, device: str, folder: Path) -> Trained:
    """Train and export one student; a run that the folder holds already is continued."""
    run, bundle = f"student-{student}-{seed}", f"bundle-{student}-{seed}"
    settings = ["--student", student, "--recipe", recipe, "--seed", str(seed), "--run", run]
    trained = train_or_continue(folder, run, [*settings, "--device", device])
    exported = json.loads(run_child([MNIST_EDGE, "export", "--run", run, "--output", bundle, "--json"], folder).output)
    variant = exported["variants"][0]
    print(f"  {student}, seed {seed}: {variant['accuracy']:.4f}, {variant['bytes']} bytes", file=sys.stderr, flush=True)
    return Trained(accuracy=variant["accuracy"], bytes=variant["bytes"], seconds=trained["seconds"])


def rows_and_targets(student: str, found: list[Trained]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of one student, and its targets, where it has any."""
    accuracies = [one.accuracy for one in found]
    rows = [
        row(f"student-{student}, test accuracy", "of 1", accuracies),
        row(f"student-{student}, ONNX file", "bytes", [one.bytes for one in found]),
        row(f"student-{student}, training", "s", [one.seconds for one in found]),
    ]
    mean, goal = [statistics.mean(accuracies)], GOALS[student]
    if goal is None:
        return rows, [target(f"student-{student}, mean accuracy", mean)]
    return rows, [
        target(f"student-{student}, mean accuracy, must", mean, at_least=goal.must),
        target(f"student-{student}, mean accuracy, goal", mean, at_least=goal.goal),
        target(f"student-{student}, largest file", [max(one.bytes for one in found)], at_most=goal.bytes),
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; seconds then mean little")
    parser.add_argument("--recipe", default="student-best")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; those that it holds are continued")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.runs or Path(scratch)
        work = {
            (student, seed): pool.submit(train_one, student, seed, options.recipe, options.device, folder)
            for student in reversed(GOALS)  # the longest first
            for seed in SEEDS
        }
        found = {student: [work[student, seed].result() for seed in SEEDS] for student in GOALS}
        devices = trained_on(folder)
    rows, targets = [], []
    for student, trained in found.items():
        more_rows, more_targets = rows_and_targets(student, trained)
        rows += more_rows
        targets += more_targets
    how = f"Recipe {options.recipe}, seeds {', '.join(map(str, SEEDS))}, {options.jobs} trainings at a time, on {devices}."
    report("students", measured=f"{__doc__} {how}", rows=rows, targets=targets)


if __name__ == "__main__":
    main()
