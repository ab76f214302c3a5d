"""`mnist-edge bench`: how fast it is, really, on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json, choices, require_plot
from mnist_edge.contract import Normalization, ProviderName, ScenarioName
from mnist_edge.errors import UsageError

if TYPE_CHECKING:
    from mnist_edge.benchmarking.rounds import Plan
    from mnist_edge.records.benchmark import BenchReport, Scenario
    from mnist_edge.records.report import Report


def bench(
    model: Annotated[
        Path | None, typer.Argument(help="Bundle folder, or any ONNX file. Default: the newest in exported/.")
    ] = None,
    *,
    provider: Annotated[ProviderName, typer.Option(help="No other is used: exit 4 if it cannot be had.")] = "cpu",
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes, with commas. Default: 1, or a fixed-batch model's own.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, with commas.")] = "1",
    scenario: Annotated[ScenarioName, typer.Option(help="How requests come.")] = "single-stream",
    rate: Annotated[float | None, typer.Option(min=0.01, max=1e9, help="Requests a second, for server.")] = None,
    gap: Annotated[
        float | None, typer.Option(min=0.1, max=60_000, help="Milliseconds of pause before a request, for idle.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.01, max=3600, help="Seconds that one process is timed.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="Fresh processes a candidate. Default: 5.")] = None,
    normalize: Annotated[
        Normalization | None, typer.Option(help="What a float ONNX file expects of its pixels, where it does not say.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Hold the result against this one. Only p50 is judged.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Percent of slowdown that --compare lets pass.")] = 5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare although the surroundings differ.")] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Compare the model with itself 40 times: is noise called news?")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Also show time by operator.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the latency distributions into this file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON into this file.")] = None,
    json: Json = False,
) -> None:
    """Time onnxruntime, and PyTorch eager beside it, in fresh processes taken in turn."""
    from mnist_edge.benchmarking.rounds import ROUNDS, Plan
    from mnist_edge.files import require_writable
    from mnist_edge.reporting.console import emit, say, say_next
    from mnist_edge.reporting.tables.bench import bench_table
    from mnist_edge.reporting.tables.comparison import self_check_table
    from mnist_edge.workflow.folders import newest_bundle

    require_plot(plot)
    plan = Plan(
        model=model or newest_bundle(say),
        provider=provider,
        batches=None if batch is None else choices(batch, "--batch"),
        threads=choices(threads, "--threads"),
        rounds=rounds or ROUNDS,
        scenario=_scenario(scenario, rate, gap, duration),
        normalization=normalize,
    )
    for written in (output, plot):
        if written is not None:
            require_writable(written)
    if self_check:
        from mnist_edge.benchmarking.self_check import self_check as check
        from mnist_edge.reporting.console import progress

        if compare or profile or plot:
            raise UsageError("--self-check stands alone", hint="leave out --compare, --profile and --plot")
        with progress("comparing with itself") as on_process:
            checked = check(plan, on_process=on_process)
        _write(output, checked)
        emit(checked, json, self_check_table)
        raise typer.Exit(0 if checked.passed else 1)
    baseline = None
    if compare is not None:
        from mnist_edge.benchmarking.comparable import require_comparable
        from mnist_edge.benchmarking.results import read_result

        baseline = read_result(compare)
        require_comparable(baseline, plan, (str(compare), "this run"), anyway=anyway)
    report = bench_stage(plan)
    if profile:
        from mnist_edge.benchmarking.profile import profile as by_operator
        from mnist_edge.benchmarking.rounds import with_profile

        report = with_profile(report, by_operator(plan))
    _write(output, report)
    if plot is not None:
        from mnist_edge.reporting.plots.latency import latencies

        say(f"wrote {latencies(report, plot)}")
    if baseline is None:
        emit(report, json, bench_table)
        again = ("--output", "result.json") if output is None else ("--compare", output)
        say_next("bench", plan.model, *again, as_json=json)
        return
    from mnist_edge.benchmarking.compare import compare as compare_results
    from mnist_edge.cli.compare import show_comparison

    if not json:
        emit(report, False, bench_table)
    names = (str(compare), "this run")
    show_comparison(compare_results(baseline, report, names, tolerance=tolerance / 100, anyway=anyway), json)


def bench_stage(plan: Plan) -> BenchReport:
    """Time with a progress bar on standard error."""
    from mnist_edge.benchmarking import rounds
    from mnist_edge.reporting.console import progress

    with progress("timing") as on_process:
        return rounds.bench(plan, on_process)


def _scenario(name: ScenarioName, rate: float | None, gap: float | None, duration: float | None) -> Scenario:
    """Options that belong to one scenario are refused with another.

    Raises:
        UsageError: names the option that is missing or does not belong.
    """
    from mnist_edge.benchmarking.rounds import SECONDS
    from mnist_edge.records.benchmark import Scenario

    for option, value, owner in (("--rate", rate, "server"), ("--gap", gap, "idle")):
        if value is None and name == owner:
            raise UsageError(f"scenario {name} needs {option}", hint=f"{option} {'500' if name == 'server' else '100'}")
        if value is not None and name != owner:
            raise UsageError(f"{option} belongs to --scenario {owner}", hint=f"--scenario {owner}, or leave it out")
    if duration is not None and name == "offline":
        raise UsageError("offline counts images, not seconds", hint="leave --duration out")
    usual = {"server": 2.0, "idle": 2.0}.get(name, SECONDS)
    return Scenario(name=name, seconds=usual if duration is None else duration, rate_per_s=rate, gap_ms=gap)


def _write(output: Path | None, report: Report) -> None:
    if output is None:
        return
    from json import dumps

    from mnist_edge.files import write_atomic
    from mnist_edge.reporting.console import say

    write_atomic(output, (dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode())
    say(f"wrote {output}")
