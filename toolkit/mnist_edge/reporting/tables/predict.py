"""What `predict` prints, and its CSV."""

from __future__ import annotations

import csv
import io

import numpy as np
from numpy.typing import NDArray
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


def set_csv(
    start: int,
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    stated: NDArray[np.uint8] | None,
    names: tuple[str, ...],
) -> str:
    """Return rows of CSV for images that follow each other, with a header before the first of all.

    Args:
        start: number of the first image, from 0.
        labels, probabilities: of the predictions, (n,).
        stated: the right classes, (n,); None where there are none.
        names: of the classes.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    columns = [
        range(start, start + len(labels)),
        [names[label] for label in labels],
        [f"{p:.6f}" for p in probabilities],
    ]
    header = ["image", "label", "probability"]
    if stated is not None:
        columns.append([names[label] for label in stated])
        header.append("label_true")
    if start == 0:
        writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _cells(one: Prediction) -> list[str]:
    top: list[ClassProbability | None] = [*one.top, *[None] * (3 - len(one.top))]
    return [
        cell for entry in top for cell in (("", "") if entry is None else (entry.label, f"{entry.probability:.6f}"))
    ]
