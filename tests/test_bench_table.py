"""The table of bench and of run: 80 columns, headline first, one wording for ratios."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_compare import result, row

from mnist_edge.records.benchmark import BenchReport, BenchRow, GpuCalls, OperatorTime, Scenario, ServerFigures
from mnist_edge.records.settings import SessionSettings
from mnist_edge.reporting.tables.bench import bench_table, headline, versus_torch
from mnist_edge.reporting.tables.run import run_table

LARGE: dict[str, Any] = {
    "batch": 24_576, "p50_us": 98_765.4, "p99_us": 187_654.4, "p999_us": 198_765.4, "throughput_per_s": 1_987_654.3,
    "cold_start_ms": 19_123.0, "ratio_to_torch": 12.34, "outliers": 123,
    "intervals": {"p50_us": (56_200.4, 220_000.4), "p999_us": (190_000.0, 290_000.0), "ratio_to_torch": (11.0, 16.0)},
}  # fmt: skip
SERVER = ServerFigures(
    asked_per_s=12_345.6, achieved_per_s=12_340.1, service_p50_us=98_765.4, wait_p50_us=123_456.7,
    wait_p99_us=1_234_567.8, utilization=0.98,
)  # fmt: skip
CALLS = GpuCalls(copy_in_us=1234.5, compute_us=98_765.4, copy_out_us=1234.5, whole_us=101_234.5, sum_over_whole=1.0)


def worst() -> list[BenchRow]:
    """Large numbers in every column, long names, several thread counts, a graph and a row beside it on the CPU."""
    return [
        dataclasses.replace(row(), **{**LARGE, **changes})
        for changes in (
            {"settings": SessionSettings(provider="cuda"), "gpu_calls": CALLS},
            {"settings": SessionSettings(provider="cuda", cuda_graph=True), "gpu_calls": CALLS},
            {"settings": SessionSettings(threads=128), "variant": "int8-static-percentile-calibrated"},
            {"engine": "torch", "ratio_to_torch": 1.0},
            {"scenario": Scenario(name="server", seconds=2, rate_per_s=12_345.6), "server": SERVER},
        )
    ]


def lines(report: BenchReport, *, verbose: bool = False) -> list[str]:
    """The table as a terminal of 80 columns shows it."""
    console = Console(width=80, file=io.StringIO(), highlight=False, markup=False)
    console.print(bench_table(report, verbose=verbose))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_worst_table_fits_eighty_columns_and_no_number_is_broken(scale: float) -> None:
    """Every number of every row stands whole in one line, also where a median is over a minute, in milliseconds then."""
    rows = [
        dataclasses.replace(
            one, p50_us=scale * one.p50_us, p99_us=scale * LARGE["p99_us"],
            intervals={**one.intervals, "p50_us": (scale * 56_200, scale * 220_000)},
        )
        for one in worst()
    ]  # fmt: skip
    profile = (
        OperatorTime(operator="FusedGemm", provider="CUDAExecutionProvider", calls=270, us_per_run=98.7, share=1),
    )
    report = dataclasses.replace(result(*rows), gpu_from_batch=1024, profile=profile, notes=("a note " * 30,))
    shown = lines(report, verbose=True)
    assert max(map(len, shown)) <= 80
    text = "\n".join(shown)
    for number in ("24576", "98,765", "±123%", "12.34x slower", "1,987,654", "19,123"):
        assert text.count(number) >= len(rows) - (number == "12.34x slower"), number
    assert "1,234,568" in text
    assert "12,340.1" in text


def test_the_headline_stands_above_the_statistics() -> None:
    """Latency, throughput and the ratio with its interval, before any table; one line for each variant."""
    ours = row(p50_us=121.6, throughput_per_s=8120.4, ratio_to_torch=0.725, intervals={"ratio_to_torch": (0.7, 0.75)})
    int8 = dataclasses.replace(ours, variant="int8", p50_us=64.5, ratio_to_torch=0.385, intervals={})
    torch = dataclasses.replace(ours, engine="torch", p50_us=167.7, ratio_to_torch=1.0)
    shown = " ".join(lines(result(ours, int8, torch))).split("us a request")[0]
    assert shown.startswith(
        "onnxruntime fp32, batch 1: p50 121.6 us, 8,120 images/s, 1.38x faster than PyTorch eager ±3.4% "
        "onnxruntime int8, batch 1: p50 64.5 us, 8,120 images/s, 2.60x faster than PyTorch eager"
    )
    assert headline(dataclasses.replace(ours, ratio_to_torch=None)).endswith("8,120 images/s")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.5346, "1.87x faster than PyTorch eager"),
        (1.1, "1.10x slower than PyTorch eager"),
        (1.0, "same speed as PyTorch eager"),
    ],
)
def test_a_ratio_has_one_wording(ratio: float, words: str) -> None:
    """A factor above 1 and its direction, whichever way."""
    assert versus_torch(ratio) == words


def test_outliers_and_the_last_thousandth_are_shown_on_request_only() -> None:
    """They are in the JSON; the table stays short."""
    report = result(dataclasses.replace(row(), p999_us=250.0, intervals={"p999_us": (240.0, 260.0)}))
    assert not re.search(r"p99\.9|outlier", "\n".join(lines(report)))
    shown = "\n".join(lines(report, verbose=True))
    assert "p99.9 250.0 us ±4.0%" in shown
    assert "3 of 2,500 runs are far outliers" in shown
    assert report.to_json()["results"][0]["outliers"] == 3


def test_what_all_rows_share_stands_above_once() -> None:
    """Provider, scenario and thread count; a column of threads only where they differ."""
    two = row(threads=2)
    assert "exported/digits on cpu, single-stream, 1 thread: us a request" in "\n".join(lines(result(row())))
    shown = "\n".join(lines(result(row(), two)))
    assert "1 thread" not in shown
    assert "threads" in shown


def test_long_latencies_are_in_milliseconds() -> None:
    """A table whose medians reach a tenth of a second changes its unit as a whole."""
    shown = "\n".join(lines(result(row(p50_us=50.0), row(p50_us=250_000.0, batch=64))))
    assert "ms a request" in shown
    assert "250.0" in shown


def test_run_shows_the_headline_and_what_makes_it_doubtful() -> None:
    """The same sentence as bench, and its note that the machine is busy."""
    ours = row(p50_us=121.6, throughput_per_s=8120.4, ratio_to_torch=0.5346)
    bench = dataclasses.replace(result(ours), notes=("the machine is busy (load 9 on 2 CPUs): timings vary",))
    parity = SimpleNamespace(
        accuracy=None, max_abs_error=1e-6, flips=0, images=376, flip_rate_upper95=0.008, name="fp32", passed=True
    )
    report = SimpleNamespace(
        train=SimpleNamespace(
            dataset="digits", test_accuracy=0.97, recipe="fast", epochs=1, seconds=1.0, checkpoint="c", run=Path("r")
        ),
        export=SimpleNamespace(variants=(SimpleNamespace(bytes=10**6),), bundle="b"),
        verify=SimpleNamespace(variants=(parity,)),
        bench=bench,
    )
    console = Console(width=80, file=io.StringIO(), highlight=False, markup=False)
    console.print(run_table(report))  # type: ignore[arg-type]
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "onnxruntime fp32, batch 1: p50 121.6 us, 8,120 images/s, 1.87x faster than PyTorch eager" in shown
    assert "the machine is busy (load 9 on 2 CPUs)" in shown
