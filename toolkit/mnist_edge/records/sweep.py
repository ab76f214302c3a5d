"""What `sweep` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import (
    DatasetName,
)
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One setting of a sweep.

    Attributes:
        rank: 1 is the best; 0 while the sweep is under way.
        holdout_accuracy: mean over the seeds, 0 to 1; None where the trial failed.
        accuracies: of each seed, in the order of the seeds.
        seconds: of training and judging, all seeds together.
        failure: why it cannot be judged; empty where it can.
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
    """What `sweep` found, best setting first; accuracy is that on `holdout_images` held out of the training set.

    Attributes:
        trials: those finished, by whichever worker; failed ones last.
        running: trials that other workers have in hand.
        command: trains the best setting on its own; empty where no trial could be judged.
    """

    schema: ClassVar[str] = "mnist-edge/sweep/1"
    study: Path
    dataset: DatasetName
    recipe: str
    epochs: int
    holdout_images: int
    seeds: tuple[int, ...]
    trials: tuple[SweepTrial, ...]
    running: int
    command: str
