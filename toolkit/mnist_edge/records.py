"""What the stages hand on: frozen records, each with a JSON form that carries its schema."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import DatasetName, InputKind, Normalization
from mnist_edge.pixels import Images


def _jsonable(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


class Report:
    """A record that is also a JSON document."""

    schema: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `schema` first."""
        return {"schema": self.schema, **_jsonable(self)}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images and labels held in memory.

    Attributes:
        name: which dataset; every later record names it.
        source: the folder or package that it came from.
        train_images, test_images: uint8 (N, 28, 28), 0 background to 255 ink.
        train_labels, test_labels: uint8 (N,), 0 to 9.
    """

    name: DatasetName
    source: str
    train_images: Images
    train_labels: Images
    test_images: Images
    test_labels: Images


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One finished epoch: mean loss over its batches, accuracy on the held-out split (None without one)."""

    epoch: int
    loss: float
    holdout_accuracy: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainReport(Report):
    """What `train` did. Accuracy is a fraction of 1; seconds are of training alone."""

    schema: ClassVar[str] = "mnist-edge/train/1"
    run: Path
    checkpoint: Path
    dataset: DatasetName
    recipe: str
    epochs: int
    test_accuracy: float
    seconds: float
    seconds_per_epoch: float
    device: str


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class: how many test images it has, and the shares found (recall) and right when named (precision)."""

    label: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """Accuracy of a model on a test set; `confusion[true][decided]` counts images."""

    schema: ClassVar[str] = "mnist-edge/eval/1"
    model: Path
    dataset: DatasetName
    images: int
    accuracy: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class VariantFile:
    """One exported file of a bundle."""

    name: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Tie:
    """An image on which the reference itself is undecided at the precision seen."""

    image: int
    reference: int
    decided: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """One variant held against PyTorch.

    Attributes:
        images: how many images decisions were compared on (the whole test set where it is at hand).
        flips: decisions that changed and are no ties.
        flip_rate_upper95: exact one-sided 95 % bound on the rate of flips.
        max_abs_error, max_relative_error: largest logit error over every input and batch size;
            relative to the largest logit of the same image, or to 1 where that is smaller; None
            where the model cannot be run at all.
        accuracy: on the compared images that have a label; None where none has.
        ties: images whose top-2 gap in the reference is under twice the largest error.
        batches: the batch sizes that were run.
        reason: why it failed, in a sentence; empty where it passed.
    """

    name: str
    images: int
    flips: int
    flip_rate_upper95: float
    max_abs_error: float | None
    max_relative_error: float | None
    accuracy: float | None
    ties: tuple[Tie, ...]
    batches: tuple[int, ...]
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """What `verify` found."""

    schema: ClassVar[str] = "mnist-edge/verify/1"
    passed: bool
    bundle: str
    dataset: DatasetName
    provider: str
    reference: str
    test_set: bool
    variants: tuple[VariantParity, ...]


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """What `export` published. `accuracy` is PyTorch's on the test set, a fraction of 1."""

    schema: ClassVar[str] = "mnist-edge/export/1"
    bundle: Path
    dataset: DatasetName
    input: InputKind
    variants: tuple[VariantFile, ...]
    parity: ParityReport
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The one input of a classifier, as its graph declares it; a None dimension is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    normalization: Normalization | None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing to time: an engine on a file, with the settings it runs under."""

    engine: str
    variant: str
    file: Path
    provider: str
    batch: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """Timing of one candidate over all its processes.

    Attributes:
        samples: timed runs in all; no sample is dropped.
        p50_us, p90_us, p99_us: microseconds a run (a whole batch); None where the samples are too few.
        throughput_per_s: images a second, from the total time of all runs.
        session_ms, first_run_ms: medians over processes; `cold_start_ms` is the median of their sum.
        peak_rss_mb: largest resident memory of one process, in 10**6 bytes.
        bytes: size of the model file.
        ratio_to_torch: p50 over the p50 of PyTorch eager at the same batch and threads; under 1 is faster.
        placement: which provider each node ran on, as onnxruntime tells it.
        outputs: how the outputs of the timed runs were checked.
    """

    engine: str
    variant: str
    provider: str
    batch: int
    threads: int
    processes: int
    samples: int
    p50_us: float
    p90_us: float | None
    p99_us: float | None
    throughput_per_s: float
    cold_start_ms: float
    session_ms: float
    first_run_ms: float
    peak_rss_mb: float
    bytes: int
    ratio_to_torch: float | None
    placement: dict[str, int]
    outputs: str


@dataclass(frozen=True, kw_only=True)
class BenchReport(Report):
    """Timings with the surroundings that they were taken in."""

    schema: ClassVar[str] = "mnist-edge/bench/1"
    model: str
    environment: dict[str, Any]
    results: tuple[BenchRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `doctor`: what was looked at, what was found, and the command that mends it."""

    subject: str
    found: str
    ok: bool
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorReport(Report):
    """What this machine has."""

    schema: ClassVar[str] = "mnist-edge/doctor/1"
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class RunReport(Report):
    """The whole main job, stage by stage."""

    schema: ClassVar[str] = "mnist-edge/run/1"
    train: TrainReport
    export: ExportReport
    verify: ParityReport
    bench: BenchReport
