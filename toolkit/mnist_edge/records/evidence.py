"""What the results of a bundle show: each figure with the file and the command that it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnist_edge.records.benchmark import BenchRow
from mnist_edge.records.bundle import FailedVariant
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.records.training import TrainingFacts
from mnist_edge.records.tuning import TuneReport
from mnist_edge.records.verification import VariantParity


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a figure comes from: the file, and the command that wrote it."""

    file: str
    command: tuple[str, ...]
    time: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A comparison of one variant on one runtime."""

    source: Source
    runtime: str
    reference: str
    test_set: bool
    parity: VariantParity


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A timing of one variant; `host` is None for this machine."""

    source: Source
    host: str | None
    row: BenchRow


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Accuracy and calibration of one variant on the bundle's own test set."""

    source: Source
    report: EvalReport


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How the network was trained, and the variants that an export could not make."""

    source: Source
    facts: TrainingFacts | None
    failed: tuple[FailedVariant, ...]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A choice of `tune` that the bundle still holds."""

    source: Source
    report: TuneReport


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A check that ended with an error instead of a report."""

    source: Source
    message: str


@dataclass(frozen=True, kw_only=True)
class Stale:
    """A result that is not shown: what it is about, and why."""

    source: Source
    about: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The machine of a result, see `benchmarking.environment`."""

    source: Source
    host: str | None
    environment: dict[str, Any]


@dataclass(kw_only=True)
class Evidence:
    """Everything that the results show, the newest of each kind; see the records above.

    Attributes:
        verified: by variant, runtime, number of images and accuracy that may be lost: a comparison that shows less
            does not replace one that failed.
    """

    trained: Trained | None = None
    verified: dict[tuple[str, str, int, float | None], Verified] = field(default_factory=dict)
    evaluated: dict[str, Evaluated] = field(default_factory=dict)
    timed: dict[tuple[object, ...], Timed] = field(default_factory=dict)
    tuned: Tuned | None = None
    failures: dict[str, Failure] = field(default_factory=dict)
    stale: list[Stale] = field(default_factory=list)
    machines: list[Measured] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that nothing on disk shows, and the words of the command that measures it."""

    what: str
    command: tuple[str, ...]
