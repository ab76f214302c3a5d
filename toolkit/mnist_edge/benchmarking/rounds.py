"""Time candidates side by side: each in fresh processes, interleaved in rounds."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from mnist_edge.benchmarking.environment import environment, reference_work_ms
from mnist_edge.benchmarking.gpu import gpu_from_batch
from mnist_edge.benchmarking.plan import Plan, ResolvedPlan, resolve_plan
from mnist_edge.benchmarking.process import ProcessResult, Task, run_process
from mnist_edge.benchmarking.row import make_row, with_ratios
from mnist_edge.benchmarking.threads import advise_threads
from mnist_edge.cpus import available_cpus
from mnist_edge.records.benchmark import BenchReport, BenchRow, Candidate
from mnist_edge.runtime.session import require_provider

ENGINES = {
    "onnxruntime": "mnist_edge.benchmarking.worker",
    "torch": "mnist_edge.baseline.eager",
    "c": "mnist_edge.benchmarking.c_worker",
}
"""The module that each engine's process runs. PyTorch's is named and not imported, as this package never imports torch."""
ORDER_SEED = 11
SLOWED = 1.15
"""Ratio of the slowest to the fastest round in a fixed piece of work above which the report notes it."""
EXPLAINED = 0.05
"""Largest relative difference between a GPU run and the sum of its calls that is not noted."""

OnProcess = Callable[[int, int], object]


def bench(plan: Plan, on_process: OnProcess = lambda _done, _all: None) -> BenchReport:
    """Time every candidate of a plan.

    Args:
        plan: what to time.
        on_process: called after each process with how many are done, and of how many.

    Raises:
        UnavailableError: the provider is not available; nothing is timed then.
        CheckFailedError: the outputs of timed runs do not meet the variant's requirement.
        UsageError: a batch size that a fixed-batch model does not take; more threads than CPUs; a rate
            far above what the model can serve.
    """
    recorded, busy = checked_environment(plan)
    resolved = resolve_plan(plan)
    results, work_ms = run_rounds(plan, resolved, resolved.candidates, ORDER_SEED, on_process)
    rows = with_ratios([make_row(candidate, results[candidate]) for candidate in resolved.candidates])
    return BenchReport(
        model=str(plan.model),
        weights_sha256=resolved.weights_sha256,
        environment=recorded,
        order_seed=ORDER_SEED,
        reference_work_ms=tuple(work_ms),
        results=tuple(rows),
        gpu_from_batch=gpu_from_batch(rows),
        thread_advice=advise_threads(rows),
        profile=(),
        notes=(*busy, *resolved.notes, *timing_notes(rows, work_ms)),
    )


def checked_environment(plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """Check that a plan can be timed here; return the environment, and a note where the machine is busy."""
    require_provider(plan.provider)
    found = environment()
    load, cpus = found["load_1min"], available_cpus()
    busy = load is not None and load > cpus
    return found, [f"the machine is busy (load {load} on {cpus} CPUs): timings vary more than usual"] if busy else []


def run_rounds(
    plan: Plan, resolved: ResolvedPlan, candidates: Sequence[Candidate], seed: int, on_process: OnProcess
) -> tuple[dict[Candidate, list[ProcessResult]], list[float]]:
    """Run every candidate once in each round, in a new random order each time.

    Returns:
        The results of each candidate by round, and the milliseconds of a fixed piece of work before each round.
    """
    results: dict[Candidate, list[ProcessResult]] = defaultdict(list)
    work_ms: list[float] = []
    order = random.Random(seed)  # noqa: S311 - no secret depends on it
    done = 0
    for turn in range(plan.rounds):
        work_ms.append(reference_work_ms())
        for candidate in order.sample(candidates, len(candidates)):
            task = Task(
                model=str(candidate.file),
                batch=candidate.batch,
                golden=str(resolved.golden) if resolved.golden else None,
                requirement=candidate.requirement,
                scenario=candidate.scenario,
                normalization=plan.normalization,
                seed=seed + turn,
                settings=candidate.settings,
            )
            results[candidate].append(run_process(ENGINES[candidate.engine], task))
            done += 1
            on_process(done, plan.rounds * len(candidates))
    return results, work_ms


def timing_notes(rows: Sequence[BenchRow], work_ms: Sequence[float]) -> list[str]:
    """Return what makes timings doubtful, one sentence each.

    Args:
        rows: of the report.
        work_ms: milliseconds of a fixed piece of work, by round.
    """
    notes = []
    if max(work_ms) > SLOWED * min(work_ms):
        slowest = work_ms.index(max(work_ms)) + 1
        notes.append(
            f"the machine slowed down between rounds: a fixed piece of work took {max(work_ms) / min(work_ms):.2f} times "
            f"as long in round {slowest} as in the fastest; it is throttled or shared, so compare with care"
        )
    for row in rows:
        if row.gpu_calls is not None and abs(row.gpu_calls.sum_over_whole - 1) > EXPLAINED:
            notes.append(
                f"batch {row.batch}: the calls of a GPU run add up to {row.gpu_calls.sum_over_whole:.0%} of the whole"
            )
        if row.server is not None and row.server.achieved_per_s < 0.98 * row.server.asked_per_s:
            notes.append(
                f"batch {row.batch}, {row.settings.described}: {row.server.asked_per_s:,.0f} requests per second are "
                f"more than the model can serve ({row.server.achieved_per_s:,.0f}): the queue grows as long as they arrive"
            )
    return notes
