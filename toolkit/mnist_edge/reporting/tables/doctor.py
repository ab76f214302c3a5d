"""What `doctor` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mnist_edge.records.system import DoctorReport


def doctor_table(report: DoctorReport) -> RenderableType:
    """Return a row for each subject, and below the table the command for each thing that is missing.

    A command in a column would be broken over many lines, and could not be copied.
    """
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in report.findings:
        table.add_row("ok" if finding.ok else "--", finding.subject, finding.found)
    missing = [finding for finding in report.findings if not finding.ok]
    if not missing:
        return table
    lines = [line for finding in missing for line in (f"{finding.subject}:", f"  {finding.fix}")]
    # Never wrapped: what is copied from the terminal must be one command.
    fixes = Text("\n".join(lines), no_wrap=True, overflow="ignore")
    return Group(table, "To provide what is missing, where you need it:", fixes)
