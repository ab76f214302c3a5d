"""What `eval` prints: 80 columns wide, the most important columns first."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.tables.format import facts_table, percent

LONG_LABEL = 4
"""A class name of more characters is replaced by its number above the columns of the confusion matrix."""


def eval_table(report: EvalReport) -> RenderableType:
    """Return accuracy and calibration, the figures of each class, and the confusion matrix."""
    model = str(report.model) if report.variant is None else f"{report.model}, variant {report.variant}"
    facts = {"accuracy": percent(report.accuracy), "model": model}
    facts["dataset"] = f"{report.dataset}, {report.images:,} test images"
    if report.preparation:
        facts["images"] = report.preparation
    if report.negative_log_likelihood is not None:
        facts["negative log-likelihood"] = f"{report.negative_log_likelihood:.4f}"
        at = "" if report.temperature is None else f", at temperature {report.temperature:g}"
        facts["calibration error"] = f"{percent(report.calibration_error)}{at}"
    else:
        facts["calibration"] = f"not computed: {report.withheld}"
    return Group(facts_table("eval", facts), _class_table(report), _confusion_table(report))


def _class_table(report: EvalReport) -> Table:
    table = Table(box=box.SIMPLE)
    for heading in ("class", "recall", "precision", "images", "most often confused with"):
        table.add_column(heading, justify="left" if heading.startswith(("class", "most")) else "right")
    for index, (row, counts) in enumerate(zip(report.per_class, report.confusion, strict=True)):
        errors = [0 if other == index else count for other, count in enumerate(counts)]
        most = max(errors)
        confused = f"{report.per_class[errors.index(most)].label} ({most:,})" if most else "-"
        table.add_row(row.label, percent(row.recall), percent(row.precision), f"{row.images:,}", confused)
    return table


def _confusion_table(report: EvalReport) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1), title="rows: label; columns: prediction", title_justify="left")
    labels = [row.label for row in report.per_class]
    numbered = any(len(label) > LONG_LABEL for label in labels)
    for heading in ("", *(map(str, range(len(labels))) if numbered else labels)):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for index, (label, counts) in enumerate(zip(labels, report.confusion, strict=True)):
        name = f"{index} {label}" if numbered else label
        table.add_row(name, *(str(count) if count else "." for count in counts))
    return table
