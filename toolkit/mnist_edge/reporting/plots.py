"""Pictures for people who would rather look than read. matplotlib is imported only when one is drawn."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.files import write_atomic
from mnist_edge.records import EvalReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#9aa5b1"


def loss_curve(run: Path, title: str) -> Path:
    """Draw `loss.png` of a run folder from its `loss.csv` and `history.csv`."""
    steps, losses = _columns(run / "loss.csv", "step", "loss")
    epochs, held = _columns(run / "history.csv", "epoch", "holdout_accuracy")
    figure = _figure(8, 4.2)
    axes = figure.subplots()
    axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, label="loss of every 30th batch")
    window = max(1, len(losses) // 15)
    if len(losses) >= window > 1:
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(
            steps[window // 2 :][: len(smooth)], smooth, color=BLUE, linewidth=1.8, label=f"mean of {window} of them"
        )
    axes.set_yscale("log")
    for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_formatter(lambda value, _position: f"{value:.2g}")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.set_title(title, loc="left")
    axes.grid(visible=True, which="major", alpha=0.25)
    seen = ~np.isnan(held)
    if seen.any() and len(steps) > 1:
        per_epoch = (steps[-1] + 30) / epochs[-1]
        right = axes.twinx()
        right.plot(
            epochs[seen] * per_epoch,
            100 * held[seen],
            color=ORANGE,
            marker="o",
            markersize=3,
            label="held-out accuracy",
        )
        right.set_ylabel("held-out accuracy, %", color=ORANGE)
        right.annotate(
            f"{100 * held[seen][-1]:.2f} %", (epochs[seen][-1] * per_epoch, 100 * held[seen][-1]),
            xytext=(0, -16), textcoords="offset points", ha="right", color=ORANGE,
        )  # fmt: skip
    axes.legend(loc="center right", frameon=False)
    return _save(figure, run / "loss.png")


def confusion_matrix(report: EvalReport, path: Path) -> Path:
    """Draw the errors of a confusion matrix; the diagonal is told as recall, so that errors can be seen."""
    counts = np.array(report.confusion)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    figure = _figure(6.2, 5.6)
    axes = figure.subplots()
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(1, errors.max()))
    labels = [row.label for row in report.per_class]
    axes.set_xticks(range(len(labels)), labels, rotation=0 if max(map(len, labels)) < 3 else 60)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            recall = report.per_class[row].recall
            axes.text(
                column,
                row,
                "-" if recall is None else f"{recall:.1%}",
                ha="center",
                va="center",
                color=GREY,
                fontsize=8,
            )
        elif count:
            dark = count > errors.max() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    axes.set_xlabel("decision")
    axes.set_ylabel("label")
    axes.set_title(f"{report.dataset}: {report.accuracy:.2%} of {report.images:,} right", loc="left")
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    return figure


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    kind = path.suffix.lstrip(".") or "png"
    figure.savefig(buffer, format=kind, dpi=130, metadata={"Software": None} if kind == "png" else None)
    write_atomic(path, buffer.getvalue())
    return path


def _columns(path: Path, *names: str) -> list[np.ndarray]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names]
