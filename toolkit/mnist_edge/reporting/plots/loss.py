"""loss.png: training loss and held-out accuracy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.reporting.plots.figure import BLUE, ORANGE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
STEPS_A_POINT = 30
"""loss.csv has the loss of every 30th batch."""
EVERY = f"loss of every {STEPS_A_POINT}th batch"


def loss_curve(run: Path, title: str) -> Path:
    """Draw `loss.png` of a run folder from its `loss.csv` and `history.csv`."""
    figure = new_figure(8, 4.4)
    axes = figure.subplots()
    steps, losses = _columns(run / "loss.csv", "step", "loss")
    epochs, accuracies = _columns(run / "history.csv", "epoch", "holdout_accuracy")
    draw_loss(axes, steps, losses, epochs, accuracies)
    axes.set_title(title, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)  # below the axes: clear of any curve
    return save_figure(figure, run / "loss.png")


def draw_loss(
    axes: Axes, steps: Numbers, losses: Numbers, epochs: Numbers, accuracies: Numbers, label: str = EVERY
) -> None:
    """Draw the loss on a logarithmic axis, and held-out accuracy on an axis at the right.

    Args:
        axes: to draw on; a legend is left to the caller.
        steps, losses: float64 (n,).
        epochs, accuracies: float64 (m,); NaN where nothing was held out.
        label: what a point of the loss is.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    window = max(1, len(losses) // 15)
    averaged = window > 1  # few points are drawn as they are, in full colour
    axes.plot(steps, losses, color=BLUE, alpha=0.25 if averaged else 1, linewidth=0.8, label=label)
    if averaged:
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        label = f"moving average over {window} of them"
        axes.plot(steps[window // 2 :][: len(smooth)], smooth, color=BLUE, linewidth=1.8, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:.2g}")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color=BLUE)
    axes.grid(visible=True, which="major", alpha=0.25)
    measured = ~np.isnan(accuracies)
    if measured.any() and len(steps) > 1:
        steps_an_epoch = (steps[-1] + STEPS_A_POINT) / epochs[-1]
        at, percent = epochs[measured] * steps_an_epoch, 100 * accuracies[measured]
        right = axes.twinx()
        label = f"held-out accuracy, {percent[-1]:.2f} % at the end"
        right.plot(at, percent, color=ORANGE, marker="o", markersize=3, label=label)
        right.margins(y=0.08)
        right.set_ylabel("held-out accuracy, %", color=ORANGE)


def _columns(path: Path, *names: str) -> list[Numbers]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names]
