"""What `export` publishes and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import (
    DatasetName,
    InputKind,
    Precision,
)
from mnist_edge.records.report import Report
from mnist_edge.records.verification import ParityReport


@dataclass(frozen=True, kw_only=True)
class VariantFile:
    """One exported file of a bundle."""

    name: str
    precision: Precision
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """What `export` published. `accuracy` is PyTorch's on the test set, a fraction of 1."""

    schema: ClassVar[str] = "mnist-edge/export/1"
    bundle: Path
    dataset: DatasetName
    input: InputKind
    variants: tuple[VariantFile, ...]
    parity: ParityReport
    accuracy: float
