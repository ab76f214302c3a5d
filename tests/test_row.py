"""From the runs of processes to a row: percentiles, intervals, ratios, memory and start-up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.process import ProcessResult
from mnist_edge.benchmarking.rounds import timing_notes
from mnist_edge.benchmarking.row import make_row, with_ratios
from mnist_edge.errors import CheckFailedError
from mnist_edge.records.benchmark import Candidate, GpuCalls, Scenario
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings

SINGLE = Scenario(seconds=1)


def result_of(run_us: list[float], **changes: Any) -> ProcessResult:
    """What a process that took so long for each run would have said."""
    fields: dict[str, Any] = {
        "process_ns": 300_000_000, "session_ns": 20_000_000, "first_run_ns": 1_000_000, "warmup_runs": 9,
        "run_ns": [round(1000 * time) for time in run_us], "wait_ns": [], "elapsed_ns": round(1000 * sum(run_us)),
        "peak_rss_bytes": 50_000_000, "placement": {"CPUExecutionProvider": 5}, "check": OutputCheck(images=64, flips=0),
    }  # fmt: skip
    return ProcessResult(**{**fields, **changes})


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    """A file of 1,234 bytes on onnxruntime."""
    (tmp_path / "model.onnx").write_bytes(bytes(1234))
    return Candidate(
        engine="onnxruntime", variant="fp32", file=tmp_path / "model.onnx", settings=DEFAULT_SETTINGS, batch=1,
        scenario=SINGLE,
    )  # fmt: skip


def test_a_row_sums_up_its_processes(candidate: Candidate) -> None:
    """Percentiles over all samples, cold start and its parts as medians, memory as the largest."""
    slow = [float(time) for time in range(100, 200)]
    results = [
        result_of(slow, process_ns=300_000_000, session_ns=10_000_000, first_run_ns=3_000_000),
        result_of(
            slow[::-1],
            process_ns=100_000_000,
            session_ns=90_000_000,
            first_run_ns=1_000_000,
            check=OutputCheck(images=60, flips=0),
        ),
        result_of(
            slow * 2, process_ns=200_000_000, session_ns=20_000_000, first_run_ns=9_000_000, peak_rss_bytes=70_000_000
        ),
    ]
    row = make_row(candidate, results)
    assert (row.samples, row.outliers, row.bytes) == (400, 0, 1234)
    assert [process.runs for process in row.processes] == [100, 100, 200]
    assert {process.p50_us for process in row.processes} == {149}
    assert (row.p50_us, row.p90_us, row.p99_us, row.p999_us) == (149, 189, 198, None)
    assert row.intervals.keys() == {"p50_us", "p90_us", "p99_us"}
    assert (row.process_ms, row.session_ms, row.first_run_ms) == (200, 20, 3)
    assert row.cold_start_ms == 229  # of 313, 191 and 229: the median of the sums, not the sum of the medians
    assert row.peak_rss_mb == 70
    assert row.throughput_per_s == pytest.approx(1e6 / np.mean(slow))
    assert row.outputs == "188 predictions checked against golden.npz"
    assert row.run_us == tuple(tuple(time.run_ns[i] / 1000 for i in range(len(time.run_ns))) for time in results)
    assert "run_us" not in str(row)


def test_outliers_are_counted_and_kept(candidate: Candidate) -> None:
    """A run beyond three interquartile ranges is told, and no figure leaves it out."""
    times = [float(time) for time in range(100, 200)] * 4
    row = make_row(candidate, [result_of([*times, 5000.0, 6000.0, 320.0])])
    assert (row.samples, row.outliers) == (403, 2)
    assert max(row.run_us[0]) == 6000
    assert row.p99_us == 199
    assert make_row(candidate, [result_of([*times, 5000.0] + [6000.0] * 9)]).p99_us == 6000
    assert row.intervals == {}


@pytest.mark.parametrize(("runs", "known"), [(2994, False), (2995, True)])
def test_the_last_thousandth_needs_three_thousand_runs(runs: int, known: bool, candidate: Candidate) -> None:
    """p99.9 is given with its interval from 2,995 samples in all, and is None before."""
    times = [float(time) for time in range(1, runs + 1)]
    row = make_row(candidate, [result_of(times[::2]), result_of(times[1::2])])
    assert (row.p999_us is not None) == known == ("p999_us" in row.intervals)
    assert all(process.p99_us is not None for process in row.processes)


def test_a_wrong_decision_makes_no_row(candidate: Candidate) -> None:
    """One of many processes that answered wrongly is enough."""
    wrong = OutputCheck(images=64, flips=2, problem="2 of 64 predictions of timed runs differ")
    with pytest.raises(CheckFailedError, match="fp32 on onnxruntime: 2 of 64 predictions of timed runs differ"):
        make_row(candidate, [result_of([1.0] * 30), result_of([1.0] * 30, check=wrong)])


@pytest.mark.parametrize(("batch", "images"), [(1, 8), (3, 8), (8, 8), (16, 16)])
def test_a_query_of_multi_stream_counts_its_images(batch: int, images: int, candidate: Candidate) -> None:
    """Throughput is of images that were asked for, not of those that fill up the last run."""
    asked = dataclasses.replace(candidate, batch=batch, scenario=Scenario(name="multi-stream", seconds=1))
    assert make_row(asked, [result_of([1000.0] * 50)]).throughput_per_s == pytest.approx(1000 * images)
    one = dataclasses.replace(candidate, batch=batch)
    assert make_row(one, [result_of([1000.0] * 50)]).throughput_per_s == pytest.approx(1000 * batch)


def test_server_figures_tell_waits_from_work(candidate: Candidate) -> None:
    """Rate, service, wait and load come from both processes; a model that cannot keep up is told."""
    scenario = Scenario(name="server", seconds=2, rate_per_s=100)
    asked = dataclasses.replace(candidate, scenario=scenario)
    waits = [index * 1000.0 for index in range(200)]
    late = result_of(
        [wait + 11_000 for wait in waits], wait_ns=[round(1000 * wait) for wait in waits], elapsed_ns=2_200_000_000
    )
    row = make_row(asked, [late, late])
    assert row.server is not None
    assert (row.server.asked_per_s, row.server.service_p50_us) == (100, 11_000)
    assert row.server.achieved_per_s == pytest.approx(200 / 2.2)
    assert row.server.utilization == pytest.approx(1)
    assert (row.server.wait_p50_us, row.server.wait_p99_us) == (99_000, 197_000)
    assert row.p50_us == 110_000
    (note,) = timing_notes([row], [1, 1])
    assert "more than the model can serve (91)" in note
    in_time = make_row(asked, [result_of([11_000.0] * 200, wait_ns=[0] * 200, elapsed_ns=2_000_000_000)])
    assert in_time.server is not None
    assert (in_time.server.achieved_per_s, in_time.server.utilization) == (100, pytest.approx(1.1))
    assert timing_notes([in_time], [1, 1]) == []
    assert make_row(candidate, [result_of([1.0] * 30)]).server is None


@pytest.mark.parametrize(("pace", "told"), [((10, 11, 11.4), False), ((10, 10, 12, 11), True), ((15, 10), True)])
def test_a_machine_that_slows_down_is_told(pace: tuple[float, ...], told: bool) -> None:
    """A fixed piece of work that takes over 15 % longer in one round says which round, and by how much."""
    notes = timing_notes([], pace)
    assert bool(notes) == told
    if told:
        assert f"{max(pace) / min(pace):.2f} times" in notes[0]
        assert f"in round {pace.index(max(pace)) + 1} " in notes[0]


def test_a_ratio_is_of_the_same_settings_and_of_the_same_rounds(candidate: Candidate) -> None:
    """What slows a whole round slows both: it is no part of the ratio's interval. Others have no ratio."""
    levels = (1.0, 1.4, 0.7, 2.0, 1.1)
    ours = make_row(candidate, [result_of([level * (40 + index % 3) for index in range(60)]) for level in levels])
    torch = dataclasses.replace(candidate, engine="torch")
    theirs = make_row(torch, [result_of([level * 2 * (40 + index % 3) for index in range(60)]) for level in levels])
    alone = dataclasses.replace(ours, batch=64)
    first, second, third = with_ratios([ours, theirs, alone])
    assert first.ratio_to_torch == pytest.approx(0.5)
    assert first.intervals["ratio_to_torch"] == pytest.approx((0.5, 0.5))
    low, high = first.intervals["p50_us"]
    assert high / low > 1.5
    assert (second.ratio_to_torch, second.intervals["ratio_to_torch"]) == (1, (1, 1))
    assert (third.ratio_to_torch, third.intervals) == (None, alone.intervals)
    for changes in ({"settings": SessionSettings(threads=2)}, {"scenario": Scenario(name="offline", seconds=1)}):
        assert with_ratios([dataclasses.replace(ours, **changes), theirs])[0].ratio_to_torch is None


def test_transfers_are_medians_over_processes(candidate: Candidate) -> None:
    """One process that was disturbed does not decide where the time of a GPU run goes."""
    parts = [
        GpuCalls(
            copy_in_us=1.0 + n,
            compute_us=5.0,
            copy_out_us=2.0,
            whole_us=8.0 * (1 + 9 * (n == 2)),
            sum_over_whole=1.0,
        )
        for n in range(3)
    ]
    row = make_row(candidate, [result_of([1.0] * 30, gpu_calls=part) for part in parts])
    assert row.gpu_calls == GpuCalls(copy_in_us=2, compute_us=5, copy_out_us=2, whole_us=8, sum_over_whole=1)
    assert make_row(candidate, [result_of([1.0] * 30)]).gpu_calls is None
