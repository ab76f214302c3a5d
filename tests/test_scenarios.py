"""How requests come: the loops against queueing theory, on a clock that only they move."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from mnist_edge.benchmarking import scenarios
from mnist_edge.benchmarking.scenarios import (
    LOOPS,
    MIN_SAMPLES,
    OFFLINE_IMAGES,
    OVERLOAD,
    RealClock,
    Timed,
    poisson_arrivals,
    refuse_overload,
    single_stream,
)
from mnist_edge.contract import ScenarioName
from mnist_edge.errors import UsageError
from mnist_edge.records.benchmark import Scenario

MS = 1_000_000
S = 1_000 * MS
BEGIN = 12_345
FEEDS = ("a", "b", "c")


class FakeClock:
    """A clock that a model's runs and the loop's waits move, and nothing else."""

    def __init__(self, service: Callable[[int], int]) -> None:
        self.time, self.service = BEGIN, service
        self.feeds: list[Any] = []
        self.waits: list[int] = []

    def now(self) -> int:
        return self.time

    def wait_until(self, when: int) -> None:
        self.waits.append(when)
        self.time = max(self.time, when)

    def run(self, feed: Any) -> tuple[Any, int]:
        """Answer with the input and the number of the run."""
        self.time += self.service(len(self.feeds))
        self.feeds.append(feed)
        return feed, len(self.feeds) - 1


def timed(
    clock: FakeClock,
    name: ScenarioName,
    *,
    feeds: Sequence[Any] = FEEDS,
    batch: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Timed:
    """Send the requests of a scenario to the model of a clock."""
    return LOOPS[name](clock.run, feeds, Scenario(name=name, **{"seconds": 1, **settings}), batch, seed, clock)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.7, 0.8])
def test_server_waits_as_long_as_queueing_theory_says(rho: float) -> None:
    """M/D/1: the mean wait is rho D / (2 (1 - rho)), and the model is busy a share rho of the time."""
    served, count = MS, 200_000
    rate = rho * S / served
    found = timed(FakeClock(lambda _: served), "server", seconds=count / rate, rate_per_s=rate)
    assert len(found.wait_ns) == count
    assert np.mean(found.wait_ns) == pytest.approx(rho * served / (2 * (1 - rho)), rel=0.03)
    assert count * served / found.elapsed_ns == pytest.approx(rho, rel=1e-3)


@pytest.mark.parametrize("rate", [100, 700, 1500])
def test_server_is_lindleys_recursion(rate: int) -> None:
    """Request by request, with service times that vary: W' = max(0, W + S - T), to the nanosecond."""
    count = 3_000
    service = np.random.default_rng(5).integers(0, 2 * MS, count)
    found = timed(FakeClock(lambda run: int(service[run])), "server", seconds=count / rate, rate_per_s=rate, seed=9)
    gaps = np.diff(poisson_arrivals(rate, count / rate, 9))
    waits = [0]
    for served, gap in zip(service[:-1], gaps, strict=True):
        waits.append(max(0, waits[-1] + int(served) - int(gap)))
    assert found.wait_ns == waits
    assert found.run_ns == [wait + int(served) for wait, served in zip(waits, service, strict=True)]


def test_above_capacity_the_wait_grows_as_long_as_requests_come() -> None:
    """Asked for 1.5 times what it can serve, a model falls behind by half a second every second."""
    found = timed(FakeClock(lambda _: MS), "server", seconds=40, rate_per_s=1500)
    due = np.array(poisson_arrivals(1500, 40, 0)) / S
    slope, start = np.polyfit(due, np.array(found.wait_ns) / S, 1)
    assert slope == pytest.approx(0.5, rel=0.03)
    assert abs(start) < 0.5
    assert found.elapsed_ns == pytest.approx(60 * S, rel=1e-3)


def test_one_stall_is_told_by_every_request_that_it_held_up() -> None:
    """No coordinated omission: a second's stall at 100 requests a second is 100 late answers, not one."""
    stalled = 500
    due = np.array(poisson_arrivals(100, 10, 0))
    calm = timed(FakeClock(lambda _: MS), "server", seconds=10, rate_per_s=100)
    found = timed(FakeClock(lambda run: S if run == stalled else MS), "server", seconds=10, rate_per_s=100)
    end = due[stalled] + calm.wait_ns[stalled] + S
    held_up = [index for index in range(stalled + 1, len(due)) if due[index] < end]
    assert 80 < len(held_up) < 120
    assert found.run_ns[:stalled] == calm.run_ns[:stalled]
    for place, index in enumerate(held_up, 1):
        assert found.run_ns[index] == end + place * MS - due[index]
    assert sum(latency > 100 * MS for latency in found.run_ns) > 80
    # The runs themselves were short but for one: timed from their own start, the stall would hide.
    assert sum(run - wait > MS for run, wait in zip(found.run_ns, found.wait_ns, strict=True)) == 1


def test_server_lasts_as_long_as_requests_come_and_as_answers_take() -> None:
    """The rate achieved is over the time asked for, or over the longer time that the answers took."""
    assert timed(FakeClock(lambda _: 1), "server", seconds=2, rate_per_s=50).elapsed_ns == 2 * S
    late = timed(FakeClock(lambda _: S), "server", seconds=2, rate_per_s=50)
    assert late.elapsed_ns == poisson_arrivals(50, 2, 0)[0] + 100 * S


@pytest.mark.parametrize(
    ("rate", "seconds", "count"), [(200, 0.5, 100), (333.3, 3, 1000), (0.01, 1, 1), (1e4, 2, 20_000)]
)
@pytest.mark.parametrize("seed", [0, 11, 12])
def test_arrivals_are_sorted_and_as_many_as_were_asked_for(rate: float, seconds: float, count: int, seed: int) -> None:
    """Exactly the rate asked for, whatever the seed; the same seed sends the same requests."""
    found = poisson_arrivals(rate, seconds, seed)
    assert len(found) == count
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= seconds * S
    assert found == poisson_arrivals(rate, seconds, seed)
    assert found != poisson_arrivals(rate, seconds, seed + 1)


def test_gaps_between_arrivals_are_exponential() -> None:
    """A Poisson process, by Kolmogorov and Smirnov; evenly spaced requests would not pass."""
    gaps = np.diff(poisson_arrivals(1000, 10, 2)) / MS
    assert kstest(gaps, "expon").pvalue > 0.01
    assert kstest(np.random.default_rng(2).uniform(0.9, 1.1, 10_000), "expon").pvalue < 1e-9
    # No memory: a gap says nothing of the next one.
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_a_rate_far_above_capacity_is_refused() -> None:
    """Five times what the model can serve is let pass, more is not; the hint is a rate that it can serve."""
    served = 2 * MS
    refuse_overload(Scenario(name="server", seconds=1, rate_per_s=OVERLOAD * 500), served)
    with pytest.raises(UsageError, match=r"--rate 2501 is over 5 times .*\(500 per second\)") as caught:
        refuse_overload(Scenario(name="server", seconds=1, rate_per_s=OVERLOAD * 500 + 1), served)
    assert caught.value.hint == "--rate 400 or less"
    for name in ("single-stream", "multi-stream", "offline"):
        refuse_overload(Scenario(name=name, seconds=1), 1e15)
    refuse_overload(Scenario(name="server", seconds=1, rate_per_s=1e6), 0)


@pytest.mark.parametrize(("batch", "runs"), [(1, 8), (3, 3), (8, 1), (16, 1)])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_a_query_of_multi_stream_is_eight_images(batch: int, runs: int, count: int) -> None:
    """A query takes as many runs as eight images need, is timed as one, and every feed has its turn."""
    clock = FakeClock(lambda _: MS)
    feeds = [f"feed {index}" for index in range(count)]
    found = timed(clock, "multi-stream", feeds=feeds, batch=batch, seconds=1)
    assert found.run_ns == [runs * MS] * (1000 // runs + (1000 % runs > 0))
    assert len(clock.feeds) == runs * len(found.run_ns)
    assert set(clock.feeds) == set(feeds)
    assert found.outputs.keys() == set(range(count))
    assert all(answer[0] == feeds[index] for index, answer in found.outputs.items())


@pytest.mark.parametrize("batch", [1, 7, 64, 24_576, 30_000])
def test_offline_runs_all_images_once(batch: int) -> None:
    """At least 24,576 images, and no batch more than that takes; seconds do not matter."""
    clock = FakeClock(lambda _: MS)
    found = timed(clock, "offline", batch=batch, seconds=0.001)
    assert OFFLINE_IMAGES == 24_576 <= batch * len(found.run_ns) < OFFLINE_IMAGES + batch
    assert set(found.run_ns) == {MS}
    assert found.elapsed_ns == sum(found.run_ns)
    assert clock.feeds[:4] == ["a", "b", "c", "a"][: len(found.run_ns)]


@pytest.mark.parametrize(("gap", "seconds", "count"), [(100, 2, 20), (0.1, 0.1, 1000), (1000, 1, 10), (3, 1, 334)])
def test_idle_pauses_before_each_request(gap: float, seconds: float, count: int) -> None:
    """The whole gap lies between an answer and the next request, and is in no latency."""
    clock = FakeClock(lambda run: MS + run)
    found = timed(clock, "idle", gap_ms=gap, seconds=seconds)
    assert found.run_ns == [MS + run for run in range(count)]
    ends = np.cumsum([BEGIN, *(int(gap * MS) + latency for latency in found.run_ns)])
    assert clock.waits == [end + int(gap * MS) for end in ends[:-1]]
    assert found.elapsed_ns == ends[-1] - BEGIN


def test_single_stream_lasts_its_time_and_sends_the_feeds_in_turn() -> None:
    """One after the other, without a pause, until the time is over."""
    clock = FakeClock(lambda _: 7 * MS)
    found = timed(clock, "single-stream", seconds=1)
    assert found.run_ns == [7 * MS] * 143
    assert found.elapsed_ns == 143 * 7 * MS
    assert clock.feeds == list(FEEDS * 48)[:143]
    assert clock.waits == []


@pytest.mark.parametrize("name", ["single-stream", "multi-stream"])
def test_at_least_thirty_requests_are_timed(name: ScenarioName) -> None:
    """However short the time, there are enough samples for a median and a p90."""
    assert len(timed(FakeClock(lambda _: 900 * MS), name, batch=8, seconds=0.01).run_ns) == MIN_SAMPLES == 30


@pytest.mark.parametrize(
    ("name", "settings"),
    [("single-stream", {}), ("offline", {}), ("idle", {"gap_ms": 1}), ("server", {"rate_per_s": 100})],
)
def test_the_last_answer_to_each_feed_is_kept(name: ScenarioName, settings: dict[str, float]) -> None:
    """What is judged is what the timed runs answered, beside the input that it belongs to; only `server` waits."""
    clock = FakeClock(lambda _: MS)
    found = timed(clock, name, batch=100, **settings)
    runs = len(clock.feeds)
    last = {feed: max(run for run in range(runs) if clock.feeds[run] == feed) for feed in FEEDS}
    assert found.outputs == {index: (feed, last[feed]) for index, feed in enumerate(FEEDS)}
    assert len(found.wait_ns) == (runs if name == "server" else 0)


def test_every_scenario_that_can_be_asked_for_has_its_loop() -> None:
    """No name reaches a timing process that does not know it."""
    from typing import get_args

    assert LOOPS.keys() == set(get_args(ScenarioName))
    assert LOOPS["single-stream"] is single_stream


def test_the_real_clock_never_returns_early_and_corrects_a_late_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep ends short of the moment, which is then waited for awake; a moment that has passed costs nothing."""
    state = {"now": 0}
    slept: list[float] = []

    def tick() -> int:
        state["now"] += 1_000
        return state["now"]

    def late_sleep(seconds: float) -> None:
        slept.append(seconds)
        state["now"] += int(seconds * S) + 90_000

    monkeypatch.setattr(time, "perf_counter_ns", tick)
    monkeypatch.setattr(time, "sleep", late_sleep)
    clock = RealClock()
    clock.wait_until(50 * MS)
    assert slept == [pytest.approx((50 * MS - scenarios.SPIN_NS) / S, rel=1e-4)]
    assert 50 * MS <= state["now"] <= 50 * MS + 1_000
    clock.wait_until(50 * MS + 150_000)
    assert len(slept) == 1
    assert state["now"] >= 50 * MS + 150_000
    before = state["now"]
    clock.wait_until(0)
    assert (len(slept), state["now"] - before) == (1, 2_000)
