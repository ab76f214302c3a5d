"""What `eval` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import DatasetName, Normalization
from mnist_edge.records.model import OutputKind
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class: its number of test images, recall and precision; None where there is no image to count."""

    label: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Predictions whose confidence lies in one range: how many, mean confidence, and accuracy."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that is predicted wrongly.

    Attributes:
        image: its number in the test set.
        label, predicted: class numbers.
        outputs: of the model, one for each class.
        probability: of the prediction; None for scores, which imply none.
    """

    image: int
    label: int
    predicted: int
    outputs: tuple[float, ...]
    probability: float | None


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """Accuracy of a model on a test set.

    Attributes:
        variant: name in the bundle; None where `model` is no bundle.
        normalization: of the pixels that the model was given; None where its input is uint8.
        preparation: how images were fitted to the input (resized, repeated in channels); empty where they were not.
        outputs: what the model's output values were recognised as.
        temperature: the logits were divided by it, as the bundle states for the variant; None where none is stated.
        accuracy: 0 to 1.
        negative_log_likelihood: mean over images, in nats, of the probability of the label; None for scores.
        calibration_error: expected gap between confidence and accuracy, 0 to 1, over 15 ranges of confidence; None
            for scores.
        withheld: why the two are None; empty where they are not.
        reliability: the ranges that hold an image, least confident first.
        confusion: `confusion[label][prediction]` counts images.
        test_sha256: of the test images and labels.
        mistakes: the worst: those whose prediction exceeds the label's output most; at most 24, worst first.
        warnings: what is probably wrong with the images or the model, one line each.
    """

    schema: ClassVar[str] = "mnist-edge/eval/4"
    model: Path
    variant: str | None
    dataset: DatasetName
    images: int
    normalization: Normalization | None
    preparation: str
    outputs: OutputKind
    temperature: float | None
    accuracy: float
    negative_log_likelihood: float | None
    calibration_error: float | None
    withheld: str
    reliability: tuple[ReliabilityBin, ...]
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    test_sha256: str
    mistakes: tuple[Mistake, ...]
    warnings: tuple[str, ...]
