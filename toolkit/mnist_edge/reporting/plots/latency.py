"""The distribution of latencies."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.records.benchmark import BenchReport
from mnist_edge.reporting.plots.figure import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    pass


def plot_latencies(report: BenchReport, path: Path) -> Path:
    """Draw the share of requests answered within a time, a line a candidate, percentiles marked."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    for row, colour in zip(report.results, cycle(COLOURS)):
        times = np.sort(np.concatenate([np.asarray(group) for group in row.run_us]))
        shares = np.arange(1, len(times) + 1) / len(times)
        label = f"{row.engine} {row.variant}, batch {row.batch}, {row.settings.described}, {row.scenario.described}"
        axes.step(times, shares, where="post", color=colour, linewidth=1.6, label=label)
        for share, value in ((0.5, row.p50_us), (0.9, row.p90_us), (0.99, row.p99_us)):
            if value is not None:
                axes.plot(value, share, "o", color=colour, markersize=4)
                axes.annotate(
                    f"p{100 * share:g} {value:,.4g}", (value, share), xytext=(5, -9), textcoords="offset points",
                    fontsize=7, color=colour,
                )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.4g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("microseconds a request")
    axes.set_ylabel("share of requests answered")
    axes.set_ylim(0, 1.02)
    axes.set_title(f"{report.model}: {report.results[0].scenario.name}", loc="left")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return save_figure(figure, path)
