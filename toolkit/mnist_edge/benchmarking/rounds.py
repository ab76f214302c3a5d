"""Time candidates against each other: each in fresh processes, interleaved in rounds."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.environment import environment, pace_ms
from mnist_edge.benchmarking.gpu import gpu_from_batch
from mnist_edge.benchmarking.process import ProcessResult, Task, require_finite_outputs, run_process
from mnist_edge.benchmarking.row import make_row, with_ratios
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.contract import Normalization, ProviderName
from mnist_edge.cpus import available_cpus, require_cpus
from mnist_edge.errors import UsageError
from mnist_edge.files import sha256_file
from mnist_edge.records.benchmark import BenchReport, BenchRow, Candidate, OperatorTime, Scenario
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import require_provider

ENGINES = {"onnxruntime": "mnist_edge.benchmarking.worker", "torch": "mnist_edge.baseline.eager"}
"""The module that is the process of each engine; PyTorch's belongs to the workshop and is only named here."""
ROUNDS = 5
SECONDS = 0.4
ORDER_SEED = 11
SINGLE_STREAM = Scenario(seconds=SECONDS)
SLOWED = 1.15
"""A fixed piece of work that takes so much longer in one round than in another is told."""

OnProcess = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to time: a bundle folder or one ONNX file, and the settings to time it under."""

    model: Path
    provider: ProviderName = "cpu"
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] = (1,)
    rounds: int = ROUNDS
    scenario: Scenario = SINGLE_STREAM
    normalization: Normalization | None = None
    tf32: bool = False


@dataclass(frozen=True, kw_only=True)
class ResolvedPlan:
    """What a plan comes to: its candidates, the golden file if there is one, and what the user should know."""

    candidates: tuple[Candidate, ...]
    golden: Path | None
    weights_sha256: str
    notes: tuple[str, ...]


def bench(plan: Plan, on_process: OnProcess = lambda _done, _all: None) -> BenchReport:
    """Time every candidate of a plan.

    Args:
        plan: batches None takes 1, or a fixed-batch model's own.
        on_process: told after each process how many are done, of how many.

    Raises:
        UnavailableError: the provider cannot be had; no figure is given then.
        CheckFailedError: a timed run decided otherwise than the golden answers.
        UsageError: a batch that a fixed-batch model does not take; more threads than cores; a rate
            far above what the model can serve.
    """
    recorded, crowded = checked_environment(plan)
    resolved = resolve_plan(plan)
    answers, pace = run_rounds(plan, resolved, resolved.candidates, ORDER_SEED, on_process)
    rows = with_ratios([make_row(candidate, answers[candidate]) for candidate in resolved.candidates])
    return BenchReport(
        model=str(plan.model),
        weights_sha256=resolved.weights_sha256,
        environment=recorded,
        order_seed=ORDER_SEED,
        pace_ms=tuple(pace),
        results=tuple(rows),
        gpu_from_batch=gpu_from_batch(rows),
        profile=(),
        notes=(*crowded, *resolved.notes, *_notes(rows, pace)),
    )


def checked_environment(plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """Check that a plan can be timed here; return the surroundings, and a warning where the machine is busy."""
    require_provider(plan.provider)
    require_cpus(max(plan.threads))
    found = environment()
    load, cores = found["load_1min"], available_cpus()
    busy = load is not None and load > cores
    return found, [f"the machine is busy: load {load} on {cores} cores; expect noise"] if busy else []


def run_rounds(
    plan: Plan, resolved: ResolvedPlan, candidates: Sequence[Candidate], seed: int, on_process: OnProcess
) -> tuple[dict[Candidate, list[ProcessResult]], list[float]]:
    """Run every candidate once a round in an order drawn anew; also time a fixed piece of work before each round."""
    answers: dict[Candidate, list[ProcessResult]] = defaultdict(list)
    pace: list[float] = []
    order = random.Random(seed)  # noqa: S311 - no secret depends on it
    done = 0
    for turn in range(plan.rounds):
        pace.append(pace_ms())
        for candidate in order.sample(candidates, len(candidates)):
            task = Task(
                model=str(candidate.file),
                batch=candidate.batch,
                golden=str(resolved.golden) if resolved.golden else None,
                scenario=candidate.scenario,
                normalization=plan.normalization,
                seed=seed + turn,
                settings=candidate.settings,
            )
            answers[candidate].append(run_process(ENGINES[candidate.engine], task))
            done += 1
            on_process(done, plan.rounds * len(candidates))
    return answers, pace


def resolve_plan(plan: Plan) -> ResolvedPlan:
    """Work out what to time."""
    notes: list[str] = []
    engines = ["onnxruntime"]
    golden: Path | None = None
    if plan.model.is_dir():
        bundle = load_bundle(plan.model)
        files = {variant.name: bundle.file(variant) for variant in bundle.manifest.variants}
        golden = plan.model / GOLDEN
        weights, batches = bundle.manifest.weights_sha256, plan.batches or (1,)
        if plan.scenario.name in {"server", "idle"}:
            notes.append(f"PyTorch is not timed in scenario {plan.scenario.name}")
        elif find_spec("torch") and find_spec("onnx"):
            engines.append("torch")
        else:
            notes.append("PyTorch is not installed here: no baseline, no ratio")
    else:
        classifier = open_classifier(
            plan.model, SessionSettings(provider=plan.provider), normalization=plan.normalization
        )
        require_finite_outputs(classifier)
        fixed = classifier.fixed_batch
        files, weights = {plan.model.stem: plan.model}, sha256_file(plan.model)
        notes.append("inputs are random: the file brings no golden inputs, so its decisions were not checked")
        batches = plan.batches or (fixed or 1,)
        if fixed and set(batches) != {fixed}:
            raise UsageError(f"{plan.model} takes only batch {fixed}", hint=f"--batch {fixed}")
    scenarios = [plan.scenario]
    if plan.scenario.name == "idle":
        scenarios.append(dataclasses.replace(plan.scenario, name="single-stream", gap_ms=None))
    plain = [
        Candidate(
            engine=engine,
            variant=name,
            file=file,
            batch=batch,
            scenario=scenario,
            settings=SessionSettings(provider=plan.provider, threads=threads, tf32=plan.tf32),
        )
        for scenario in scenarios
        for batch in batches
        for threads in plan.threads
        for name, file in files.items()
        for engine in engines
    ]
    return ResolvedPlan(
        candidates=(*plain, *_beside_the_gpu(plain)), golden=golden, weights_sha256=weights, notes=tuple(notes)
    )


def _beside_the_gpu(plain: Sequence[Candidate]) -> list[Candidate]:
    """What a GPU is held against: the same as a CUDA graph, and the CPU."""
    ours = [
        candidate for candidate in plain if (candidate.settings.provider, candidate.engine) == ("cuda", "onnxruntime")
    ]
    graphs = [_with_settings(candidate, cuda_graph=True) for candidate in ours]
    return graphs + [_with_settings(candidate, provider="cpu", tf32=False) for candidate in ours]


def _with_settings(candidate: Candidate, **changes: Any) -> Candidate:
    return dataclasses.replace(candidate, settings=dataclasses.replace(candidate.settings, **changes))


def _notes(rows: Sequence[BenchRow], pace: Sequence[float]) -> list[str]:
    notes = []
    if max(pace) > SLOWED * min(pace):
        slowest = pace.index(max(pace)) + 1
        notes.append(
            f"the machine slowed down between rounds: a fixed piece of work took {max(pace) / min(pace):.2f} times as "
            f"long in round {slowest} as in the fastest; throttled, or shared: compare with care"
        )
    for row in rows:
        if row.transfers is not None and abs(row.transfers.explained - 1) > 0.05:
            notes.append(
                f"batch {row.batch}: the parts of a GPU run add up to {row.transfers.explained:.0%} of the whole"
            )
        if row.server is not None and row.server.achieved_per_s < 0.98 * row.server.asked_per_s:
            notes.append(
                f"batch {row.batch}, {row.settings.threads} thread(s): {row.server.asked_per_s:,.0f} requests a second are more "
                f"than the model can serve ({row.server.achieved_per_s:,.0f}): the queue grows as long as they come"
            )
    return notes


def with_profile(report: BenchReport, profile: tuple[OperatorTime, ...]) -> BenchReport:
    """The report with time by operator beside it."""
    return dataclasses.replace(report, profile=profile)
