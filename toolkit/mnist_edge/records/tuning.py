"""Limits, candidates and report of `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import Objective, ProviderName
from mnist_edge.records.benchmark import OperatorTime
from mnist_edge.records.bundle import FailedVariant
from mnist_edge.records.report import Report
from mnist_edge.records.settings import SessionSettings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate must meet to be chosen.

    Attributes:
        max_accuracy_drop: accuracy on the selection split below that of fp32, a fraction of 1.
        max_latency_us: p50 of a run in microseconds; None for any.
        max_bytes: size of the file; None for any.
    """

    max_accuracy_drop: float
    max_latency_us: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TunedCandidate:
    """A variant with session settings, as it was timed and judged.

    Attributes:
        p50_us: of a run: the geometric mean of the p50 of the processes; None where it could not be timed.
        interval: 95 % Student t interval of `p50_us` over processes; None for fewer than two.
        processes: how many timed it; fewer where it was beaten early.
        images_per_s: from the mean time of a run.
        start_ms: loading of the model and first run; interpreter and imports are the same for all candidates.
        bytes: of the file.
        accuracy: on the test set, a fraction of 1, as export recorded it; no candidate is judged by it.
        selection_accuracy: on the selection split, a fraction of 1.
        meets_limits: whether it may be chosen.
        reason: why it was chosen or not, in a sentence.
    """

    variant: str
    settings: SessionSettings
    p50_us: float | None
    interval: tuple[float, float] | None
    processes: int
    images_per_s: float | None
    start_ms: float | None
    bytes: int
    accuracy: float | None
    selection_accuracy: float | None
    meets_limits: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class TuneChoice:
    """The chosen candidate.

    Attributes:
        accuracy: on the test set, a fraction of 1: measured with these settings, or as export recorded it.
        confirmed_images: images whose predictions confirmed the choice.
        test_set: whether those were the test set; else the golden inputs.
        ratio: p50 over that of fp32 with default settings; None where fp32 is not a candidate.
    """

    variant: str
    settings: SessionSettings
    p50_us: float
    bytes: int
    accuracy: float | None
    selection_accuracy: float | None
    confirmed_images: int
    test_set: bool
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class TuneReport(Report):
    """What `tune` found.

    Attributes:
        choice: None where no candidate meets the limits.
        candidates: the choice first, then those that meet the limits, best first, then the others, nearest first.
        not_built: variants that would have been candidates, and why each is not in the bundle.
        profiles: time by operator of each variant with default settings, most expensive first.
        processes: timing processes that this call started; a resumed call starts fewer.
        resumed: whether timings of an earlier call were used.
        notes: what a reader should know, one sentence each.
    """

    schema: ClassVar[str] = "mnist-edge/tune/1"
    bundle: Path
    objective: Objective
    provider: ProviderName
    batch: int
    limits: Limits
    environment: dict[str, Any]
    choice: TuneChoice | None
    candidates: tuple[TunedCandidate, ...]
    not_built: tuple[FailedVariant, ...]
    profiles: dict[str, tuple[OperatorTime, ...]]
    processes: int
    seconds: float
    resumed: bool
    notes: tuple[str, ...]
