"""The result of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `doctor`.

    Attributes:
        subject: what was inspected, such as `extra train` or `provider cuda`.
        found: its version or description, or what is wrong.
        ok: whether it can be used.
        fix: the command or action that provides it; empty where `ok`.
    """

    subject: str
    found: str
    ok: bool
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorReport(Report):
    """What this machine has."""

    schema: ClassVar[str] = "mnist-edge/doctor/2"
    findings: tuple[Finding, ...]
