"""The confusion matrix and the reliability diagram."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.plots.figure import BLUE, GREY, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def evaluation(report: EvalReport, path: Path) -> Path:
    """Draw the confusion matrix, and beside it how far confidence can be trusted."""
    figure = new_figure(11.2, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _confusion_matrix(report, left)
    _reliability(report, right)
    return save_figure(figure, path)


def _reliability(report: EvalReport, axes: Axes) -> None:
    """Accuracy over confidence; the area of a dot is its share of the images."""
    shares = np.array([row.images / report.images for row in report.reliability])
    confidence = [row.confidence for row in report.reliability]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as sure as right")
    axes.plot(confidence, [row.accuracy for row in report.reliability], color=BLUE, linewidth=1)
    axes.scatter(confidence, [row.accuracy for row in report.reliability], s=12 + 400 * shares, color=BLUE)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.set_title(f"calibration error {report.calibration_error:.2%}", loc="left")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="upper left", frameon=False)


def _confusion_matrix(report: EvalReport, axes: Axes) -> None:
    """The diagonal is told as recall, so that errors can be seen."""
    counts = np.array(report.confusion)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
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
