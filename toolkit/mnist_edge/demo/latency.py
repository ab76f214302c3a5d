"""The latency that the page shows: enough runs to compare variants at a glance. `bench` measures it for decisions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

WARMUP_RUNS = 3
TIMED_RUNS = 25
LIMIT_NS = 200_000_000
"""A slow model is timed in fewer runs, so that the page answers within a second."""
MEASURED = (
    f"Latency: median of {TIMED_RUNS} runs of one image in this server, after {WARMUP_RUNS} for warm-up. "
    "mnist-edge bench measures it in processes of its own, with intervals."
)
"""What the page says about it."""


def median_latency_us(run: Callable[[], object]) -> float:
    """Return the median time of a run in microseconds, of 25 after 3 for warm-up, or of those that 0.2 s allow."""
    clock = time.perf_counter_ns
    started = clock()
    times: list[int] = []
    for number in range(WARMUP_RUNS + TIMED_RUNS):
        before = clock()
        run()
        after = clock()
        if number >= WARMUP_RUNS or after - started > LIMIT_NS:
            times.append(after - before)
        if after - started > LIMIT_NS:
            break
    return statistics.median(times) / 1000
