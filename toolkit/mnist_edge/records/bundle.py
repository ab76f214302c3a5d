"""The models of a bundle, and what `export` reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import (
    PYTORCH,
    DatasetName,
    InputKind,
    Precision,
    RequirementKind,
    VariantFormat,
)
from mnist_edge.errors import BadFileError, CheckFailedError, MnistEdgeError, UsageError
from mnist_edge.records.report import Report
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.records.training import TrainingFacts
from mnist_edge.records.verification import ParityReport


@dataclass(frozen=True, kw_only=True)
class OutputHashes:
    """SHA-256 of a variant's logits, as `pixels.logits_sha256` computes it.

    Attributes:
        golden: for the golden images of the bundle.
        test: for the test images that the bundle records outputs for.
    """

    golden: str
    test: str


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """A model of a bundle before its file is written.

    Attributes:
        name: unique in the bundle: lower-case letters, digits, `.`, `_` and `-`.
        requirement: what its outputs must meet in `verify`.
        reference: the outputs that it is compared with: `pytorch`, or the name of an earlier variant.
        max_accuracy_drop: accuracy that it was allowed to lose when it was published, a fraction of 1; None if its
            requirement is `exact`.
    """

    name: str
    format: VariantFormat = "onnx"
    precision: Precision
    requirement: RequirementKind
    reference: str = PYTORCH
    max_accuracy_drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Variant(VariantSpec):
    """A model of a bundle: its specification, its file in the bundle folder, and what was measured of it.

    Attributes:
        accuracy: on the test set, a fraction of 1; None where only the golden inputs were compared.
        flips: predictions on the test set that differ from the reference's; None as for `accuracy`.
        passed: whether it met its requirement; only then is it published.
        settings: how its session is opened: the default, or what `tune` chose.
        selection_accuracy: on the training images that training held out, a fraction of 1, to choose a variant by;
            None where the training set was not available.
        temperature: its logits are divided by it before a softmax, fitted on the same images, above 0; None where it
            could not be fitted, and counts as 1.
        made: how the file was made, as JSON values.
        outputs_sha256: what its logits must be, byte for byte, on any runtime; None where rounding may differ.
    """

    file: str
    bytes: int
    sha256: str
    accuracy: float | None = None
    flips: int | None = None
    passed: bool = False
    settings: SessionSettings = DEFAULT_SETTINGS
    selection_accuracy: float | None = None
    temperature: float | None = None
    made: dict[str, Any] = field(default_factory=dict)
    outputs_sha256: OutputHashes | None = None


VARIANT_ERRORS = (CheckFailedError, UsageError, BadFileError)
"""Errors of one variant alone: the others are still published."""


@dataclass(frozen=True, kw_only=True)
class FailedVariant:
    """A requested variant that is not in the bundle.

    Attributes:
        kind: of the error, as `errors` names it; it determines the exit code.
    """

    name: str
    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, name: str, error: MnistEdgeError) -> FailedVariant:
        """Return the record of one of VARIANT_ERRORS."""
        return cls(name=name, kind=error.kind, message=error.message, hint=error.hint)

    @property
    def exit_code(self) -> int:
        """Of the error."""
        return next(error.exit_code for error in VARIANT_ERRORS if error.kind == self.kind)


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """What `export` published.

    Attributes:
        variants: the models of the bundle, including those kept from the previous bundle.
        choice: name of the variant that `tune` chose; None if none was chosen.
        parity: the comparison of every variant with its reference.
        accuracy: PyTorch's on the test set, a fraction of 1.
        dropped: why a variant of the previous bundle is not in this one, by its name.
        failed: variants that were requested and could not be made, or did not pass.
        training: how the network was trained; None where its file does not state it.
    """

    schema: ClassVar[str] = "mnist-edge/export/5"
    bundle: Path
    dataset: DatasetName
    input: InputKind
    variants: tuple[Variant, ...]
    choice: str | None
    parity: ParityReport
    accuracy: float
    dropped: dict[str, str]
    failed: tuple[FailedVariant, ...] = ()
    training: TrainingFacts | None = None


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """A kind of variant that `export --variant` makes."""

    name: str
    precision: Precision
    requirement: RequirementKind
    advice: str


@dataclass(frozen=True, kw_only=True)
class VariantsReport(Report):
    """What `variants` lists."""

    schema: ClassVar[str] = "mnist-edge/variants/1"
    variants: tuple[KindRow, ...]
