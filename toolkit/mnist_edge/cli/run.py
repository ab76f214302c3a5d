"""`mnist-edge run`: train, export, verify and time in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, dataset_option, recipe_option
from mnist_edge.cli.recording import recording
from mnist_edge.cli.report import PAGE, how_to_open, write_report
from mnist_edge.contract import MAX_SEED, DeviceName, ProviderName
from mnist_edge.errors import CheckFailedError, MnistEdgeError

if TYPE_CHECKING:
    from mnist_edge.records.data import Dataset


def run(
    *,
    dataset: Annotated[str, dataset_option()] = "mnist",
    data_dir: DataDir = None,
    recipe: Annotated[str | None, recipe_option()] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training set. Default: the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Random seed. Default: 0.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Device to train on; auto takes CUDA if available.")] = "auto",
    provider: Annotated[
        ProviderName, typer.Option(help="Execution provider to verify and time with; no other is used.")
    ] = "cpu",
    run_folder: Annotated[Path | None, typer.Option("--run", help="Run folder. Default: runs/<dataset>.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train anew, even where the run folder holds a run.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Bundle folder. Default: exported/<dataset>.")] = None,
    json: Json = False,
) -> None:
    """Train (or resume an interrupted run), export, verify and time, and print one summary."""
    from mnist_edge.benchmarking.plan import Plan
    from mnist_edge.cli.train import train_with_progress
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.records.run import RunReport
    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.reporting.console import emit, progress, say, say_next
    from mnist_edge.reporting.tables.run import run_table
    from mnist_edge.runtime.session import require_provider
    from mnist_edge.verification.verify import VerifyOptions
    from mnist_edge.workflow.bench import time_model
    from mnist_edge.workflow.evaluate import evaluate
    from mnist_edge.workflow.export import export
    from mnist_edge.workflow.folders import RUNS
    from mnist_edge.workflow.train import prepare_training
    from mnist_edge.workflow.verify import verify_folder

    require_provider(provider)
    data: Dataset = load_dataset(dataset, data_dir, say)
    chosen = dataset if data.name == "folder" else data.name  # the dataset that `auto` resolved to
    folder = run_folder or RUNS / data.name
    request = prepare_training(
        dataset=chosen,
        data_dir=data_dir,
        recipe=recipe,
        run=folder,
        continue_run=True,
        overwrite=overwrite,
        device=device,
        changes={"epochs": epochs, "seed": seed},
        notify=say,
    )
    trained = train_with_progress(request, device=device)
    exported = export(run=folder, output=output, dataset=chosen, data_dir=data_dir, notify=say)
    bundle, own_data = exported.bundle, chosen if data.name == "folder" else None
    with recording(bundle, "export") as keep:
        keep(exported)
    say(f"verifying {bundle} on {provider}")
    options = VerifyOptions(session=SessionSettings(provider=provider))
    with recording(bundle, "verify") as keep:
        verified, _ = verify_folder(bundle, None, options, own_data, data_dir)
        keep(verified)
    if not verified.passed:
        reasons = "; ".join(variant.reason for variant in verified.variants if variant.reason)
        raise CheckFailedError(f"{bundle} does not predict as PyTorch does: {reasons}", hint="mnist-edge verify")
    with recording(bundle, "eval") as keep:
        evaluated = evaluate(bundle, variant="fp32", dataset=own_data, data_dir=data_dir, provider=provider)
        keep(evaluated, "eval-fp32")
    say("timing it against PyTorch eager, in fresh processes")
    with recording(bundle, "bench") as keep, progress("timing") as on_process:
        timed = time_model(Plan(model=bundle, provider=provider), on_process=on_process)
        keep(timed)
    emit(RunReport(train=trained, export=exported, eval=evaluated, verify=verified, bench=timed), json, run_table)
    _write_page(bundle, own_data, data_dir)
    say_next("bench", bundle, "--batch", "1,64", "--output", "result.json", as_json=json)


def _write_page(bundle: Path, dataset: str | None, data_dir: Path | None) -> None:
    """Write report.html into the working folder; where that is not possible, report why: all else is done."""
    from mnist_edge.reporting.console import say

    try:
        write_report(bundle, PAGE, "html", dataset=dataset, data_dir=data_dir)
    except MnistEdgeError as error:
        say(f"{PAGE} was not written: {error.message} ({error.hint})")
    else:
        say(f"wrote {PAGE}, which shows all of it; {how_to_open(PAGE)}")
