"""What `export --target` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType

from mnist_edge.records.target import TargetReport
from mnist_edge.reporting.tables.format import facts_table


def target_table(report: TargetReport) -> RenderableType:
    """Return what was generated, its files and its size; fits 80 columns."""
    test = report.self_test
    shown = f"not run: {report.self_test_skipped}" if report.self_test_skipped else "none"
    if test is not None:
        shown = f"passed here, {test.images} images, sha256 {test.sha256[:16]}..."
    facts = {"target": report.target, "bundle": str(report.bundle), "variant": report.variant}
    facts |= {"folder": str(report.folder), "self-test": shown}
    facts |= {name.replace("_", " "): f"{value:,}" for name, value in report.facts.items()}
    files = {file.name: f"{file.bytes:,} bytes" for file in report.files}
    return Group(facts_table("export", facts), facts_table("files", files))
