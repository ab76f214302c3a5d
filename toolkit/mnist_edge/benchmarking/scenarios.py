"""The timed loops: MLPerf Inference's scenarios, and single requests after pauses.

Every loop takes the clock as an argument, so that tests can compare it with queueing theory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mnist_edge.contract import ScenarioName
from mnist_edge.errors import UsageError
from mnist_edge.records.benchmark import Scenario

MIN_SAMPLES = 30
QUERY_IMAGES = 8
"""Images of one query of `multi-stream`, as in MLPerf Inference."""
OFFLINE_IMAGES = 24_576
"""Images of `offline`: the minimum of MLPerf Inference."""
OVERLOAD = 5
"""Largest accepted rate of `server`, as a multiple of what the model can serve; with more, the queue takes too long."""
SPIN_NS = 200_000
"""Part of a pause, in nanoseconds, that is spent in a busy loop: `time.sleep` returns up to 0.1 ms late."""

Run = Callable[[Any], Any]


class Clock(Protocol):
    """Time in nanoseconds, and a way to wait."""

    def now(self) -> int:
        """Return the time."""

    def wait_until(self, when: int) -> None:
        """Return at `when`, or at once if that has passed."""


class RealClock:
    """The monotonic clock of the machine."""

    def now(self) -> int:
        """Return the time."""
        return time.perf_counter_ns()

    def wait_until(self, when: int) -> None:
        """Sleep, then loop until `when`: a late wake-up would be charged to the model."""
        left = when - time.perf_counter_ns()
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)
        while time.perf_counter_ns() < when:
            pass


@dataclass(kw_only=True)
class Timed:
    """Measurements of a loop, in nanoseconds.

    Attributes:
        run_ns: latency of each request: from its start, or in `server` from the moment it was due.
        wait_ns: of that, the time before its run began (`server` only).
        elapsed_ns: from the start of the loop to its last output.
        outputs: the last output for each distinct input that was run.
    """

    run_ns: list[int] = field(default_factory=list)
    wait_ns: list[int] = field(default_factory=list)
    elapsed_ns: int = 0
    outputs: dict[int, Any] = field(default_factory=dict)


def single_stream(run: Run, feeds: Sequence[Any], scenario: Scenario, _batch: int, _seed: int, clock: Clock) -> Timed:
    """Time one request after the other, for `seconds` and at least 30 requests."""
    timed, now, count = Timed(), clock.now, len(feeds)
    started = now()
    end = started + int(scenario.seconds * 1e9)
    turn, after = 0, started
    while after < end or turn < MIN_SAMPLES:
        index = turn % count
        feed = feeds[index]
        before = now()
        output = run(feed)
        after = now()
        timed.run_ns.append(after - before)
        timed.outputs[index] = output
        turn += 1
    timed.elapsed_ns = after - started
    return timed


def multi_stream(run: Run, feeds: Sequence[Any], scenario: Scenario, batch: int, _seed: int, clock: Clock) -> Timed:
    """Time queries of eight images that arrive together: a query ends with the output for its last image."""
    runs = math.ceil(QUERY_IMAGES / batch)

    outputs: dict[int, Any] = {}

    def query(first: int) -> None:
        for part in range(first * runs, (first + 1) * runs):
            index = part % len(feeds)
            outputs[index] = run(feeds[index])

    timed = single_stream(query, range(len(feeds)), scenario, batch, 0, clock)
    timed.outputs = outputs
    return timed


def offline(run: Run, feeds: Sequence[Any], _scenario: Scenario, batch: int, _seed: int, clock: Clock) -> Timed:
    """Time at least 24,576 images, all available from the start."""
    timed = Timed()
    started = after = clock.now()
    for turn in range(math.ceil(OFFLINE_IMAGES / batch)):
        index = turn % len(feeds)
        before = clock.now()
        timed.outputs[index] = run(feeds[index])
        after = clock.now()
        timed.run_ns.append(after - before)
    timed.elapsed_ns = after - started
    return timed


def idle(run: Run, feeds: Sequence[Any], scenario: Scenario, _batch: int, _seed: int, clock: Clock) -> Timed:
    """Time one request after each pause, in which caches are evicted and the clock rate falls."""
    assert scenario.gap_ms is not None
    timed = Timed()
    started = after = clock.now()
    for turn in range(max(10, math.ceil(scenario.seconds * 1000 / max(scenario.gap_ms, 0.1)))):
        index = turn % len(feeds)
        clock.wait_until(after + int(scenario.gap_ms * 1e6))
        before = clock.now()
        timed.outputs[index] = run(feeds[index])
        after = clock.now()
        timed.run_ns.append(after - before)
    timed.elapsed_ns = after - started
    return timed


def server(run: Run, feeds: Sequence[Any], scenario: Scenario, _batch: int, seed: int, clock: Clock) -> Timed:
    """Time requests that arrive at random moments, whether or not the previous one is done, in order of arrival.

    Latency counts from the moment a request was due, not from the start of its run. Otherwise one stall would show
    as one slow request, although every request that arrived meanwhile waited too (coordinated omission).
    """
    assert scenario.rate_per_s is not None
    timed = Timed()
    arrivals = poisson_arrivals(scenario.rate_per_s, scenario.seconds, seed)
    started = after = clock.now()
    for turn, arrival in enumerate(arrivals):
        index = turn % len(feeds)
        due = started + arrival
        clock.wait_until(due)
        before = clock.now()
        timed.outputs[index] = run(feeds[index])
        after = clock.now()
        timed.wait_ns.append(before - due)
        timed.run_ns.append(after - due)
    timed.elapsed_ns = max(after - started, int(scenario.seconds * 1e9))
    return timed


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> list[int]:
    """Return sorted arrival times, in nanoseconds, of a Poisson process with exactly `rate_per_s * seconds` arrivals.

    Given their number, the arrivals of a Poisson process are distributed as sorted uniform samples. Drawing
    exponential gaps instead would make the number, and so the rate, depend on the seed.
    """
    count = max(1, round(rate_per_s * seconds))
    times = np.sort(np.random.default_rng(seed).uniform(0, seconds * 1e9, count))
    return [int(when) for when in times]


def refuse_overload(scenario: Scenario, service_ns: float) -> None:
    """Raise UsageError where requests arrive over five times faster than they can be served."""
    capacity = 1e9 / max(service_ns, 1)
    if scenario.rate_per_s is not None and scenario.rate_per_s > OVERLOAD * capacity:
        raise UsageError(
            f"--rate {scenario.rate_per_s:g} is over {OVERLOAD} times what the model can serve ({capacity:,.0f} per second)",
            hint=f"--rate {0.8 * capacity:.0f} or less",
        )


Loop = Callable[[Run, Sequence[Any], Scenario, int, int, Clock], Timed]
LOOPS: dict[ScenarioName, Loop] = {
    "single-stream": single_stream,
    "multi-stream": multi_stream,
    "server": server,
    "offline": offline,
    "idle": idle,
}
