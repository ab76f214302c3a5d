"""Candidates and reports of `bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import Precision, RequirementKind, ScenarioName
from mnist_edge.records.report import NOT_IN_JSON, Report
from mnist_edge.records.settings import SessionSettings


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How requests arrive while a model is timed.

    Attributes:
        seconds: length of the timed part of one process; `offline` times a number of images instead.
        rate_per_s: requests per second of `server`, whether the model keeps up or not.
        gap_ms: pause before each request of `idle`.
    """

    name: ScenarioName = "single-stream"
    seconds: float
    rate_per_s: float | None = None
    gap_ms: float | None = None

    @property
    def described(self) -> str:
        """The name with its parameter: `server at 500/s`, `idle, gap 100 ms`."""
        if self.rate_per_s is not None:
            return f"{self.name} at {self.rate_per_s:g}/s"
        return f"{self.name}, gap {self.gap_ms:g} ms" if self.gap_ms is not None else self.name


@dataclass(frozen=True, kw_only=True)
class OutputRequirement:
    """What the outputs of timed runs must meet; see `RequirementKind`.

    Attributes:
        precision: explains the drift of a lossy variant's logits.
        max_accuracy_drop: a fraction of 1, for a variant that is not exact.
    """

    kind: RequirementKind = "exact"
    precision: Precision = "fp32"
    max_accuracy_drop: float = 0.0


EXACT = OutputRequirement()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One combination to time: a file on an engine, with batch size, session settings and scenario.

    Attributes:
        engine: `onnxruntime`, `torch`, or the target that code was generated for.
        variant: name in the bundle, or the stem of the file; for PyTorch, the variant whose weights it has.
        batch: images of one run.
        requirement: of the outputs, where there are golden logits to compare them with.
    """

    engine: str
    variant: str
    file: Path
    batch: int
    scenario: Scenario
    settings: SessionSettings
    requirement: OutputRequirement = EXACT


@dataclass(frozen=True, kw_only=True)
class ProcessTiming:
    """Percentiles of one fresh process, the unit of sampling; None where it has too few runs."""

    runs: int
    p50_us: float
    p90_us: float | None
    p99_us: float | None


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """The open loop of scenario `server`, where latency counts from the moment a request was due.

    Attributes:
        asked_per_s, achieved_per_s: requests per second that were sent, and that were completed.
        service_p50_us: microseconds of the runs alone.
        wait_p50_us, wait_p99_us: microseconds from the moment a request was due to the start of its run.
        utilization: share of the time, 0 to 1, in which the model was busy.
    """

    asked_per_s: float
    achieved_per_s: float
    service_p50_us: float
    wait_p50_us: float
    wait_p99_us: float | None
    utilization: float


@dataclass(frozen=True, kw_only=True)
class GpuCalls:
    """The three calls of a run on a GPU, medians in microseconds. Each call blocks until its work is done.

    Attributes:
        copy_in_us: `OrtValue.update_inplace`, from pageable host memory.
        compute_us: `run_with_iobinding`.
        copy_out_us: `OrtValue.numpy`, to pageable host memory.
        whole_us: the three in one measurement.
        sum_over_whole: sum of the three over `whole_us`; 0.95 to 1.05 where they account for it.
    """

    copy_in_us: float
    compute_us: float
    copy_out_us: float
    whole_us: float
    sum_over_whole: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """Timing of one candidate over all its processes; microseconds are of one request.

    Attributes:
        engine, variant, batch, scenario, settings: as `Candidate`.
        processes: by round.
        samples: timed runs of all processes; none is dropped.
        outliers: runs above the third quartile by more than three interquartile ranges; counted, not dropped.
        p50_us, p90_us, p99_us, p999_us: over all samples; None where these are too few.
        intervals: 95 % Student t intervals over processes, on the log scale, by the name of the field. Simulated
            coverage: p50 92 to 97 %, p99 91 to 97 % where rare slow runs make the tail, but 77 to 88 % where
            whole processes differ by 8 %: slower processes than those measured are then to be expected.
        throughput_per_s: images a second, from the total time of all runs.
        cold_start_ms: median over processes of interpreter, imports, loading of the model and first run.
        process_ms, session_ms, first_run_ms: medians of its parts: interpreter and imports, loading, first run.
        peak_rss_mb: largest resident memory of one process, in 10**6 bytes.
        bytes: size of the model file.
        ratio_to_torch: p50 over that of PyTorch eager at the same batch, settings and scenario; below 1 is faster.
        server: of scenario `server` only.
        gpu_calls: on a GPU only.
        placement: number of graph nodes by execution provider, as onnxruntime reports it.
        outputs: how the outputs of the timed runs were checked.
        quantiles_us: latency that 1 %, 2 % ... 99 % of the samples do not exceed; empty for fewer than 100 samples.
        run_us: every sample by process; not in the JSON.
    """

    engine: str
    variant: str
    batch: int
    scenario: Scenario
    settings: SessionSettings
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
    gpu_calls: GpuCalls | None
    placement: dict[str, int]
    outputs: str
    quantiles_us: tuple[float, ...] = ()
    run_us: tuple[tuple[float, ...], ...] = field(default=(), repr=False, metadata=NOT_IN_JSON)


@dataclass(frozen=True, kw_only=True)
class ThreadAdvice:
    """The thread count to use for one variant, batch size and scenario.

    Attributes:
        threads: 1 unless another count is clearly faster.
        ratio: p50 with that count over p50 with one thread.
        interval: of the ratio, at 99 % over all counts that were timed.
    """

    variant: str
    batch: int
    scenario: Scenario
    threads: int
    ratio: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time in one operator on one provider, from onnxruntime's profile.

    Attributes:
        calls: over all runs that were counted.
        share: of the time in all operators, 0 to 1.
    """

    operator: str
    provider: str
    calls: int
    us_per_run: float
    share: float


@dataclass(frozen=True, kw_only=True)
class BenchReport(Report):
    """Timings with the environment in which they were taken.

    Attributes:
        model: path as it was given.
        weights_sha256: of the weights that a bundle was exported from, or of the ONNX file.
        environment: see `benchmarking.environment`.
        order_seed: of the order of the candidates in each round, and of the arrivals of `server`.
        reference_work_ms: time of a fixed piece of work before each round; it grows where the machine slows down.
        gpu_from_batch: smallest batch from which the GPU is faster than the CPU; None where there is none.
        thread_advice: where several thread counts were timed, one of them 1.
        profile: time by operator, on request.
        notes: what a reader of the timings should know, one sentence each.
        host: where it was run, as `--on` named it; None for this machine.
    """

    schema: ClassVar[str] = "mnist-edge/bench/7"
    model: str
    weights_sha256: str
    environment: dict[str, Any]
    order_seed: int
    reference_work_ms: tuple[float, ...]
    results: tuple[BenchRow, ...]
    gpu_from_batch: int | None
    thread_advice: tuple[ThreadAdvice, ...] = ()
    profile: tuple[OperatorTime, ...]
    notes: tuple[str, ...]
    host: str | None = None
