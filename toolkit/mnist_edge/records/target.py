"""What a target's folder contains, and what `export --target` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mnist_edge.contract import TargetName
from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What a self-test that passed reports.

    Attributes:
        images: number of golden images that were run.
        sha256: of their logits, float32 (images, 10), little-endian.
    """

    images: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TargetFile:
    """A file of the folder."""

    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TargetReport(Report):
    """Result of `export --target`.

    Attributes:
        variant: of the bundle, that the folder was generated from.
        facts: bytes by name: `constants_bytes`, in flash; `buffers_bytes`, in RAM.
        self_test: of the folder, run here; None where that was not possible.
        self_test_skipped: why not; empty where it was.
    """

    schema: ClassVar[str] = "mnist-edge/target/1"
    target: TargetName
    bundle: Path
    variant: str
    folder: Path
    files: tuple[TargetFile, ...]
    facts: dict[str, int]
    self_test: SelfTest | None
    self_test_skipped: str
