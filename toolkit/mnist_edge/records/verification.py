"""What `verify` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mnist_edge.contract import (
    DatasetName,
    Precision,
)
from mnist_edge.records.report import Report
from mnist_edge.records.settings import SessionSettings


@dataclass(frozen=True, kw_only=True)
class Uncertified:
    """An image whose top-2 gap in the reference is too small for the error seen to leave its decision certain."""

    image: int
    margin: float
    reference: int
    predicted: int


@dataclass(frozen=True, kw_only=True)
class MarginCertificate:
    """How many decisions the largest logit error seen cannot have changed.

    Attributes:
        error: that error, over every image and batch size that was run.
        certified: share of the images, 0 to 1, whose top-2 gap in the reference is over twice that error:
            no error of this size can change their decision.
        uncertified: all the others, the smallest gap first.
    """

    error: float
    certified: float
    uncertified: tuple[Uncertified, ...]


@dataclass(frozen=True, kw_only=True)
class PairedAccuracy:
    """Both models on the same labelled images. Shares are fractions of 1, `max_drop` too.

    Attributes:
        only_reference_right, only_variant_right: images on which one of the two is right.
        mcnemar_p: exact two-sided p-value of no difference in accuracy.
        drop_upper95: one-sided 95 % upper bound on the accuracy lost (Tango's score interval).
        non_inferior: whether that bound is at most `max_drop`.
    """

    images: int
    reference: float
    variant: float
    only_reference_right: int
    only_variant_right: int
    mcnemar_p: float
    drop_upper95: float
    max_drop: float
    non_inferior: bool


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """One stage of a network held against the reference's.

    Attributes:
        layer: 1-based number of the matrix product.
        stage: `sums`, the product with its bias; `activations`, what the next product is fed; or
            `output`, what the graph answers.
        tensor: its name in the ONNX graph.
        drift: error of the worst unit, root mean square over the images, over that of all units of the
            reference; None where there are NaN or infinite values, or another number of units.
        allowed: what the precision explains.
    """

    layer: int
    stage: str
    tensor: str
    drift: float | None
    allowed: float


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Layer by layer on a few images: the first that drifts, and how.

    Attributes:
        images: how many were run.
        stages: input side first; a stage after the first that drifts inherits its error.
        first: number of the first layer that drifts; None where none does.
        symptom: what the figures show, in one term; empty where none drifts.
        detail: the same in a sentence.
    """

    images: int
    stages: tuple[LayerDrift, ...]
    first: int | None
    symptom: str
    detail: str

    @staticmethod
    def drifts(stage: LayerDrift) -> bool:
        """Whether a stage drifts beyond what its precision explains."""
        return stage.drift is None or stage.drift > stage.allowed


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """One variant held against the reference.

    Attributes:
        images: how many images decisions were compared on (the whole test set where it is at hand).
        flips: decisions that changed; for fp32, those that are no ties.
        flip_rate_upper95: exact one-sided 95 % bound on the rate of flips.
        ties: decisions that changed where the reference is undecided at the precision seen (fp32 only).
        max_abs_error, max_relative_error: largest logit error over every input and batch size;
            relative to the largest logit of the same image, or to 1 where that is smaller; None
            where the model cannot be run at all.
        accuracy: None without labels, or where the answers cannot be compared; `margins` likewise.
        batches: the batch sizes that were run.
        layers: on failure or on request, where the stages can be had.
        reason: why it failed, in a sentence; empty where it passed.
    """

    name: str
    precision: Precision
    images: int
    flips: int
    flip_rate_upper95: float
    ties: int
    max_abs_error: float | None
    max_relative_error: float | None
    accuracy: PairedAccuracy | None
    margins: MarginCertificate | None
    batches: tuple[int, ...]
    layers: LayerReport | None
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """What `verify` found, and the session settings it holds for."""

    schema: ClassVar[str] = "mnist-edge/verify/3"
    passed: bool
    model: str
    dataset: DatasetName
    settings: SessionSettings
    reference: str
    test_set: bool
    variants: tuple[VariantParity, ...]
