"""What `eval` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.tables.format import facts_table, percent


def eval_table(report: EvalReport) -> RenderableType:
    """Accuracy, per-class figures and the confusion matrix."""
    facts = facts_table(
        "eval",
        {
            "model": str(report.model),
            "dataset": f"{report.dataset}, {report.images:,} test images",
            "accuracy": percent(report.accuracy),
            "negative log-likelihood": f"{report.negative_log_likelihood:.4f}",
            "calibration error": percent(report.calibration_error),
        },
    )
    table = Table(box=box.SIMPLE, title="rows: the label; columns: the decision")
    for heading in ("class", "images", "recall", "precision", *(row.label for row in report.per_class)):
        table.add_column(heading, justify="right")
    for row, counts in zip(report.per_class, report.confusion, strict=True):
        cells = [str(count) if count else "." for count in counts]
        table.add_row(row.label, str(row.images), percent(row.recall), percent(row.precision), *cells)
    return Group(facts, table)
