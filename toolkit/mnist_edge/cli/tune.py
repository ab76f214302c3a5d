"""`mnist-edge tune`: the variant and the session settings that are best on this device."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, dataset_option
from mnist_edge.cli.recording import recording
from mnist_edge.contract import Objective, ProviderName, allowed_drop


def tune(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the newest in exported/.")] = None,
    *,
    max_accuracy_drop: Annotated[
        float,
        typer.Option(min=0, max=100, help="Accuracy below that of fp32, on held-out images, in percentage points."),
    ] = 0.1,
    max_latency_us: Annotated[
        float | None, typer.Option(min=0.001, max=1e12, help="Largest p50 of a run, in microseconds.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Largest size of the file.")] = None,
    objective: Annotated[Objective, typer.Option(help="What to make as good as the limits allow.")] = "latency",
    provider: Annotated[ProviderName, typer.Option(help="Execution provider; no other is used.")] = "cpu",
    batch: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Images of a run. Default: 1; 64 for throughput.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Candidate, built if the bundle lacks it; repeatable. Default: all that can pay."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run that the bundle was exported from. Default: the one in runs/.")
    ] = None,
    dataset: Annotated[str | None, dataset_option("Only for a bundle of your own digits.")] = None,
    data_dir: DataDir = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Time anew; by default a tuning that was stopped continues.")
    ] = False,
    json: Json = False,
) -> None:
    """Build variants, time them with different session settings, and record the best in the bundle.

    Accuracy is judged on images held out of training; the test set confirms the choice. Writes pareto.png into
    runs/tune-<bundle>. Exit 1 if no candidate meets the limits.
    """
    from mnist_edge.records.tuning import Limits
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.tuning import failure, tune_table
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.tune import TuneRequest, study_folder
    from mnist_edge.workflow.tune import tune as tune_stage

    chosen = bundle or newest_bundle(say)
    request = TuneRequest(
        bundle=chosen,
        limits=Limits(max_accuracy_drop=max_accuracy_drop / 100, max_latency_us=max_latency_us, max_bytes=max_bytes),
        objective=objective,
        provider=provider,
        batch=batch,
        variants=tuple(variant or ()),
        run=run,
        dataset=dataset,
        data_dir=data_dir,
        overwrite=overwrite,
        notify=say,
    )
    with recording(chosen, "tune", changes=True) as keep, status(f"tuning {chosen}"):
        report = tune_stage(request)
        keep(report)
    if find_spec("matplotlib") is not None:
        from mnist_edge.reporting.plots.pareto import pareto

        say(f"wrote {pareto(report, study_folder(chosen) / 'pareto.png')}")
    emit(report, json, tune_table)
    if report.choice is None:
        say(f"mnist-edge: {failure(report)}")
        raise typer.Exit(1)
    if not report.choice.test_set:
        say_next("bench", chosen, as_json=json)
        return
    say_next("verify", chosen, *allowed_drop(max_accuracy_drop), as_json=json)
