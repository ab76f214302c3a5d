"""From samples to figures: resampling by process, intervals that cover, and what a row sums up."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from mnist_edge.benchmarking.compare import effect
from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.process import ProcessResult
from mnist_edge.benchmarking.rounds import timing_notes
from mnist_edge.benchmarking.row import make_row, with_ratios
from mnist_edge.errors import CheckFailedError
from mnist_edge.records.benchmark import Candidate, GpuCalls, Scenario
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.stats import RESAMPLES, interval, percentile, percentile_resamples, ratio_of_means

SINGLE = Scenario(seconds=1)
FIGURES = st.lists(st.floats(0.5, 1000), min_size=2, max_size=12)


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


def naive(groups: list[list[float]], share: float, random: np.random.Generator) -> float:
    """One draw by the definition: draw processes, pool their samples, take the percentile."""
    drawn = random.integers(0, len(groups), len(groups))
    pooled = sorted(time for index in drawn for time in groups[index])
    return pooled[math.ceil(share * len(pooled)) - 1]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_resampling_draws_whole_processes_as_the_naive_bootstrap_does(share: float) -> None:
    """Fast and by the definition: the same values, as often."""
    random = np.random.default_rng(1)
    groups = [
        list(random.lognormal(level, 0.2, int(size))) for level, size in zip((0, 0.1, 0.5), (60, 90, 110), strict=True)
    ]
    expected = [naive(groups, share, random) for _ in range(RESAMPLES)]
    found = percentile_resamples(groups, share, seed=4)
    assert found.shape == (RESAMPLES,)
    assert set(found) == set(expected)
    assert ks_2samp(found, expected).pvalue > 0.01
    counts = [Counter(values) for values in (found, expected)]
    assert all(abs(counts[0][value] - counts[1][value]) < 5 * math.sqrt(RESAMPLES / 4) for value in set(expected))


def test_resamples_of_many_samples_lie_within_a_hair_of_the_exact_ones() -> None:
    """Beyond 4,096 samples values are read off a grid: that moves a percentile by a few samples in ten thousand."""
    random = np.random.default_rng(3)
    groups = [random.lognormal(level, 0.3, 8_000) for level in (0, 0.1, 0.4)]
    pooled = np.sort(np.concatenate(groups))
    for share in (0.5, 0.99, 0.999):
        exact = {}
        for drawn in ((a, b, c) for a in range(3) for b in range(a, 3) for c in range(b, 3)):
            exact[drawn] = percentile(np.concatenate([groups[index] for index in drawn]), share)
        expected = np.searchsorted(pooled, sorted(exact.values()))
        found = np.searchsorted(pooled, np.unique(percentile_resamples(groups, share, seed=0)))
        away = np.abs(found[:, None] - expected)
        assert max(away.min(axis=0).max(), away.min(axis=1).max()) <= 0.001 * len(pooled)


def test_resamples_keep_two_candidates_paired() -> None:
    """Equal seeds draw the same rounds: what slows both in one round cancels in their ratio."""
    levels = np.random.default_rng(2).lognormal(0, 0.5, 6)
    one = [[level * time for time in (1.0, 1.1, 1.2)] for level in levels]
    twice = [[2 * time for time in group] for group in one]
    ratio = percentile_resamples(twice, 0.5, 3) / percentile_resamples(one, 0.5, 3)
    assert ratio == pytest.approx(2)
    assert np.ptp(percentile_resamples(twice, 0.5, 4) / percentile_resamples(one, 0.5, 3)) > 0.1


def test_processes_that_agree_have_a_narrow_interval_and_others_a_wide_one() -> None:
    """The process is the unit: a million equal samples of five processes that differ say little."""
    random = np.random.default_rng(1)
    alike = [list(random.normal(100, 1, 500)) for _ in range(5)]
    apart = [list(random.normal(level, 1, 500)) for level in (80, 90, 100, 110, 120)]
    widths = [np.ptp(interval(percentile_resamples(groups, 0.5, 0), 5, 0.95)) for groups in (alike, apart)]
    assert widths[0] < 0.5
    assert widths[1] > 20


@pytest.mark.parametrize("count", [2, 3, 5, 10, 1000])
def test_the_interval_is_wider_than_the_plain_one_for_few_processes(count: int) -> None:
    """Its tails lie where Student's t has them; with many units nothing is left of the difference."""
    drawn = np.random.default_rng(0).normal(0, 1, 100_000)
    low, high = interval(drawn, count, 0.95)
    plain = np.quantile(drawn, [0.025, 0.975])
    if count < 100:
        assert low < plain[0] < plain[1] < high
    else:
        assert (low, high) == pytest.approx(tuple(plain), abs=0.02)
    assert -low == pytest.approx(high, rel=0.1)


def test_one_process_says_nothing() -> None:
    """No interval is made up of a single process."""
    assert interval(np.ones(RESAMPLES), 1, 0.95) == (0, math.inf)
    for sides in (([1.0], [5.0, 5.1]), ([1.0, 1.1], [5.0]), ([1.0], [5.0])):
        assert ratio_of_means(*sides, 0.99)[1:] == (0, math.inf)
        assert effect(*sides).verdict == "undecided"


@pytest.mark.parametrize(("count", "least"), [(5, 0.905), (10, 0.93)])
def test_the_interval_of_a_mean_covers_the_truth(count: int, least: float) -> None:
    """A 95 % interval holds the true mean over 90 times in 100 for five processes, 94 for ten; the plain one less."""
    random = np.random.default_rng(8)
    truth, trials = 1.5, 1000
    covered = plain = 0
    for _ in range(trials):
        values = random.normal(truth, 0.2, count)
        drawn = random.choice(values, (RESAMPLES, count)).mean(axis=1)
        low, high = interval(drawn, count, 0.95)
        covered += low <= truth <= high
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain += low <= truth <= high
    assert least <= covered / trials <= 0.98
    assert plain < covered - 0.01 * trials


@pytest.mark.parametrize("count", [5, 10])
def test_the_interval_of_a_median_over_processes_covers_the_truth(count: int) -> None:
    """The same for what a row shows: the p50 of samples that are alike within a process."""
    random = np.random.default_rng(6)
    trials = 400
    covered = 0
    for _ in range(trials):
        groups = [list(level + random.normal(100, 4, 9)) for level in random.normal(0, 2, count)]
        low, high = interval(percentile_resamples(groups, 0.5, int(random.integers(2**30))), count, 0.95)
        covered += low <= 100 <= high
    assert covered / trials >= 0.92


@pytest.mark.parametrize("count", [5, 10])
def test_the_ratio_of_two_sets_covers_the_truth(count: int) -> None:
    """The interval that decides `compare` holds the true ratio 99 times in 100."""
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(500):
        sides = [random.lognormal(level, 0.05, count) for level in (0, math.log(1.2))]
        _, low, high = ratio_of_means(*sides, 0.99, int(random.integers(2**30)))
        covered += low <= 1.2 <= high
    assert covered / 500 >= 0.97


@pytest.mark.parametrize(("count", "most"), [(5, 30), (10, 20)])
def test_equal_speeds_are_rarely_called_different(count: int, most: int) -> None:
    """Noise is news in less than 3 % of a thousand comparisons of five processes, and 2 % of ten."""
    random = np.random.default_rng(12)
    alarms = 0
    for _ in range(1000):
        alarms += effect(random.lognormal(3, 0.1, count), random.lognormal(3, 0.1, count)).verdict != "undecided"
    assert alarms < most


def test_a_real_difference_is_found() -> None:
    """The other error: 10 % at 1 % of noise is seen every time, in the right direction."""
    random = np.random.default_rng(12)
    for _ in range(50):
        base, slow = random.lognormal(3, 0.01, 5), random.lognormal(3 + math.log(1.1), 0.01, 5)
        assert (effect(base, slow).verdict, effect(slow, base).verdict) == ("slower", "faster")


@settings(max_examples=60, deadline=None)
@given(baseline=FIGURES, candidate=FIGURES, factor=st.floats(0.01, 100))
def test_a_side_in_other_units_scales_the_ratio_and_its_interval(
    baseline: list[float], candidate: list[float], factor: float
) -> None:
    """Milliseconds or microseconds: the same comparison."""
    whole = np.array(ratio_of_means(baseline, candidate, 0.99))
    assert whole[1] <= whole[0] * (1 + 1e-9)
    assert whole[0] <= whole[2] * (1 + 1e-9)
    scaled = ratio_of_means(baseline, [factor * value for value in candidate], 0.99)
    assert scaled == pytest.approx(factor * whole, rel=1e-9)
    both = ratio_of_means([factor * value for value in baseline], [factor * value for value in candidate], 0.99)
    assert both == pytest.approx(whole, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(baseline=FIGURES, candidate=FIGURES)
def test_swapping_the_sides_inverts_the_ratio(baseline: list[float], candidate: list[float]) -> None:
    """Slower one way is as much faster the other way."""
    assert ratio_of_means(candidate, baseline, 0.95)[0] == pytest.approx(
        1 / ratio_of_means(baseline, candidate, 0.95)[0], rel=1e-9
    )


@pytest.mark.parametrize("counts", [(5, 5), (10, 5), (5, 10), (20, 20)])
def test_swapping_the_sides_swaps_the_ends_of_the_interval(counts: tuple[int, int]) -> None:
    """Neither side is favoured: the ends change places, but for the luck of the draw."""
    random = np.random.default_rng(7)
    for _ in range(20):
        baseline, candidate = (random.lognormal(3, 0.1, count) for count in counts)
        _, low, high = ratio_of_means(baseline, candidate, 0.95)
        _, other_low, other_high = ratio_of_means(candidate, baseline, 0.95)
        slack = 0.15 * math.log(high / low)
        assert math.log(other_low) == pytest.approx(-math.log(high), abs=slack)
        assert math.log(other_high) == pytest.approx(-math.log(low), abs=slack)


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
