"""What `compare` and `bench --self-check` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mnist_edge.records.benchmark import Scenario
from mnist_edge.records.report import Report
from mnist_edge.records.settings import SessionSettings


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How one set of processes compares with another.

    Attributes:
        ratio: candidate over baseline, geometric means of the p50 of each process; above 1 is slower.
        low, high: confidence interval of the ratio by Welch's t on log p50; 99 % for one row, more for several
            (the level of Holm's step), so that it excludes 1 exactly where the verdict is not `undecided`.
        p_value: two-sided, of a ratio of 1, adjusted for the number of rows (Holm).
        verdict: `undecided` if `p_value` is above 0.01.
    """

    ratio: float
    low: float
    high: float
    p_value: float
    verdict: Literal["faster", "slower", "undecided"]


@dataclass(frozen=True, kw_only=True)
class CompareRow:
    """One candidate in both results, judged by its p50.

    Attributes:
        what: engine, variant, settings, scenario and batch in words.
        engine, variant, batch, scenario, settings: of the candidate's row.
        baseline_p99_us, candidate_p99_us: for information, not tested.
        beyond_tolerance: shown to be slower (a ratio of 1 is rejected), and estimated to be slower by more than
            the tolerance; that the true slowdown is over the tolerance is not tested.
        not_ruled_out: largest slowdown, a fraction of 1, that the interval leaves possible, where that is
            more than the tolerance; else None.
        differences: what else differed between the two, where they were compared with `--anyway`.
    """

    what: str
    engine: str
    variant: str
    batch: int
    scenario: Scenario
    settings: SessionSettings
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
    """Two results compared row by row.

    Attributes:
        tolerance: estimated slowdown that passes, a fraction of 1.
        missing: rows of the baseline that the candidate lacks; one is enough to fail.
        added: rows that only the candidate has.
    """

    schema: ClassVar[str] = "mnist-edge/compare/3"
    baseline: str
    candidate: str
    tolerance: float
    rows: tuple[CompareRow, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    passed: bool


@dataclass(frozen=True, kw_only=True)
class SelfCheckReport(Report):
    """A candidate compared with itself, many times.

    Attributes:
        rounds: processes a side in each comparison.
        false_positives: comparisons that did not end undecided.
        upper95: exact one-sided 95 % upper bound on their rate.
        effects: of every comparison.
    """

    schema: ClassVar[str] = "mnist-edge/self-check/2"
    model: str
    environment: dict[str, Any]
    comparisons: int
    rounds: int
    false_positives: int
    upper95: float
    effects: tuple[Effect, ...]
    passed: bool
