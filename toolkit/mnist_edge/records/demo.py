"""What `demo` reports: where its page is, and what the page shows of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.records.prediction import Prediction
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class DemoReport(Report):
    """The page that is being served.

    Attributes:
        url: reachable from this machine only.
        variants: names of the models that answer, in the order of the bundle.
    """

    schema: ClassVar[str] = "mnist-edge/demo/1"
    url: str
    model: Path
    variants: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VariantAnswer:
    """What one variant predicts for an image.

    Attributes:
        variant: its name in the bundle.
        prediction: as `predict` makes it, with all ten classes; without a label where the variant failed.
        latency_us: median time of one run in the server, in microseconds; None where it failed.
    """

    variant: str
    prediction: Prediction
    latency_us: float | None


@dataclass(frozen=True, kw_only=True)
class AnswerReport(Report):
    """What the page shows of an image.

    Attributes:
        prepared: the image as the models receive it, 28 rows of 28 values, 0 to 255; None where it holds no digit.
        accepted, reason: of the first variant in `variants`, or why the image was refused before any variant ran.
        variants: the one that `tune` chose (or else the bundle's first), then the others; empty where none ran.
    """

    schema: ClassVar[str] = "mnist-edge/demo-answer/1"
    prepared: tuple[tuple[int, ...], ...] | None
    accepted: bool
    reason: str
    variants: tuple[VariantAnswer, ...]
