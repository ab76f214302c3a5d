"""Time candidates against each other: each in fresh processes, interleaved in rounds."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mnist_edge.benchmarking.environment import environment, free_cores
from mnist_edge.benchmarking.process import Answer, Task, run_process
from mnist_edge.bundle import GOLDEN, load_bundle
from mnist_edge.contract import ProviderName
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.records import BenchReport, BenchRow, Candidate
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import require_provider
from mnist_edge.stats import percentile

ENGINES = {"onnxruntime": "mnist_edge.benchmarking.worker", "torch": "mnist_edge.baseline.eager"}
"""The module that is the process of each engine; PyTorch's belongs to the workshop and is only named here."""
ROUNDS = 5
SECONDS = 0.4
ORDER_SEED = 11


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to time: a bundle folder or one ONNX file, and the settings to time it under."""

    model: Path
    provider: ProviderName
    batches: tuple[int, ...] | None
    threads: tuple[int, ...]
    rounds: int
    seconds: float


def bench(plan: Plan, on_process: Callable[[int, int], object] = lambda _done, _all: None) -> BenchReport:
    """Time every candidate of a plan.

    Args:
        plan: batches None takes 1, or a fixed-batch model's own.
        on_process: told after each process how many are done, of how many.

    Raises:
        SurroundingsError: the provider cannot be had; no figure is given then.
        CheckFailedError: a timed run decided otherwise than the golden answers.
        UsageError: a batch that a fixed-batch model does not take; more threads than cores.
    """
    require_provider(plan.provider)
    cores = free_cores()
    if max(plan.threads) > cores:
        raise UsageError(
            f"{max(plan.threads)} threads on {cores} cores only wait for each other", hint=f"--threads {cores}"
        )
    surroundings = environment()
    candidates, golden, notes = _candidates(plan)
    if surroundings["load_1min"] is not None and surroundings["load_1min"] > cores:
        notes.append(f"the machine is busy: load {surroundings['load_1min']} on {cores} cores; expect noise")
    answers: dict[Candidate, list[Answer]] = defaultdict(list)
    order = random.Random(ORDER_SEED)  # noqa: S311 - no secret depends on it
    done = 0
    for _ in range(plan.rounds):
        for candidate in order.sample(candidates, len(candidates)):
            task = Task(
                model=str(candidate.file),
                provider=plan.provider,
                batch=candidate.batch,
                threads=candidate.threads,
                golden=str(golden) if golden else None,
                seconds=plan.seconds,
            )
            answers[candidate].append(run_process(ENGINES[candidate.engine], task))
            done += 1
            on_process(done, plan.rounds * len(candidates))
    rows = [_row(candidate, answers[candidate]) for candidate in candidates]
    return BenchReport(
        model=str(plan.model),
        environment=surroundings,
        results=tuple(_with_ratio(row, rows) for row in rows),
        notes=tuple(notes),
    )


def _candidates(plan: Plan) -> tuple[list[Candidate], Path | None, list[str]]:
    """Return what to time, the golden file if there is one, and what the user should know."""
    notes: list[str] = []
    if plan.model.is_dir():
        bundle = load_bundle(plan.model)
        files = {variant.name: bundle.file(variant) for variant in bundle.manifest.variants}
        golden: Path | None = plan.model / GOLDEN
        engines = ["onnxruntime"]
        if find_spec("torch") and find_spec("onnx"):
            engines.append("torch")
        else:
            notes.append("PyTorch is not installed here: no baseline, no ratio")
        batches = plan.batches or (1,)
    else:
        classifier = open_classifier(plan.model, plan.provider)
        files, golden, engines = {plan.model.stem: plan.model}, None, ["onnxruntime"]
        notes.append("inputs are random: the file brings no golden inputs, so its decisions were not checked")
        fixed = classifier.fixed_batch
        batches = plan.batches or (fixed or 1,)
        if fixed and set(batches) != {fixed}:
            raise UsageError(f"{plan.model} takes only batch {fixed}", hint=f"--batch {fixed}")
    candidates = [
        Candidate(engine=engine, variant=name, file=file, provider=plan.provider, batch=batch, threads=threads)
        for batch in batches
        for threads in plan.threads
        for name, file in files.items()
        for engine in engines
    ]
    return candidates, golden, notes


def _row(candidate: Candidate, answers: Sequence[Answer]) -> BenchRow:
    wrong, checked = sum(a.wrong for a in answers), sum(a.checked for a in answers)
    if wrong:
        raise CheckFailedError(
            f"{candidate.variant} on {candidate.engine}: {wrong} of {checked} timed decisions differ from the golden ones",
            hint="mnist-edge verify shows where",
        )
    times = [ns / 1000 for answer in answers for ns in answer.run_ns]
    session = [answer.session_ns / 1e6 for answer in answers]
    first = [answer.first_run_ns / 1e6 for answer in answers]
    return BenchRow(
        engine=candidate.engine,
        variant=candidate.variant,
        provider=candidate.provider,
        batch=candidate.batch,
        threads=candidate.threads,
        processes=len(answers),
        samples=len(times),
        p50_us=percentile(times, 0.5) or 0.0,
        p90_us=percentile(times, 0.9),
        p99_us=percentile(times, 0.99),
        throughput_per_s=candidate.batch * len(times) / (sum(times) / 1e6),
        cold_start_ms=statistics.median(s + f for s, f in zip(session, first, strict=True)),
        session_ms=statistics.median(session),
        first_run_ms=statistics.median(first),
        peak_rss_mb=max(answer.peak_rss_bytes for answer in answers) / 1e6,
        bytes=candidate.file.stat().st_size,
        ratio_to_torch=None,
        placement=answers[0].placement,
        outputs=f"{checked} decisions checked against golden.npz" if checked else "random inputs, not checked",
    )


def _with_ratio(row: BenchRow, rows: Sequence[BenchRow]) -> BenchRow:
    for other in rows:
        if other.engine == "torch" and (other.batch, other.threads) == (row.batch, row.threads):
            return dataclasses.replace(row, ratio_to_torch=row.p50_us / other.p50_us)
    return row
