"""Compare two benchmark results row by row: effect, confidence interval and verdict."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_edge.benchmarking.comparable import (
    find_differences,
    match_rows,
    missing_rows,
    require_processes,
    row_differences,
)
from mnist_edge.benchmarking.results import describe, process_medians
from mnist_edge.records.benchmark import BenchReport, BenchRow
from mnist_edge.records.comparison import CompareReport, CompareRow, Effect
from mnist_edge.stats import holm, welch

ALPHA = 0.01
"""Probability that any row of two results of equal speed is reported as slower or faster."""


def effects(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Effect]:
    """Compare pairs of sets of processes by Welch's t on log p50, with Holm's correction over the pairs.

    The p50 of a process is robust against single slow runs; the mean over processes of its logarithm is what
    a t test holds its level for. The 99 % bootstrap over processes that was used before is
    simulated beside it in benchmarks/compare_power.py: 3 % false positives at 5 processes a side (Welch: 0.9 %),
    and at 10 it finds a slowdown of 3 % in 56 % of comparisons (Welch: 66 %).

    Each interval has the level at which Holm's procedure tested its pair: 99 % for one pair, more for several.
    So it excludes 1 exactly where the verdict is `slower` or `faster`.

    Args:
        pairs: baseline and candidate, the p50 of each process in microseconds.
    """
    ratios = [welch(baseline, candidate) for baseline, candidate in pairs]
    tests = holm([ratio.p_value for ratio in ratios], ALPHA)
    found = []
    for ratio, test in zip(ratios, tests, strict=True):
        low, high = ratio.interval(1 - test.alpha)
        found.append(
            Effect(
                ratio=ratio.ratio,
                low=low,
                high=high,
                p_value=test.p_adjusted,
                verdict=("slower" if ratio.estimate > 0 else "faster") if test.rejected else "undecided",
            )
        )
    return found


def effect(baseline: Sequence[float], candidate: Sequence[float]) -> Effect:
    """Compare one pair of sets of processes; see `effects`."""
    return effects([(baseline, candidate)])[0]


def compare(
    baseline: BenchReport,
    candidate: BenchReport,
    names: tuple[str, str],
    *,
    tolerance: float,
    anyway: bool = False,
) -> CompareReport:
    """Compare two results row by row.

    A row fails if it is shown to be slower than the baseline (a ratio of 1 is rejected) and its estimated
    slowdown is over the tolerance. Whether the true slowdown is over the tolerance is not tested: such a test would
    rarely detect a slowdown that is only a little larger than the tolerance.

    Args:
        baseline, candidate: results of `bench`.
        names: of the two, for the report and errors.
        tolerance: estimated slowdown that passes, a fraction of 1.
        anyway: compare although environment, model or settings differ, and list the differences in each row.

    Raises:
        UsageError: environment, model or scenario differ, no row is in both, or one has too few processes.
    """
    differences = find_differences(
        baseline, candidate.results, candidate.environment, candidate.weights_sha256, names, anyway=anyway
    )
    partners = match_rows(baseline.results, candidate.results, names, anyway=anyway)
    matched: list[tuple[BenchRow, BenchRow]] = []
    added = []
    for row, partner in zip(candidate.results, partners, strict=True):
        if partner is None:
            added.append(describe(row))
            continue
        for one, name in ((partner, names[0]), (row, names[1])):
            require_processes(len(one.processes), name)
        matched.append((partner, row))
    found = effects([(process_medians(one), process_medians(other)) for one, other in matched])
    rows = [
        _compare_row(*pair, effect, tolerance, (*differences, *row_differences(*pair)))
        for pair, effect in zip(matched, found, strict=True)
    ]
    missing = missing_rows(baseline.results, partners)
    return CompareReport(
        baseline=names[0],
        candidate=names[1],
        tolerance=tolerance,
        rows=tuple(rows),
        missing=tuple(missing),
        added=tuple(added),
        passed=not missing and not any(row.beyond_tolerance for row in rows),
    )


def _compare_row(
    baseline: BenchRow, candidate: BenchRow, effect: Effect, tolerance: float, differences: tuple[str, ...]
) -> CompareRow:
    return CompareRow(
        what=describe(candidate),
        engine=candidate.engine,
        variant=candidate.variant,
        batch=candidate.batch,
        scenario=candidate.scenario,
        settings=candidate.settings,
        baseline_p50_us=baseline.p50_us,
        candidate_p50_us=candidate.p50_us,
        baseline_p99_us=baseline.p99_us,
        candidate_p99_us=candidate.p99_us,
        effect=effect,
        beyond_tolerance=effect.verdict == "slower" and effect.ratio > 1 + tolerance,
        not_ruled_out=effect.high - 1 if effect.high > 1 + tolerance else None,
        differences=differences,
    )
