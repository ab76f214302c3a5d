"""The models of a bundle, and what `export` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import (
    PYTORCH,
    DatasetName,
    InputKind,
    Precision,
    RequirementKind,
    VariantFormat,
)
from mnist_edge.records.report import Report
from mnist_edge.records.verification import ParityReport


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
    """A model of a bundle: its specification, and its file in the bundle folder."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """What `export` published.

    Attributes:
        variants: the models of the bundle, including those kept from the previous bundle.
        parity: the comparison of every variant with its reference.
        accuracy: PyTorch's on the test set, a fraction of 1.
        dropped: why a variant of the previous bundle is not in this one, by its name.
    """

    schema: ClassVar[str] = "mnist-edge/export/2"
    bundle: Path
    dataset: DatasetName
    input: InputKind
    variants: tuple[Variant, ...]
    parity: ParityReport
    accuracy: float
    dropped: dict[str, str]
