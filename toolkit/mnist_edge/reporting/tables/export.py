"""What `export` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType

from mnist_edge.records.bundle import ExportReport
from mnist_edge.reporting.tables.format import facts_table, percent
from mnist_edge.reporting.tables.parity import parity_table


def export_table(report: ExportReport) -> RenderableType:
    """Return what was published, and how each variant compares with its reference."""
    files = {v.name: f"{v.file}, {v.bytes / 1e6:.2f} MB, sha256 {v.sha256[:16]}" for v in report.variants}
    dropped = {name: f"dropped: {reason}" for name, reason in report.dropped.items()}
    content = {"bundle": str(report.bundle), "accuracy": percent(report.accuracy), **files, **dropped}
    return Group(facts_table("export", content), parity_table(report.parity))
