"""What `predict` prints, and its CSV."""

from __future__ import annotations

import csv
import io

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mnist_edge.records.prediction import ClassProbability, Prediction, PredictReport
from mnist_edge.reporting.tables.format import percent

CSV_COLUMNS = (
    "image", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "accepted", "reason",
)  # fmt: skip


def predict_table(report: PredictReport) -> RenderableType:
    """Return a row for each prediction; the digit of one that is not accepted is in brackets."""
    title = f"predict: {report.model}, variant {report.variant}"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("image", overflow="fold")
    for heading in ("digit", "probability", "second", "third"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("not accepted because", overflow="fold")
    for one in report.predictions:
        digit = "-" if one.label is None else one.label if one.accepted else f"({one.label})"
        others = [f"{other.label} {percent(other.probability)}" for other in one.top[1:]]
        table.add_row(one.image, digit, percent(one.probability), *(others or ["", ""]), one.reason)
    return table


def predictions_csv(report: PredictReport) -> str:
    """Return the predictions as CSV with a header, lines ended as RFC 4180 has it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for one in report.predictions:
        writer.writerow([one.image, *_cells(one), str(one.accepted).lower(), one.reason])
    return text.getvalue()


def _cells(one: Prediction) -> list[str]:
    top: list[ClassProbability | None] = [*one.top, *[None] * (3 - len(one.top))]
    return [
        cell for entry in top for cell in (("", "") if entry is None else (entry.label, f"{entry.probability:.6f}"))
    ]
