"""What `variants` prints."""

from __future__ import annotations

from rich import box
from rich.table import Table

from mnist_edge.records.bundle import VariantsReport


def variants_table(report: VariantsReport) -> Table:
    """Return one row for each kind of variant, for a terminal of 80 columns or more."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for heading in ("variant", "precision", "must keep", "advice"):
        table.add_column(heading, no_wrap=heading != "advice")
    for kind in report.variants:
        table.add_row(kind.name, kind.precision, KEEPS[kind.requirement], kind.advice)
    return table


KEEPS = {"exact": "every logit", "lossy": "predictions", "accuracy": "accuracy"}
"""What each requirement is about, in one or two words."""
