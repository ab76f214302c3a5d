"""The confusion matrix and the reliability diagram."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.plots.figure import BLUE, GREY, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONG_LABEL = 4
"""Class names from this length on are written at an angle below the columns."""
LEAST_SCALE = 5
"""Smallest count that gets the darkest colour, so that a single error does not look like many."""


def evaluation(report: EvalReport, path: Path) -> Path:
    """Draw the confusion matrix and, beside it, the reliability diagram."""
    figure = new_figure(11.2, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _confusion_matrix(report, left)
    draw_reliability(report, right)
    return save_figure(figure, path)


def draw_reliability(report: EvalReport, axes: Axes) -> None:
    """Draw accuracy over confidence; the area of a dot is its share of the images."""
    if report.calibration_error is None:
        axes.set_axis_off()
        axes.set_title("calibration: not computed", loc="left")
        axes.text(0.5, 0.5, textwrap.fill(report.withheld, 40), ha="center", va="center")
        return
    shares = np.array([row.images / report.images for row in report.reliability])
    confidence = [row.confidence for row in report.reliability]
    accuracy = [row.accuracy for row in report.reliability]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect calibration")
    axes.plot(
        confidence, accuracy, color=BLUE, linewidth=1, marker="o", markersize=4, label="dot area: share of images"
    )
    axes.scatter(confidence, accuracy, s=12 + 400 * shares, color=BLUE)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence (probability of the prediction)")
    axes.set_ylabel("accuracy")
    axes.set_title(f"expected calibration error {report.calibration_error:.2%}", loc="left")
    axes.grid(visible=True, alpha=0.25)
    # Below the axes: within them it would cover the curve of an underconfident or of an overconfident model.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)


def _confusion_matrix(report: EvalReport, axes: Axes) -> None:
    """Draw recall on the diagonal and counts beside it, which alone are coloured: errors stay visible."""
    counts = np.array(report.confusion)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    scale = max(LEAST_SCALE, errors.max())
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=scale)
    labels = [row.label for row in report.per_class]
    if max(map(len, labels)) < LONG_LABEL:
        axes.set_xticks(range(len(labels)), labels)
    else:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            recall = report.per_class[row].recall
            text, colour = "-" if recall is None else f"{recall:.1%}", "#5b6570"
        elif count:
            text, colour = str(count), "white" if count > scale / 2 else "black"
        else:
            continue
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_title(f"{report.dataset}: accuracy {report.accuracy:.2%} on {report.images:,} images", loc="left")
