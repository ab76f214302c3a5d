"""`mnist-edge bench`: latency and throughput on this device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json, choices, require_output, require_plot
from mnist_edge.cli.recording import recording, result_name
from mnist_edge.cli.remote import On, words_for
from mnist_edge.contract import Normalization, ProviderName, ScenarioName, TargetName
from mnist_edge.errors import UsageError

if TYPE_CHECKING:
    from mnist_edge.benchmarking.plan import Plan
    from mnist_edge.records.benchmark import BenchReport, Scenario


@dataclass(frozen=True, kw_only=True)
class _Results:
    """How the results of a timing are written and printed."""

    name: str
    output: Path | None
    plot: Path | None
    verbose: bool
    json: bool


def bench(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="Bundle folder, or any ONNX file. Default: the newest in exported/.")
    ] = None,
    *,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Variant of the bundle; repeatable. Default: all.")
    ] = None,
    provider: Annotated[
        ProviderName | None,
        typer.Option(
            help="Execution provider; no other is used: exit 4 if it is not available. Default: as tuned, else cpu."
        ),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes, separated by commas. Default: 1, or the model's fixed one.")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="CPU thread counts, separated by commas; auto times 1, 2, 4 ... and recommends one. "
            "Default: as tuned, else 1."
        ),
    ] = None,
    target: Annotated[
        TargetName | None, typer.Option(help="Also time what is generated for this target: c, on one thread.")
    ] = None,
    scenario: Annotated[ScenarioName, typer.Option(help="How requests arrive.")] = "single-stream",
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=1e9, help="Requests per second, for --scenario server.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(min=0.1, max=60_000, help="Pause before each request in milliseconds, for --scenario idle."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.01, max=3600, help="Seconds of timing in each process.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="Fresh processes for each row. Default: 5.")] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="On CUDA, round the factors of fp32 products to 10 bits (lossy).")
    ] = False,
    normalize: Annotated[
        Normalization | None, typer.Option(help="Pixel range of a float ONNX file that does not state it.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Compare with this earlier result. Only p50 is judged.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Slowdown in percent that --compare allows.")] = 5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare although the environments differ.")] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Compare the model with itself 40 times and count false positives.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Also show time by operator.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the latency distributions into this file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON into this file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also show p99.9 and outliers.")] = False,
    on: On = None,
    json: Json = False,
) -> None:
    """Time onnxruntime, and PyTorch eager for comparison, in fresh interleaved processes."""
    from mnist_edge.benchmarking import plan as plans
    from mnist_edge.reporting.console import say
    from mnist_edge.workflow.folders import newest_bundle

    require_plot(plot)
    chosen = model or newest_bundle(say)
    timed_on = provider or plans.recorded_provider(chosen)
    if tf32 and timed_on == "cpu":
        raise UsageError("--tf32 is for --provider cuda: a CPU has no TF32", hint="leave --tf32 out")
    if self_check and (compare or profile or plot):
        raise UsageError("--self-check is a mode of its own", hint="leave out --compare, --profile and --plot")
    plan = plans.Plan(
        model=chosen,
        variants=tuple(variant or ()),
        provider=timed_on,
        batches=None if batch is None else choices(batch, "--batch"),
        threads=_thread_counts(threads),
        rounds=rounds or plans.ROUNDS,
        scenario=_scenario(scenario, rate, gap, duration),
        normalization=normalize,
        tf32=tf32,
        target=target,
    )
    require_output(output, "--output")
    name = result_name("bench", context)
    results = _Results(name=name, output=output, plot=plot, verbose=verbose, json=json)
    if on is not None:
        words = words_for(
            context,
            here={"model", "variant", "provider", "tolerance", "anyway", "output", "on", "verbose", "json"},
            there={"batch", "threads", "scenario", "rate", "gap", "duration", "rounds", "tf32", "normalize", "profile"},
        )
        _time_there(on, plan, words, results)
    elif self_check:
        _self_check(plan, results)
    elif compare is not None:
        _time_and_compare(plan, compare, tolerance / 100, anyway=anyway, profile=profile, results=results)
    else:
        _time(plan, profile=profile, results=results)


def _thread_counts(text: str | None) -> tuple[int, ...] | None:
    """Return the thread counts of `--threads`; None where the option is not given."""
    from mnist_edge.benchmarking.threads import thread_counts
    from mnist_edge.cpus import available_cpus

    if text == "auto":
        return thread_counts(available_cpus())
    return None if text is None else choices(text, "--threads")


def _time(plan: Plan, *, profile: bool, results: _Results) -> None:
    from mnist_edge.reporting.console import emit, progress, say_next
    from mnist_edge.reporting.tables.bench import bench_table
    from mnist_edge.workflow.bench import time_model

    with recording(plan.model, results.name) as keep, progress("timing") as on_process:
        report = time_model(plan, profile=profile, output=results.output, on_process=on_process)
        keep(report)
    _finish_files(report, results)
    emit(report, results.json, lambda shown: bench_table(shown, verbose=results.verbose))
    again = ("--output", "result.json") if results.output is None else ("--compare", results.output)
    say_next("bench", plan.model, *again, as_json=results.json)


def _time_there(on: str, plan: Plan, words: tuple[str, ...], results: _Results) -> None:
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.bench import bench_table
    from mnist_edge.workflow.remote import bench_on

    with recording(plan.model, results.name) as keep, status(f"timing {plan.model} on {on}"):
        report = bench_on(
            on, plan.model, words, provider=plan.provider, variants=plan.variants, output=results.output, notify=say
        )
        keep(report)
    _finish_files(report, results)
    emit(report, results.json, lambda shown: bench_table(shown, verbose=results.verbose))
    if results.output is None:
        say_next("bench", plan.model, "--on", on, "--output", "result.json", as_json=results.json)


def _time_and_compare(
    plan: Plan, baseline: Path, tolerance: float, *, anyway: bool, profile: bool, results: _Results
) -> None:
    from mnist_edge.cli.compare import show_comparison
    from mnist_edge.reporting.console import emit, progress
    from mnist_edge.reporting.tables.bench import bench_table
    from mnist_edge.workflow.bench import time_and_compare

    with recording(plan.model, results.name) as keep, progress("timing") as on_process:
        report, comparison = time_and_compare(
            plan,
            baseline,
            tolerance=tolerance,
            anyway=anyway,
            profile=profile,
            output=results.output,
            on_process=on_process,
        )
        keep(report)
    _finish_files(report, results)
    if not results.json:
        emit(report, False, lambda shown: bench_table(shown, verbose=results.verbose))
    show_comparison(comparison, results.json)


def _self_check(plan: Plan, results: _Results) -> None:
    from mnist_edge.reporting.console import emit, progress, say
    from mnist_edge.reporting.tables.comparison import self_check_table
    from mnist_edge.workflow.bench import self_check

    with progress("comparing with itself") as on_process:
        report = self_check(plan, output=results.output, on_process=on_process)
    if results.output is not None:
        say(f"wrote {results.output}")
    emit(report, results.json, self_check_table)
    raise typer.Exit(0 if report.passed else 1)


def _finish_files(report: BenchReport, results: _Results) -> None:
    """Draw the figure, and name the files that were written."""
    from mnist_edge.reporting.console import say

    if results.output is not None:
        say(f"wrote {results.output}")
    if results.plot is not None:
        from mnist_edge.reporting.plots.latency import plot_latencies

        say(f"wrote {plot_latencies(report, results.plot)}")


def _scenario(name: ScenarioName, rate: float | None, gap: float | None, duration: float | None) -> Scenario:
    """Build the scenario; an option that belongs to another one is refused.

    Raises:
        UsageError: names the option that is missing or does not belong.
    """
    from mnist_edge.benchmarking.plan import SECONDS
    from mnist_edge.records.benchmark import Scenario

    for option, value, owner in (("--rate", rate, "server"), ("--gap", gap, "idle")):
        if value is None and name == owner:
            raise UsageError(f"scenario {name} needs {option}", hint=f"{option} {'500' if name == 'server' else '100'}")
        if value is not None and name != owner:
            raise UsageError(f"{option} belongs to --scenario {owner}", hint=f"--scenario {owner}, or leave it out")
    if duration is not None and name == "offline":
        raise UsageError("offline times a number of images, not seconds", hint="leave --duration out")
    usual = {"server": 2.0, "idle": 2.0}.get(name, SECONDS)
    return Scenario(name=name, seconds=usual if duration is None else duration, rate_per_s=rate, gap_ms=gap)
