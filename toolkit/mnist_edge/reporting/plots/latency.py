"""latency.png: the distribution of latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.records.benchmark import BenchReport, BenchRow
from mnist_edge.reporting.plots.figure import COLOURS, new_figure, save_figure
from mnist_edge.reporting.tables.format import micro, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":")
"""Line styles: colours repeat from the seventh row on, with the next style."""
SHOWN = (0.001, 0.995)
"""Quantiles of each row that the axis covers: a single slow run would squeeze all curves into a corner."""


def plot_latencies(report: BenchReport, path: Path) -> Path:
    """Draw the cumulative distribution of each row; percentiles are marked, and written in a legend below the axes."""
    rows = report.results
    # The legend has one row of text for each curve and lies outside the axes, where it can hide none.
    figure = new_figure(8, 4.2 + 0.2 * len(rows))
    axes = figure.subplots()
    draw_latencies(axes, rows)
    axes.set_title(f"{report.model} on {rows[0].settings.provider}, {rows[0].scenario.described}", loc="left")
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    return save_figure(figure, path)


def draw_latencies(axes: Axes, rows: Sequence[BenchRow]) -> None:
    """Draw the cumulative distribution of each row, from its samples or else its quantiles; see `line_style`."""
    from matplotlib.ticker import LogLocator, NullLocator

    for number, row in enumerate(rows):
        times, shares = _curve(row)
        colour, style = line_style(number)
        axes.step(times, shares, style, where="post", color=colour, linewidth=1.6, label=_label(row, rows))
        marks = [(share, value) for share, value in _percentiles(row) if value is not None]
        axes.plot([value for _, value in marks], [share for share, _ in marks], "o", color=colour, markersize=4)
    low, high = _range(rows)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=_ticks(high / low)))
    axes.xaxis.set_major_formatter(lambda value, _position: short_number(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("latency of a request, microseconds (dots: p50, p90, p99)")
    axes.set_ylabel("share of requests")
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True, alpha=0.25)


def line_style(number: int) -> tuple[str, str]:
    """Return colour and line style of a curve, by its number from 0."""
    return COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]


def _curve(row: BenchRow) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latencies of a row in microseconds, sorted, and the share of the runs that each is not below, float64 (n,)."""
    if row.run_us:
        times = np.sort(np.concatenate([np.asarray(group, dtype=np.float64) for group in row.run_us]))
    else:
        times = np.asarray(row.quantiles_us, dtype=np.float64)
    return times, np.arange(1, len(times) + 1) / (len(times) + (not row.run_us))


def _percentiles(row: BenchRow) -> tuple[tuple[float, float | None], ...]:
    return (0.5, row.p50_us), (0.9, row.p90_us), (0.99, row.p99_us)


def _range(rows: Sequence[BenchRow]) -> tuple[float, float]:
    """Return the limits of the axis: the `SHOWN` quantiles and the percentiles of every row, and a margin."""
    ends = [np.quantile(_curve(row)[0], SHOWN) for row in rows]
    marked = [value for row in rows for _, value in _percentiles(row) if value is not None]
    low, high = min([end[0] for end in ends] + marked), max([end[1] for end in ends] + marked)
    return float(low) / 1.05, float(high) * 1.05


def _ticks(span: float) -> tuple[float, ...]:
    """Return the multiples of powers of ten that are labelled: fewer, the more the axis spans."""
    if span > 1000:
        return (1.0,)
    if span > 10:
        return (1.0, 3.0) if span > 30 else (1.0, 2.0, 5.0)
    return (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0) if span < 4 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


def _label(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    """Return engine and variant, the settings in which the rows differ, and the percentiles."""
    parts: tuple[Callable[[BenchRow], str], ...] = (
        lambda one: f"batch {one.batch}",
        lambda one: one.settings.described,
        lambda one: one.scenario.described,
    )
    engine = "PyTorch eager" if row.engine == "torch" else f"{row.engine} {row.variant}"
    differing = [part(row) for part in parts if len({part(one) for one in rows}) > 1]
    values = [f"p{100 * share:g} {micro(value)}" for share, value in _percentiles(row) if value is not None]
    return f"{', '.join([engine, *differing])}: {', '.join(values)} us"
