"""What `report` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mnist_edge.records.report import Report

ReportFormat = Literal["html", "markdown"]
Verdict = Literal["passed", "failed", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class Unshown:
    """Something that the report has no figure of.

    Attributes:
        what: it is about.
        why: `not measured`, or why a result is not current.
        command: that measures it.
    """

    what: str
    why: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReportReport(Report):
    """A report that was written.

    Attributes:
        verdict: `passed` where every variant of the bundle was compared and met its requirement.
        reason: for the verdict, in a sentence.
        included: files of the results whose figures it shows.
        unshown: what it shows as stale or not measured.
    """

    schema: ClassVar[str] = "mnist-edge/report/1"
    bundle: Path
    output: Path
    format: ReportFormat
    bytes: int
    verdict: Verdict
    reason: str
    included: tuple[str, ...]
    unshown: tuple[Unshown, ...]
