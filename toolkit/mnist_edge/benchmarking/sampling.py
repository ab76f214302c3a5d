"""Time one callable: first run, warm-up until stable, then the loop of a scenario."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.scenarios import LOOPS, RealClock, Timed, refuse_overload
from mnist_edge.records.benchmark import Scenario

WINDOW_NS = 20_000_000
"""Length of a warm-up window, which also has at least five runs."""
STABLE = 0.03
"""Largest relative difference of the medians of two consecutive windows that ends the warm-up."""
WARMUP_LIMIT_NS = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Times in nanoseconds of the first run and of the scenario's loop, and the peak of memory until its end."""

    first_run_ns: int
    warmup_runs: int
    timed: Timed
    peak_rss_bytes: int


def sample(run: Callable[[Any], Any], feeds: Sequence[Any], scenario: Scenario, batch: int, seed: int) -> Samples:
    """Time `run(feed)` over the feeds in turn, as the scenario sends them.

    Args:
        run: returns only when its output is ready.
        feeds: prepared inputs; with one alone, every run would find its input in the cache.
        scenario: its timed part follows the first run and the warm-up.
        batch: images in one feed.
        seed: of the arrivals of `server`.

    Raises:
        UsageError: a rate far above what the model can serve.
    """
    clock = time.perf_counter_ns
    started = clock()
    run(feeds[0])
    first = clock() - started
    runs, service_ns = _warm_up(run, feeds)
    refuse_overload(scenario, service_ns)
    gc.collect()
    gc.disable()  # a collection in a timed run would be charged to the model
    try:
        timed = LOOPS[scenario.name](run, feeds, scenario, batch, seed, RealClock())
    finally:
        gc.enable()
    return Samples(first_run_ns=first, warmup_runs=runs, timed=timed, peak_rss_bytes=peak_rss_bytes())


def _warm_up(run: Callable[[Any], Any], feeds: Sequence[Any]) -> tuple[int, float]:
    """Run until stable, for 2 s at most; return the number of runs and the last median in nanoseconds."""
    clock = time.perf_counter_ns
    started, runs, last = clock(), 0, 0.0
    while clock() - started < WARMUP_LIMIT_NS:
        window: list[int] = []
        window_started = clock()
        while clock() - window_started < WINDOW_NS or len(window) < 5:
            before = clock()
            run(feeds[runs % len(feeds)])
            window.append(clock() - before)
            runs += 1
        median = statistics.median(window)
        stable = last and abs(median - last) < STABLE * last
        last = median
        if stable:
            break
    return runs, last


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also count the parent before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
