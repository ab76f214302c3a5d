"""Time a model, alone or in comparison with an earlier result or with itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_edge.benchmarking.plan import Plan
    from mnist_edge.benchmarking.rounds import OnProcess
    from mnist_edge.contract import ProviderName
    from mnist_edge.records.benchmark import BenchReport, Scenario
    from mnist_edge.records.comparison import CompareReport, SelfCheckReport
    from mnist_edge.records.report import Report


def bench(
    model: str | Path,
    *,
    variants: Sequence[str] = (),
    provider: ProviderName | None = None,
    batches: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    rounds: int | None = None,
    scenario: Scenario | None = None,
    profile: bool = False,
    output: str | Path | None = None,
    on_process: OnProcess = lambda _done, _all: None,
) -> BenchReport:
    """Time a model in fresh interleaved processes, and PyTorch eager for comparison where it is installed.

    Args:
        model: bundle folder or ONNX file.
        variants: names of a bundle's variants; all by default.
        provider: no other is used; None takes the one that the bundle was tuned for, or else the CPU.
        batches: images of a run; None for 1, or the batch of a fixed-batch model.
        threads: sizes of the thread pool; None for that of the recorded settings, or else 1.
        rounds: fresh processes for each row; None for 5.
        scenario: how requests arrive; None for one after the other.
        profile: also measure the time by operator.
        output: JSON file that is written as soon as the timing is complete.
        on_process: called after each process with how many are done, and of how many.

    Raises:
        UnavailableError: there is no such model, or the provider is not available.
        BadFileError: the bundle is damaged, or the file is no model that can be timed.
        UsageError: a batch size or a variant that the model does not have.
        CheckFailedError: a timed run returned wrong outputs.
    """
    from mnist_edge.benchmarking.plan import ROUNDS, SINGLE_STREAM, Plan, recorded_provider

    plan = Plan(
        model=Path(model),
        variants=tuple(variants),
        provider=provider or recorded_provider(Path(model)),
        batches=None if batches is None else tuple(batches),
        threads=None if threads is None else tuple(threads),
        rounds=rounds or ROUNDS,
        scenario=scenario or SINGLE_STREAM,
    )
    return time_model(plan, profile=profile, output=None if output is None else Path(output), on_process=on_process)


def time_model(
    plan: Plan,
    *,
    profile: bool = False,
    output: Path | None = None,
    on_process: OnProcess = lambda _done, _all: None,
) -> BenchReport:
    """Time every candidate of a plan.

    Args:
        plan: what to time.
        profile: also measure the time by operator, in a session of its own.
        output: JSON file that is written as soon as the timing is complete.
        on_process: called after each process with how many are done, and of how many.
    """
    from mnist_edge.benchmarking import rounds
    from mnist_edge.benchmarking.profile import profile as time_by_operator

    report = rounds.bench(plan, on_process)
    if profile:
        report = dataclasses.replace(report, profile=time_by_operator(plan))
    _write(report, output)
    return report


def time_and_compare(
    plan: Plan,
    baseline: Path,
    *,
    tolerance: float,
    anyway: bool = False,
    profile: bool = False,
    output: Path | None = None,
    on_process: OnProcess = lambda _done, _all: None,
) -> tuple[BenchReport, CompareReport]:
    """Time a plan and compare the result with an earlier one, after checking that the two can be compared.

    Args:
        baseline: JSON file that `bench --output` wrote.
        tolerance: slowdown that passes, a fraction of 1.
        anyway: compare also where environments differ.

    The other arguments are those of `time_model`.
    """
    from mnist_edge.benchmarking.comparable import require_comparable
    from mnist_edge.benchmarking.compare import compare
    from mnist_edge.benchmarking.results import read_result

    before, names = read_result(baseline), (str(baseline), "this run")
    require_comparable(before, plan, names, anyway=anyway)
    report = time_model(plan, profile=profile, output=output, on_process=on_process)
    return report, compare(before, report, names, tolerance=tolerance, anyway=anyway)


def self_check(
    plan: Plan, *, output: Path | None = None, on_process: OnProcess = lambda _done, _all: None
) -> SelfCheckReport:
    """Compare a model with itself and count the comparisons that report a difference; arguments as `time_model`."""
    from mnist_edge.benchmarking.self_check import self_check as compare_with_itself

    report = compare_with_itself(plan, on_process=on_process)
    _write(report, output)
    return report


def _write(report: Report, output: Path | None) -> None:
    from mnist_edge.files import write_atomic

    if output is not None:
        write_atomic(output, (dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode())
