"""loss.png: training loss and held-out accuracy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.reporting.plots.figure import BLUE, ORANGE, new_figure, save_figure

if TYPE_CHECKING:
    pass


def loss_curve(run: Path, title: str) -> Path:
    """Draw `loss.png` of a run folder from its `loss.csv` and `history.csv`."""
    steps, losses = _columns(run / "loss.csv", "step", "loss")
    epochs, held = _columns(run / "history.csv", "epoch", "holdout_accuracy")
    figure = new_figure(8, 4.2)
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
    return save_figure(figure, run / "loss.png")


def _columns(path: Path, *names: str) -> list[np.ndarray]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names]
