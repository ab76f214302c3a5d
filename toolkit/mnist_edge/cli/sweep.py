"""`mnist-edge sweep`: search for training settings on the held-out split."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import (
    DataDir,
    Json,
    choices,
    dataset_option,
    number_range,
    recipe_option,
    whole_numbers,
)
from mnist_edge.contract import MAX_SEED
from mnist_edge.errors import CheckFailedError, StoppedError

NETWORKS = ["600,400,200,100", "300,100"]


def sweep(
    *,
    dataset: Annotated[str, dataset_option()] = "mnist",
    data_dir: DataDir = None,
    recipe: Annotated[str, recipe_option()] = "fast",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each training. Default: the recipe's.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try in total, including those of earlier runs.")] = 20,
    lr: Annotated[
        str, typer.Option(help="Range of learning rates, LOW:HIGH, searched on a logarithmic scale.")
    ] = "0.01:0.2",
    batch_size: Annotated[str, typer.Option(help="Batch sizes to try, separated by commas.")] = "64,128,256",
    widths: Annotated[
        list[str],
        typer.Option(help="Hidden widths of a network to try; repeatable.", show_default=" and ".join(NETWORKS)),
    ] = NETWORKS,
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds, separated by commas; each setting is trained with every seed, and the mean accuracy counts."
        ),
    ] = "0,1",
    study: Annotated[Path | None, typer.Option(help="Study folder. Default: runs/sweep-<dataset>.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="postgresql://USER@HOST/DATABASE, for workers on many machines. Default: a file in the study folder.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Search for the learning rate, batch size and widths with the best accuracy on held-out training images.

    The same command continues a sweep that was stopped. Started twice, the processes share the work, and the trial of one
    that is killed is tried again by the others.

    The test set is not used. Writes sweep.png into the study folder.
    """
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.interrupts import stop_requests
    from mnist_edge.reporting.console import emit, progress, say, say_next
    from mnist_edge.reporting.plots.sweep import sweep_plot
    from mnist_edge.reporting.tables.sweep import sweep_table, trial_line
    from mnist_edge.training.openmp import import_torch

    import_torch()
    from mnist_edge.sweeping.search import Plan
    from mnist_edge.sweeping.search import sweep as search
    from mnist_edge.sweeping.study import Space
    from mnist_edge.workflow.folders import RUNS

    space = Space(
        lr=number_range(lr, "--lr"),
        batch_sizes=choices(batch_size, "--batch-size"),
        widths=tuple(dict.fromkeys(whole_numbers(text, "--widths") for text in widths)),
    )
    chosen_seeds = choices(seeds, "--seeds", least=0, greatest=MAX_SEED)
    data = load_dataset(dataset, data_dir, say)
    plan = Plan(
        folder=study or RUNS / f"sweep-{data.name}",
        recipe=recipe,
        epochs=epochs,
        space=space,
        seeds=chosen_seeds,
        trials=trials,
        data_dir=data_dir,
        storage=storage,
    )
    with stop_requests() as request, progress("sweeping") as on_progress:
        report = search(
            plan,
            data,
            on_trial=lambda trial, done: say(trial_line(trial, done, trials)),
            on_progress=on_progress,
            stop=lambda: request.signal_number is not None,
            on_wait=lambda running: say(f"waiting for {running} trial(s) of other workers"),
        )
    if report.command:
        sweep_plot(report, plan.folder / "sweep.png")
    if request.signal_number is not None:
        raise StoppedError(
            f"stopped; {plan.folder} holds {len(report.trials)} of {trials} trials",
            signal_number=request.signal_number,
            hint="the same command continues it",
        )
    if report.trials and not report.command:
        raise CheckFailedError(
            f"all {len(report.trials)} trials failed; the first: {report.trials[0].failure}",
            hint="another --study with lower rates, say --lr 0.001:0.1",
        )
    emit(report, json, sweep_table)
    if report.command:
        say_next(*shlex.split(report.command)[1:], as_json=json)
