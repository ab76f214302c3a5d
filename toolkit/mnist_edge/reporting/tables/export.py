"""What `export` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.bundle import ExportReport
from mnist_edge.reporting.tables.format import facts_table, percent
from mnist_edge.reporting.tables.parity import parity_table


def export_table(report: ExportReport) -> RenderableType:
    """Return what was published, and how each variant compares with its reference; fits 80 columns."""
    facts = {"bundle": str(report.bundle), "accuracy": f"{percent(report.accuracy)} (PyTorch)"}
    facts |= {} if report.choice is None else {"choice": f"{report.choice}, by tune"}
    facts |= {name: f"dropped: {reason}" for name, reason in report.dropped.items()}
    facts |= {variant.name: f"FAILED: {variant.message}" for variant in report.failed}
    return Group(facts_table("export", facts), _variant_table(report), parity_table(report.parity))


def _variant_table(report: ExportReport) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for heading in ("variant", "bytes", "accuracy", "held out", "flips", "file", "sha256"):
        right = heading in {"bytes", "accuracy", "held out", "flips"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for variant in report.variants:
        table.add_row(
            variant.name,
            f"{variant.bytes:,}",
            percent(variant.accuracy),
            percent(variant.selection_accuracy),
            "-" if variant.flips is None else str(variant.flips),
            variant.file,
            variant.sha256[:8],
        )
    return table
