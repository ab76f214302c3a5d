"""What `doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `doctor`: what was looked at, what was found, and the command that mends it."""

    subject: str
    found: str
    ok: bool
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorReport(Report):
    """What this machine has."""

    schema: ClassVar[str] = "mnist-edge/doctor/1"
    findings: tuple[Finding, ...]
