"""What `compare` and `bench --self-check` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mnist_edge.records.report import Report


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How one set of processes compares with another.

    Attributes:
        ratio: candidate over baseline, geometric means of the p50 of each process; above 1 is slower.
        low, high: its 99 % bootstrap interval over processes.
        verdict: `undecided` unless the whole interval lies on one side of 1.
    """

    ratio: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "undecided"]


@dataclass(frozen=True, kw_only=True)
class CompareRow:
    """One candidate in both results, judged by its p50.

    Attributes:
        baseline_p99_us, candidate_p99_us: for the reader; nothing is judged by them.
        beyond_tolerance: shown to be slower, and by more than the tolerance.
        not_ruled_out: largest slowdown, a fraction of 1, that the interval leaves possible, where that is
            more than the tolerance; else None.
        differences: what else differed, where it was compared all the same.
    """

    what: str
    baseline_p50_us: float
    candidate_p50_us: float
    baseline_p99_us: float | None
    candidate_p99_us: float | None
    effect: Effect
    beyond_tolerance: bool
    not_ruled_out: float | None
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CompareReport(Report):
    """Two results held against each other.

    Attributes:
        tolerance: a fraction of 1.
        lost: rows of the baseline that the candidate lacks; one is enough to fail.
        added: rows that only the candidate has.
    """

    schema: ClassVar[str] = "mnist-edge/compare/2"
    baseline: str
    candidate: str
    tolerance: float
    rows: tuple[CompareRow, ...]
    lost: tuple[str, ...]
    added: tuple[str, ...]
    passed: bool


@dataclass(frozen=True, kw_only=True)
class SelfCheckReport(Report):
    """A candidate compared with itself: how often noise would have been called news.

    Attributes:
        false_alarms: comparisons that did not end undecided.
        upper95: exact one-sided 95 % bound on their rate.
        effects: of every comparison.
    """

    schema: ClassVar[str] = "mnist-edge/self-check/1"
    model: str
    environment: dict[str, Any]
    comparisons: int
    rounds: int
    false_positives: int
    upper95: float
    effects: tuple[Effect, ...]
    passed: bool
