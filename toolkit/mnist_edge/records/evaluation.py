"""What `eval` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import (
    DatasetName,
)
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class: how many test images it has, and the shares found (recall) and right when named (precision)."""

    label: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Decisions whose probability lies in one range: how sure the model was, and how often it was right."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """Accuracy of a model on a test set.

    Attributes:
        confusion: `confusion[true][decided]` counts images.
        negative_log_likelihood: mean over images, in nats, of the probability given to the label.
        calibration_error: expected gap between confidence and accuracy, 0 to 1, over 15 ranges of confidence.
        reliability: the ranges that hold an image, least sure first.
    """

    schema: ClassVar[str] = "mnist-edge/eval/2"
    model: Path
    dataset: DatasetName
    images: int
    accuracy: float
    negative_log_likelihood: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
