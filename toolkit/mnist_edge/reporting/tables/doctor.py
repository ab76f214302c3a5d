"""What `doctor` prints."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mnist_edge.records.system import DoctorReport


def doctor_table(report: DoctorReport) -> RenderableType:
    """What was found, and for each thing missing the command that mends it."""
    table = Table(box=box.SIMPLE)
    for heading in ("", "what", "found", "to mend it"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings:
        table.add_row("ok" if finding.ok else "--", finding.subject, finding.found, finding.fix)
    return table
