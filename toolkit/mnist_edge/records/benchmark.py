"""What `bench` times and reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.contract import (
    ScenarioName,
)
from mnist_edge.records.report import NOT_IN_JSON, Report
from mnist_edge.records.settings import SessionSettings


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
    batch: int
    scenario: Scenario
    settings: SessionSettings


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
        intervals: 95 % Student t intervals over processes, on the log scale, by the name of the figure. Simulated
            coverage: p50 92 to 97 %, p99 91 to 97 % where rare slow runs make the tail, but 77 to 88 % where
            whole processes differ by 8 %: slower processes than those measured are then to be expected.
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

    schema: ClassVar[str] = "mnist-edge/bench/3"
    model: str
    weights_sha256: str
    environment: dict[str, Any]
    order_seed: int
    pace_ms: tuple[float, ...]
    results: tuple[BenchRow, ...]
    gpu_from_batch: int | None
    profile: tuple[OperatorTime, ...]
    notes: tuple[str, ...]
