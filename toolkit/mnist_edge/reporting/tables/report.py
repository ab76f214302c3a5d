"""What `report` prints."""

from __future__ import annotations

import shlex

from rich.console import Group, RenderableType

from mnist_edge.records.handover import ReportReport
from mnist_edge.reporting.tables.format import facts_table


def report_table(report: ReportReport) -> RenderableType:
    """Return the verdict, the file, and what it has no figure of."""
    facts = {
        "bundle": str(report.bundle),
        "verdict": f"{report.verdict}: {report.reason}",
        "results": ", ".join(report.included) or "none",
        "report": f"{report.output} ({report.bytes:,} bytes)",
    }
    lines = [f"{one.why}: {one.what} ({shlex.join(one.command)})" for one in report.unshown]
    return Group(facts_table("mnist-edge report", facts), *lines)
