"""What `predict` reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mnist_edge.records.report import NOT_IN_JSON, Report


@dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """One class and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model predicts for one digit of an image.

    Attributes:
        image: path, or `-` for standard input; with `--several` followed by `#` and the place in reading order.
        label: of the most probable class, also where it is not accepted; None where there is no digit.
        probability: of that class, 0 to 1.
        top: the most probable classes, three by default; empty where there is no digit.
        accepted: whether the prediction can be relied on.
        reason: why it is not accepted; empty where it is.
        exit_code: 0 accepted, 1 not accepted, else that of the error which reading the image raised.
    """

    image: str
    label: str | None
    probability: float | None
    top: tuple[ClassProbability, ...]
    accepted: bool
    reason: str
    exit_code: int = field(default=0, metadata=NOT_IN_JSON)


@dataclass(frozen=True, kw_only=True)
class PredictReport(Report):
    """Predictions of one model, in the order of the images."""

    schema: ClassVar[str] = "mnist-edge/predict/1"
    model: Path
    variant: str
    predictions: tuple[Prediction, ...]

    @property
    def exit_code(self) -> int:
        """The largest of the predictions'."""
        return max((prediction.exit_code for prediction in self.predictions), default=0)
