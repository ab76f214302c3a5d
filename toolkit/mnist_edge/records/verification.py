"""What `verify` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mnist_edge.contract import (
    ArithmeticName,
    DatasetName,
    Precision,
    RequirementKind,
    TargetName,
)
from mnist_edge.records.report import Report
from mnist_edge.records.settings import SessionSettings

TensorKind = Literal["pre-activations", "activations", "output"]
"""Outputs of a matrix product with its bias; the input of the next product; the output of the graph."""
LISTED = 10_000
"""Images that a report lists at most: one of millions of images would list thousands that nobody reads."""


@dataclass(frozen=True, kw_only=True)
class SmallMargin:
    """An image whose top-2 margin in the reference is at most twice the largest error seen, so that it may flip.

    Attributes:
        image: its number in the images that predictions were compared on.
        margin: of the reference's largest logit over the second.
        reference, predicted: classes that the reference and the variant predict.
    """

    image: int
    margin: float
    reference: int
    predicted: int


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Predictions that an error of the size that was seen cannot have changed.

    Attributes:
        error: largest logit error over every image and batch size that was run.
        unaffected: share of the images, 0 to 1, whose top-2 margin in the reference is over twice that error: no error of
            this size can change their prediction.
        small: the others, the smallest margin first, at most LISTED.
    """

    error: float
    unaffected: float
    small: tuple[SmallMargin, ...]


@dataclass(frozen=True, kw_only=True)
class Uncertified:
    """An image whose prediction is not certain on every machine.

    Attributes:
        image: its number in the images that predictions were compared on.
        margin: of the reference's class over the class that may come closest to it, computed exactly; negative where the
            graph itself predicts another class.
        bound: by how much rounding may reduce that margin.
    """

    image: int
    margin: float
    bound: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Predictions that are the reference's on every machine with this arithmetic, in any order of summation.

    Those of a model that must meet accuracy alone are its own.

    Attributes:
        arithmetic: that the bounds hold for.
        certified: share of the images, 0 to 1, whose prediction is certain.
        largest_bound: on the error of a logit, over these images; 0 where every sum is exact.
        uncertified: the others, in their order, at most LISTED.
    """

    arithmetic: ArithmeticName
    certified: float
    largest_bound: float
    uncertified: tuple[Uncertified, ...]


@dataclass(frozen=True, kw_only=True)
class PairedAccuracy:
    """Accuracy of a variant and of its reference on the same labelled images, fractions of 1.

    Attributes:
        only_reference_right, only_variant_right: number of images on which one of the two is right.
        mcnemar_p: exact two-sided p-value of equal accuracy.
        drop_upper95: one-sided 95 % upper bound on the accuracy lost.
        max_drop: accuracy that may be lost.
        non_inferior: whether the bound is at most `max_drop`.
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
class TensorDrift:
    """One tensor of a network, compared with the reference's.

    Attributes:
        layer: 1-based number of the matrix product.
        tensor: its name in the ONNX graph.
        drift: error of the worst unit, root mean square over the images, relative to all units of the reference; None
            where there are NaN or infinite values, or another number of units.
        allowed: drift that the precision explains.
    """

    layer: int
    kind: TensorKind
    tensor: str
    drift: float | None
    allowed: float

    @property
    def drifts(self) -> bool:
        """Whether the drift is larger than the precision explains."""
        return self.drift is None or self.drift > self.allowed


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Layer-by-layer comparison on a few images.

    Attributes:
        images: number of images that were run, with the provider and the settings of the report.
        tensors: input side first; a tensor after the first that drifts inherits its error.
        first: number of the first layer that drifts; None where none does.
        symptom: name of the fault that explains the error; empty where none drifts.
        detail: the same in a sentence.
    """

    images: int
    tensors: tuple[TensorDrift, ...]
    first: int | None
    symptom: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """One variant, compared with its reference.

    Attributes:
        precision, requirement: those that it was judged by; with TF32 an exact fp32 variant is judged as lossy fp16.
        reference: where the outputs come from that it was compared with.
        images: number of images that predictions were compared on: the whole test set where it is available.
        flips: predictions that changed; for an exact variant, without ties.
        flip_rate_upper95: exact one-sided 95 % bound on the rate of flips.
        ties: predictions that changed where the reference's top-2 margin is within the tolerance (exact variants).
        max_abs_error, max_relative_error: largest logit error over every input and batch size; relative to the image's
            largest logit, or to 1 where that is smaller; None where the model cannot be run, or must meet accuracy alone.
        accuracy: None without labels, or where the outputs cannot be compared.
        margins: None where the outputs cannot be compared, or the variant must meet accuracy alone.
        batches: batch sizes that were run; none for outputs that were recorded elsewhere.
        layers: on failure or on request, where layer outputs are available.
        reason: why it failed, in a sentence; empty where it passed.
        settings: of its session; None where recorded outputs were compared.
        outputs_sha256: of its logits for the `images`, as `pixels.logits_sha256` computes it, so that two runtimes can be
            compared by one line; None where there are none.
        certificate: None where nothing can be certified.
        certificate_reason: why, in a sentence, or that a program keeps the bound of its model's certificate; empty where there
            is a certificate.
    """

    name: str
    precision: Precision
    requirement: RequirementKind
    reference: str
    images: int
    flips: int
    flip_rate_upper95: float
    ties: int
    max_abs_error: float | None
    max_relative_error: float | None
    accuracy: PairedAccuracy | None
    margins: Margins | None
    batches: tuple[int, ...]
    layers: LayerReport | None
    passed: bool
    reason: str
    settings: SessionSettings | None = None
    outputs_sha256: str | None = None
    certificate: Certificate | None = None
    certificate_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """Result of `verify`.

    Attributes:
        model: bundle folder or file.
        settings: of all sessions; None where the variants' settings differ, or recorded outputs were compared.
        outputs: the file of recorded outputs that were compared instead of a model's; None otherwise.
        reference: where the outputs come from that variants are compared with by default.
        test_set: whether predictions were compared on the test set, or on its first images where a target runs fewer.
        own_test_set: False where that is a set that the user gave, and not the one that the bundle records outputs for.
        target, device: what the variants were generated for and where the programs ran; None where onnxruntime ran.
        host: where it was run, as `--on` named it; None for this machine.
        environment: of the machine that it was run on, see `benchmarking.environment`; None where nothing was run.
    """

    schema: ClassVar[str] = "mnist-edge/verify/7"
    passed: bool
    model: str
    dataset: DatasetName
    settings: SessionSettings | None
    outputs: str | None
    reference: str
    test_set: bool
    own_test_set: bool = True
    target: TargetName | None = None
    device: str | None = None
    variants: tuple[VariantParity, ...]
    host: str | None = None
    environment: dict[str, Any] | None = None
