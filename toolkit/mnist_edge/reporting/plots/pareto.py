"""pareto.png: accuracy over latency of the candidates of `tune`, the size of the file as area."""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.records.tuning import TunedCandidate, TuneReport
from mnist_edge.reporting.plots.figure import COLOURS, GREY, new_figure, save_figure
from mnist_edge.reporting.tables.format import micro, percent, short_number
from mnist_edge.reporting.tables.tuning import best_of_variants, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AREA = 900
"""Of the largest file, in square points; the others in proportion, but not below SMALLEST."""
SMALLEST = 12
RING = 6
"""Points by which the ring around the choice is wider than its dot."""


def pareto(report: TuneReport, path: Path) -> Path:
    """Draw the best candidate of each variant, filled where it meets the limits, ringed where it was chosen.

    The line joins the candidates that no other one beats in both latency and accuracy.
    """
    from matplotlib.lines import Line2D

    shown = drawable(report)
    figure = new_figure(8, 4.2 + 0.2 * len(shown))
    axes = figure.subplots()
    draw_candidates(axes, report)
    axes.set_title(f"{report.bundle}: {report.objective}, {described(report.limits)}", loc="left", fontsize=10)
    keys = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=_label(one, report))
        for one, colour in zip(shown, cycle(COLOURS), strict=False)
    ]
    figure.legend(handles=keys, loc="outside lower left", frameon=False, fontsize=9)
    return save_figure(figure, path)


def draw_candidates(axes: Axes, report: TuneReport) -> None:
    """Draw the best candidate of each variant, in the colours of `COLOURS` by their order, and the line."""
    from matplotlib.ticker import LogLocator, NullLocator

    shown = drawable(report)
    for one, colour in zip(shown, cycle(COLOURS), strict=False):
        chosen = report.choice is not None and one.variant == report.choice.variant
        x, y = one.p50_us or 0.0, 100 * (one.selection_accuracy or 0.0)
        fill = colour if one.meets_limits else "none"
        area = dot_area(one, shown)
        axes.scatter(x, y, s=area, facecolors=fill, edgecolors=colour, linewidths=1, zorder=3 - area / AREA)
        if chosen:  # a ring around the dot, which may be too small for a frame
            ring = (math.sqrt(area) + RING) ** 2
            axes.scatter(x, y, s=ring, facecolors="none", edgecolors="black", linewidths=1.5, zorder=4)
    front = frontier(shown)
    axes.plot(
        [one.p50_us or 0 for one in front], [100 * (one.selection_accuracy or 0) for one in front], color=GREY, lw=1
    )
    accuracies, times = [100 * (one.selection_accuracy or 0) for one in shown], [one.p50_us or 1 for one in shown]
    room = max(0.1, 0.2 * (max(accuracies) - min(accuracies)))
    axes.set_ylim(min(accuracies) - room, max(accuracies) + room)
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.4, max(times) * 1.4)
    subs = (1, 2, 5) if max(times) > 5 * min(times) else range(1, 10)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(lambda value, _position: short_number(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"p50 of a run at batch {report.batch} on {report.provider}, microseconds")
    axes.set_ylabel("accuracy on held-out images, %")
    axes.grid(visible=True, alpha=0.25)


def dot_area(one: TunedCandidate, shown: list[TunedCandidate]) -> float:
    """Return the area of a candidate's dot among those shown, in square points."""
    return max(SMALLEST, AREA * one.bytes / max(1, *(other.bytes for other in shown)))


def _label(one: TunedCandidate, report: TuneReport) -> str:
    chosen = report.choice is not None and one.variant == report.choice.variant
    marks = ["chosen"] * chosen + ["misses the limits"] * (not one.meets_limits)
    return ", ".join(
        [f"{one.variant}: {micro(one.p50_us)} us", f"{one.bytes:,} bytes", percent(one.selection_accuracy), *marks]
    )


def frontier(candidates: list[TunedCandidate]) -> list[TunedCandidate]:
    """Return the candidates that no other one beats in both latency and accuracy, the fastest first."""
    front: list[TunedCandidate] = []
    for one in sorted(candidates, key=lambda one: (one.p50_us or 0.0, -(one.selection_accuracy or 0.0))):
        if not front or (one.selection_accuracy or 0) > (front[-1].selection_accuracy or 0):
            front.append(one)
    return front


def drawable(report: TuneReport) -> list[TunedCandidate]:
    """Return the best candidate of each variant, where it was timed and has an accuracy."""
    best = best_of_variants(report.candidates)
    return [one for one in best if one.p50_us is not None and one.selection_accuracy is not None]
