"""latency.png: readable however many rows there are and however far apart they lie."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare import result, row

from mnist_edge.records.benchmark import BenchRow
from mnist_edge.reporting.plots import latency


def timed(level: float, seed: int, **changes: Any) -> BenchRow:
    """A row whose runs take about `level` microseconds, with a long tail and one run a thousand times as slow."""
    random = np.random.default_rng(seed)
    groups = [level * (1 + random.gamma(1.2, 0.1, 400)) for _ in range(5)]
    groups[0][0] = 1000 * level
    times = np.concatenate(groups)
    p50, p90, p99 = (float(np.quantile(times, share)) for share in (0.5, 0.9, 0.99))
    runs = tuple(tuple(group) for group in groups)
    return dataclasses.replace(row(**changes), run_us=runs, p50_us=p50, p90_us=p90, p99_us=p99)


ROWS = {
    "one": [timed(80, 0)],
    "four alike": [timed(80 + 2 * index, index, threads=index + 1) for index in range(4)],
    "six": [timed(80 * 1.5**index, index, batch=2**index) for index in range(6)],
    "far apart": [timed(20 * 10**index, index, batch=4**index) for index in range(5)],
    "too few runs for p90": [dataclasses.replace(timed(80, 0), p90_us=None, p99_us=None)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_no_text_of_the_figure_hides_another_or_a_curve(
    rows: list[BenchRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tick labels keep apart, at least two are shown, the legend lies below the axes, and a slow run squeezes nothing."""
    figures: list[Any] = []
    monkeypatch.setattr(latency, "save_figure", lambda figure, path: figures.append(figure) or path)
    latency.plot_latencies(result(*rows), tmp_path / "latency.png")
    (figure,) = figures
    figure.canvas.draw()
    (axes,) = figure.axes
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 <= axes.xaxis.label.get_window_extent().y0
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1
    low, high = axes.get_xlim()
    shown = [
        label.get_window_extent()
        for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        if low <= place <= high and label.get_text()
    ]
    assert len(shown) >= 2
    assert all(one.x1 + 4 <= other.x0 for one, other in pairwise(shown))
    assert low <= min(one.p50_us for one in rows)
    assert max(one.p99_us or one.p50_us for one in rows) <= high < 30 * max(one.p50_us for one in rows)
    assert len(figure.legends[0].get_texts()) == len(axes.get_lines()) / 2 == len(rows)
