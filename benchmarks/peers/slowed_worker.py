"""The timing process of `bench` with every run made longer by the share $SLOWDOWN, by a busy wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from mnist_edge.benchmarking import worker
from mnist_edge.benchmarking.process import serve
from mnist_edge.benchmarking.sampling import Samples, sample


def slowed(run: Callable[[Any], Any], share: float) -> Callable[[Any], Any]:
    """Return `run`, which then takes `1 + share` times as long."""
    clock = time.perf_counter_ns

    def slow_run(feed: Any) -> Any:
        started = clock()
        outputs = run(feed)
        end = started + int((clock() - started) * (1 + share))
        while clock() < end:
            pass
        return outputs

    return slow_run


def slow_sample(run: Callable[[Any], Any], *rest: Any) -> Samples:
    """Sample the slowed run."""
    return sample(slowed(run, float(os.environ["SLOWDOWN"])), *rest)


if __name__ == "__main__":
    worker.sample = slow_sample  # type: ignore[attr-defined, assignment]
    serve(worker.measure)
