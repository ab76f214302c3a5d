"""What `sweep` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import DatasetName
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One setting of a sweep.

    Attributes:
        rank: 1 is the best; 0 while the sweep is running.
        holdout_accuracy: mean over the seeds, 0 to 1; None where the trial failed.
        accuracies: one per seed, in the order of the seeds.
        seconds: of training and evaluation, all seeds together.
        failure: why training failed; empty where it did not.
    """

    rank: int
    lr: float
    batch_size: int
    widths: tuple[int, ...]
    holdout_accuracy: float | None
    accuracies: tuple[float, ...]
    seconds: float
    failure: str


@dataclass(frozen=True, kw_only=True)
class SweepReport(Report):
    """The result of `sweep`, best setting first; accuracy is on `holdout_images` images held out of the training set.

    Attributes:
        storage: where the trials are kept: a file, or a database without user and password.
        trials: finished by any worker; failed ones last.
        command: trains the best setting; empty where every trial failed.
    """

    schema: ClassVar[str] = "mnist-edge/sweep/2"
    study: Path
    storage: str
    dataset: DatasetName
    recipe: str
    epochs: int
    holdout_images: int
    seeds: tuple[int, ...]
    trials: tuple[SweepTrial, ...]
    command: str
