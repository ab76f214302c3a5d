"""What `train` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import (
    DatasetName,
)
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One finished epoch.

    Attributes:
        loss: mean over its batches.
        holdout_accuracy: on the held-out split; None without one.
        learning_rate: of its last step; None in checkpoints of version 0.1.0.
    """

    epoch: int
    loss: float
    holdout_accuracy: float | None
    learning_rate: float | None = None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How a network was trained, from its checkpoint.

    Attributes:
        network: its layers in one phrase.
        recipe: every setting, by name.
        environment: device, threads, CPU capability and version of torch.
        history: one record per finished epoch; of a long run, evenly spaced ones and the last.
        loss: step and training loss, averaged over neighbours in a long run.
        command: that trains the same again; empty where a recipe of the user's own or a folder of images is needed.
    """

    network: str
    seed: int
    recipe: dict[str, Any]
    environment: dict[str, Any]
    history: tuple[EpochRecord, ...]
    loss: tuple[tuple[int, float], ...]
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainReport(Report):
    """What `train` did. Accuracy is a fraction of 1; seconds are of training alone."""

    schema: ClassVar[str] = "mnist-edge/train/1"
    run: Path
    checkpoint: Path
    dataset: DatasetName
    recipe: str
    epochs: int
    test_accuracy: float
    seconds: float
    seconds_per_epoch: float
    device: str
