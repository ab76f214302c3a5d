"""What the stages hand on: frozen records, each with a JSON form that carries its schema."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mnist_edge.contract import (
    DatasetName,
    InputKind,
    Normalization,
    Optimization,
    Precision,
    ProviderName,
    ScenarioName,
)
from mnist_edge.pixels import ImageFile, Images

NOT_IN_JSON = {"json": False}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = (field for field in dataclasses.fields(value) if field.metadata != NOT_IN_JSON)
        return {field.name: _jsonable(getattr(value, field.name)) for field in shown}
    return value


class Report:
    """A record that is also a JSON document."""

    schema: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `schema` first."""
        return {"schema": self.schema, **_jsonable(self)}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images and labels, held in memory; the training images of a folder stay in their file.

    Attributes:
        name: which dataset; every later record names it.
        source: the folder or package that it came from; in no record, for it is a place on this machine.
        train_images, test_images: uint8 (N, 28, 28), 0 background to 255 ink.
        train_labels, test_labels: uint8 (N,), 0 to 9.
        fingerprint: sha256 that tells two folders apart; empty where the name does.
    """

    name: DatasetName
    source: str
    train_images: Images | ImageFile
    train_labels: Images
    test_images: Images
    test_labels: Images
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One finished epoch.

    Attributes:
        loss: mean over its batches.
        holdout_accuracy: on the held-out split; None without one.
        learning_rate: of its last step; None in checkpoints of version 0.1.0.
    """

    epoch: int
    loss: float
    holdout_accuracy: float | None
    learning_rate: float | None = None
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
class SweepTrial:
    """One setting of a sweep.

    Attributes:
        rank: 1 is the best; 0 while the sweep is under way.
        holdout_accuracy: mean over the seeds, 0 to 1; None where the trial failed.
        accuracies: of each seed, in the order of the seeds.
        seconds: of training and judging, all seeds together.
        failure: why it cannot be judged; empty where it can.
    """

    rank: int
    lr: float
    batch_size: int
    widths: tuple[int, ...]
    holdout_accuracy: float | None
    accuracies: tuple[float, ...]
    seconds: float
    failure: str


@dataclass(frozen=True, kw_only=True)
class SweepReport(Report):
    """What `sweep` found, best setting first; accuracy is that on `holdout_images` held out of the training set.

    Attributes:
        trials: those finished, by whichever worker; failed ones last.
        running: trials that other workers have in hand.
        command: trains the best setting on its own; empty where no trial could be judged.
    """

    schema: ClassVar[str] = "mnist-edge/sweep/1"
    study: Path
    dataset: DatasetName
    recipe: str
    epochs: int
    holdout_images: int
    seeds: tuple[int, ...]
    trials: tuple[SweepTrial, ...]
    running: int
    command: str


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class: how many test images it has, and the shares found (recall) and right when named (precision)."""

    label: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Decisions whose probability lies in one range: how sure the model was, and how often it was right."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class EvalReport(Report):
    """Accuracy of a model on a test set.

    Attributes:
        confusion: `confusion[true][decided]` counts images.
        negative_log_likelihood: mean over images, in nats, of the probability given to the label.
        calibration_error: expected gap between confidence and accuracy, 0 to 1, over 15 ranges of confidence.
        reliability: the ranges that hold an image, least sure first.
    """

    schema: ClassVar[str] = "mnist-edge/eval/2"
    model: Path
    dataset: DatasetName
    images: int
    accuracy: float
    negative_log_likelihood: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class VariantFile:
    """One exported file of a bundle."""

    name: str
    precision: Precision
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Uncertified:
    """An image whose top-2 gap in the reference is too small for the error seen to leave its decision certain."""

    image: int
    margin: float
    reference: int
    decided: int


@dataclass(frozen=True, kw_only=True)
class MarginCertificate:
    """How many decisions the largest logit error seen cannot have changed.

    Attributes:
        error: that error, over every image and batch size that was run.
        certified: share of the images, 0 to 1, whose top-2 gap in the reference is over twice that error:
            no error of this size can change their decision.
        uncertified: all the others, the smallest gap first.
    """

    error: float
    certified: float
    uncertified: tuple[Uncertified, ...]


@dataclass(frozen=True, kw_only=True)
class PairedAccuracy:
    """Both models on the same labelled images. Shares are fractions of 1, `max_drop` too.

    Attributes:
        only_reference_right, only_variant_right: images on which one of the two is right.
        mcnemar_p: exact two-sided p-value of no difference in accuracy.
        drop_upper95: one-sided 95 % upper bound on the accuracy lost (Tango's score interval).
        non_inferior: whether that bound is at most `max_drop`.
    """

    images: int
    reference: float
    variant: float
    only_reference_right: int
    only_variant_right: int
    mcnemar_p: float
    drop_upper95: float
    max_drop: float
    non_inferior: bool


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """One stage of a network held against the reference's.

    Attributes:
        layer: 1-based number of the matrix product.
        stage: `sums`, the product with its bias; `activations`, what the next product is fed; or
            `output`, what the graph answers.
        tensor: its name in the ONNX graph.
        drift: error of the worst unit, root mean square over the images, over that of all units of the
            reference; None where there are NaN or infinite values, or another number of units.
        allowed: what the precision explains.
    """

    layer: int
    stage: str
    tensor: str
    drift: float | None
    allowed: float


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Layer by layer on a few images: the first that drifts, and how.

    Attributes:
        images: how many were run.
        stages: input side first; a stage after the first that drifts inherits its error.
        first: number of the first layer that drifts; None where none does.
        symptom: what the figures show, in one term; empty where none drifts.
        detail: the same in a sentence.
    """

    images: int
    stages: tuple[LayerDrift, ...]
    first: int | None
    symptom: str
    detail: str

    @staticmethod
    def drifts(stage: LayerDrift) -> bool:
        """Whether a stage drifts beyond what its precision explains."""
        return stage.drift is None or stage.drift > stage.allowed


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """One variant held against the reference.

    Attributes:
        images: how many images decisions were compared on (the whole test set where it is at hand).
        flips: decisions that changed; for fp32, those that are no ties.
        flip_rate_upper95: exact one-sided 95 % bound on the rate of flips.
        ties: decisions that changed where the reference is undecided at the precision seen (fp32 only).
        max_abs_error, max_relative_error: largest logit error over every input and batch size;
            relative to the largest logit of the same image, or to 1 where that is smaller; None
            where the model cannot be run at all.
        accuracy: None without labels, or where the answers cannot be compared; `margins` likewise.
        batches: the batch sizes that were run.
        layers: on failure or on request, where the stages can be had.
        reason: why it failed, in a sentence; empty where it passed.
    """

    name: str
    precision: Precision
    images: int
    flips: int
    flip_rate_upper95: float
    ties: int
    max_abs_error: float | None
    max_relative_error: float | None
    accuracy: PairedAccuracy | None
    margins: MarginCertificate | None
    batches: tuple[int, ...]
    layers: LayerReport | None
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """What `verify` found, and the provider and settings it holds for."""

    schema: ClassVar[str] = "mnist-edge/verify/2"
    passed: bool
    model: str
    dataset: DatasetName
    provider: str
    optimization: Optimization
    threads: int
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
class Scenario:
    """How requests come to a model while it is timed.

    Attributes:
        seconds: length of the counted part of one process (`offline` counts images instead).
        rate_per_s: requests a second that `server` sends, whether the model keeps up or not.
        gap_ms: pause before each request of `idle`.
    """

    name: ScenarioName = "single-stream"
    seconds: float
    rate_per_s: float | None = None
    gap_ms: float | None = None

    @property
    def described(self) -> str:
        """The name with what sets it: `server at 500/s`, `idle, gap 100 ms`."""
        if self.rate_per_s is not None:
            return f"{self.name} at {self.rate_per_s:g}/s"
        return f"{self.name}, gap {self.gap_ms:g} ms" if self.gap_ms is not None else self.name


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing to time: an engine on a file, with the settings it runs under."""

    engine: str
    variant: str
    file: Path
    provider: ProviderName
    batch: int
    threads: int
    scenario: Scenario
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class ProcessTiming:
    """What one fresh process measured: the unit of sampling. Percentiles are None where its runs are too few."""

    runs: int
    p50_us: float
    p90_us: float | None
    p99_us: float | None


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """The open loop of scenario `server`: latency counts from the moment a request was due.

    Attributes:
        asked_per_s, achieved_per_s: requests a second that were sent, and answered.
        service_p50_us: microseconds of the runs alone.
        wait_p50_us, wait_p99_us: from the moment a request was due to the start of its run.
        utilization: share of the time, 0 to 1, that the model was busy.
    """

    asked_per_s: float
    achieved_per_s: float
    service_p50_us: float
    wait_p50_us: float
    wait_p99_us: float | None
    utilization: float


@dataclass(frozen=True, kw_only=True)
class Transfers:
    """The parts of a run on a GPU, medians in microseconds, each up to its own synchronisation.

    Attributes:
        whole_us: the same work timed as one, synchronised at its end only.
        explained: sum of the parts over the whole; 0.95 to 1.05 where they account for it.
    """

    host_to_device_us: float
    compute_us: float
    device_to_host_us: float
    whole_us: float
    explained: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """Timing of one candidate over all its processes.

    Attributes:
        processes: what each fresh process measured, in the order of the rounds.
        samples: timed runs in all; no sample is dropped.
        outliers: runs above the third quartile by over three times the interquartile range; counted, not dropped.
        p50_us, p90_us, p99_us, p999_us: microseconds a request, over all samples; None where these are too few.
        intervals: 95 % bootstrap intervals over processes, by the name of the figure.
        throughput_per_s: images a second, from the total time of all runs.
        process_ms, session_ms, first_run_ms: medians over processes: interpreter and imports, model
            loading, first answer; `cold_start_ms` is the median of their sum.
        peak_rss_mb: largest resident memory of one process, in 10**6 bytes.
        bytes: size of the model file.
        ratio_to_torch: p50 over the p50 of PyTorch eager at the same batch, threads and scenario; under 1 is faster.
        server: of scenario `server` only.
        transfers: on a GPU only.
        placement: which provider each node ran on, as onnxruntime tells it.
        outputs: how the outputs of the timed runs were checked.
        run_us: every sample by process; too long for the JSON.
    """

    engine: str
    variant: str
    provider: ProviderName
    batch: int
    threads: int
    scenario: Scenario
    cuda_graph: bool
    processes: tuple[ProcessTiming, ...]
    samples: int
    outliers: int
    p50_us: float
    p90_us: float | None
    p99_us: float | None
    p999_us: float | None
    intervals: dict[str, tuple[float, float]]
    throughput_per_s: float
    cold_start_ms: float
    process_ms: float
    session_ms: float
    first_run_ms: float
    peak_rss_mb: float
    bytes: int
    ratio_to_torch: float | None
    server: ServerFigures | None
    transfers: Transfers | None
    placement: dict[str, int]
    outputs: str
    run_us: tuple[tuple[float, ...], ...] = field(default=(), repr=False, metadata=NOT_IN_JSON)


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time that onnxruntime spends in one kind of operator, from its own profile."""

    operator: str
    provider: str
    calls: int
    us_per_run: float
    share: float


@dataclass(frozen=True, kw_only=True)
class BenchReport(Report):
    """Timings with the surroundings that they were taken in.

    Attributes:
        weights_sha256: which weights were timed: the bundle's own, or the hash of the file.
        order_seed: of the order in which the candidates were run, and of the arrivals of `server`.
        pace_ms: a fixed piece of work, timed before each round: it shows whether the machine slowed down.
        gpu_from_batch: smallest batch from which the GPU beats the CPU; None where that was not timed or seen.
        profile: time by operator, where it was asked for.
    """

    schema: ClassVar[str] = "mnist-edge/bench/2"
    model: str
    weights_sha256: str
    environment: dict[str, Any]
    order_seed: int
    pace_ms: tuple[float, ...]
    results: tuple[BenchRow, ...]
    gpu_from_batch: int | None
    profile: tuple[OperatorTime, ...]
    notes: tuple[str, ...]


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
    false_alarms: int
    upper95: float
    effects: tuple[Effect, ...]
    passed: bool


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
