"""The figures of the page: the plots of the commands, narrow enough for a phone, drawn from results on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mnist_edge.records.benchmark import BenchRow
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.records.training import TrainingFacts
from mnist_edge.records.tuning import TunedCandidate, TuneReport
from mnist_edge.reporting.page.svg import inline_svg
from mnist_edge.reporting.plots.evaluation import draw_reliability
from mnist_edge.reporting.plots.figure import new_figure
from mnist_edge.reporting.plots.latency import draw_latencies
from mnist_edge.reporting.plots.loss import EVERY, STEPS_A_POINT, draw_loss
from mnist_edge.reporting.plots.pareto import dot_area, draw_candidates, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.2, 3.6
"""Inches: 374 points, so that text has its size on a phone of 390 pixels."""


def loss_figure(facts: TrainingFacts) -> Markup | None:
    """Draw the loss and the held-out accuracy over the steps; None without a loss."""
    if not facts.loss or min(loss for _, loss in facts.loss) <= 0:
        return None
    figure, axes = _empty()
    steps, losses = np.array(facts.loss, dtype=np.float64).T
    epochs = np.array([record.epoch for record in facts.history], dtype=np.float64)
    held = np.array([np.nan if one.holdout_accuracy is None else one.holdout_accuracy for one in facts.history])
    averaged = len(steps) > 1 and steps[1] - steps[0] > STEPS_A_POINT
    draw_loss(axes, steps, losses, epochs, held, "loss, averaged over neighbours" if averaged else EVERY)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return inline_svg(
        figure, "loss", "Training loss and held-out accuracy over the steps; the figures are in the text."
    )


def reliability_figure(report: EvalReport) -> Markup | None:
    """Draw accuracy over confidence; None for a model that gives no probabilities."""
    if report.calibration_error is None or not report.images:
        return None
    figure, axes = _empty()
    draw_reliability(report, axes)
    axes.set_title("", loc="left")
    if (legend := axes.get_legend()) is not None:
        legend.remove()
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return inline_svg(figure, "reliability", "Accuracy over confidence; the same figures are in the table.")


def latency_figure(rows: Sequence[BenchRow], name: str) -> Markup | None:
    """Draw the distribution of each row that has one; None where none has."""
    drawn = [row for row in rows if row.quantiles_us]
    if not drawn:
        return None
    figure, axes = _empty()
    draw_latencies(axes, drawn)
    return inline_svg(figure, name, "Distribution of the latency of each row; percentiles are in the table.")


def pareto_figure(report: TuneReport) -> Markup | None:
    """Draw accuracy over latency, each candidate with its number; None where nothing was timed."""
    shown = drawable(report)
    if not shown:
        return None
    figure, axes = _empty()
    draw_candidates(axes, report)
    _number(axes, shown)
    return inline_svg(figure, "pareto", "Held-out accuracy over latency of the best candidate of each variant.")


def _number(axes: Axes, shown: list[TunedCandidate]) -> None:
    """Write the number of each dot beside it, at the corner that is furthest from the other dots."""
    points = 72 / axes.figure.dpi
    at = [(one.p50_us or 0.0, 100 * (one.selection_accuracy or 0.0)) for one in shown]
    dots = axes.transData.transform(at) * points
    radii = np.array([0.5 * math.sqrt(dot_area(one, shown)) for one in shown])
    for number, (place, dot, radius) in enumerate(zip(at, dots, radii, strict=True)):
        corners = [(0.7 * radius + 6) * np.array(corner) for corner in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
        others = [i for i in range(len(shown)) if i != number]
        room = [
            min((np.hypot(*(dot + corner - dots[i])) - radii[i] for i in others), default=0.0) for corner in corners
        ]
        axes.annotate(
            str(number + 1),
            place,
            xytext=tuple(corners[int(np.argmax(room))]),
            textcoords="offset points",
            fontsize=9,
            zorder=5,
            ha="center",
            va="center",
        )


def _empty() -> tuple[Figure, Axes]:
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes
