"""Time one callable inside its own process: first run, warm-up until stable, then every run counted."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WINDOW_NS = 20_000_000
"""Warm-up is judged in windows of at least 20 ms and five runs."""
STABLE = 0.03
"""Two windows in a row whose medians differ by less are stable."""
WARMUP_LIMIT_NS = 2_000_000_000
MIN_SAMPLES = 30


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Times in nanoseconds, and the last output for each distinct input that was run."""

    first_run_ns: int
    warmup_runs: int
    run_ns: list[int]
    outputs: dict[int, Any]


def sample(run: Callable[[Any], Any], feeds: Sequence[Any], seconds: float) -> Samples:
    """Time `run(feed)` over the feeds in turn for about `seconds`, at least 30 times.

    Args:
        run: returns only when its output is ready.
        feeds: prepared inputs; more than one keeps the caches honest.
        seconds: length of the counted part; first run and warm-up come before it.
    """
    clock = time.perf_counter_ns
    started = clock()
    run(feeds[0])
    first = clock() - started
    warmup = _warm_up(run, feeds)
    times: list[int] = []
    outputs: dict[int, Any] = {}
    count = len(feeds)
    gc.collect()
    gc.disable()
    try:
        end = clock() + int(seconds * 1e9)
        turn = 0
        while clock() < end or len(times) < MIN_SAMPLES:
            index = turn % count
            feed = feeds[index]
            before = clock()
            output = run(feed)
            after = clock()
            times.append(after - before)
            outputs[index] = output
            turn += 1
    finally:
        gc.enable()
    return Samples(first_run_ns=first, warmup_runs=warmup, run_ns=times, outputs=outputs)


def _warm_up(run: Callable[[Any], Any], feeds: Sequence[Any]) -> int:
    clock = time.perf_counter_ns
    begun, runs, last = clock(), 0, 0.0
    while clock() - begun < WARMUP_LIMIT_NS:
        window: list[int] = []
        opened = clock()
        while clock() - opened < WINDOW_NS or len(window) < 5:
            before = clock()
            run(feeds[runs % len(feeds)])
            window.append(clock() - before)
            runs += 1
        median = statistics.median(window)
        if last and abs(median - last) < STABLE * last:
            break
        last = median
    return runs


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also count the parent before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
