"""Recommend a number of threads from rows that were timed with several."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_edge.records.benchmark import BenchRow, ThreadAdvice
from mnist_edge.stats import t_interval

ALPHA = 0.01
"""Probability that a count is recommended although none is faster than one thread."""


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on below the number of CPUs, and that number."""
    powers = [2**power for power in range(cpus.bit_length()) if 2**power < cpus]
    return (*powers, cpus)


def advise_threads(rows: Sequence[BenchRow]) -> tuple[ThreadAdvice, ...]:
    """Recommend a thread count for each variant, batch size and scenario that was timed with one thread and with others.

    More threads are recommended only where they are clearly faster than one: the interval of the ratio lies below 1,
    at a level corrected for the number of counts (Bonferroni). One thread is the safe choice: on a busy machine the
    threads of a pool wait for each other.

    Args:
        rows: of a report; those of PyTorch and of GPUs are left out.
    """
    groups: dict[tuple[object, ...], dict[int, BenchRow]] = {}
    for row in rows:
        if row.engine == "onnxruntime" and row.settings.provider == "cpu":
            key = row.variant, row.batch, row.scenario
            groups.setdefault(key, {})[row.settings.threads] = row
    return tuple(_advise(group) for group in groups.values() if 1 in group and len(group) > 1)


def _advise(group: dict[int, BenchRow]) -> ThreadAdvice:
    one = group[1]
    level = 1 - ALPHA / (len(group) - 1)
    found = ThreadAdvice(
        variant=one.variant, batch=one.batch, scenario=one.scenario, threads=1, ratio=1.0, interval=(1.0, 1.0)
    )
    for threads, row in group.items():
        if threads == 1:
            continue
        ratio = row.p50_us / one.p50_us
        # Processes of one round ran close to each other: what slowed the machine then cancels in their ratio.
        ratios = [many.p50_us / single.p50_us for many, single in zip(row.processes, one.processes, strict=True)]
        interval = t_interval(ratio, ratios, level)
        if interval[1] < 1 and ratio < found.ratio:
            found = ThreadAdvice(
                variant=row.variant,
                batch=row.batch,
                scenario=row.scenario,
                threads=threads,
                ratio=ratio,
                interval=interval,
            )
    return found
