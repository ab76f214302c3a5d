"""`mnist-edge train`: from a dataset to a checkpoint."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, NormalizeStateDict, dataset_option, recipe_option, whole_numbers
from mnist_edge.contract import MAX_SEED, DeviceName, LogName, StudentName
from mnist_edge.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from mnist_edge.records.training import EpochRecord, TrainReport
    from mnist_edge.training.events import Events
    from mnist_edge.workflow.train import TrainingRequest

PLOT_EVERY_S = 10.0
"""Drawing loss.png takes about 0.3 s, as long as some epochs."""


def train(
    *,
    dataset: Annotated[str | None, dataset_option("Default: mnist, or the checkpoint's.")] = None,
    data_dir: DataDir = None,
    recipe: Annotated[str | None, recipe_option()] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue a run folder or checkpoint, or start from the weights of a .pth file."),
    ] = None,
    normalize: NormalizeStateDict = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training set, in total. Default: the recipe's.")
    ] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate; with a schedule, its peak.")] = None,
    momentum: Annotated[float | None, typer.Option(min=0, max=1, help="Nesterov momentum; 0 is plain SGD.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="L2 penalty on the weights.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    widths: Annotated[
        str | None, typer.Option(help="Hidden widths, separated by commas. Default: 600,400,200,100.")
    ] = None,
    student: Annotated[
        StudentName | None,
        typer.Option(help="Train a small convolutional network with 4-bit weights, named by their approximate bytes."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Random seed of initial weights, order and augmentation. Default: 0."),
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="Device to train on; auto takes CUDA if available.")] = "auto",
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Processes on this machine that share every batch; for several machines use torchrun."
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads. Default: the faster of one and all, measured at the start."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/<dataset>, runs/<dataset>-student-<name>, or the resumed run's."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    log: Annotated[LogName | None, typer.Option(help="Also write TensorBoard events into the run folder.")] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also draw loss.png during training, at most every 10 seconds.")
    ] = False,
    json: Json = False,
) -> None:
    """Train or resume a digit classifier with SGD.

    Writes last.safetensors, history.csv, loss.csv and loss.png into the run folder.
    """
    from mnist_edge.interrupts import end_with_parent
    from mnist_edge.ranks import this_rank
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.train import train_table
    from mnist_edge.workflow.train import prepare_training

    rank = this_rank()
    size = rank.size
    if rank.launcher is not None:
        end_with_parent(rank.launcher)
    if size > 1 and processes not in (1, size):
        raise UsageError(f"--processes {processes}, but torchrun started {size}", hint="leave --processes out")
    changes = {
        "epochs": epochs,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "seed": seed,
        "widths": None if widths is None else whole_numbers(widths, "--widths"),
    }
    with status("loading PyTorch and the dataset"):
        request = prepare_training(
            dataset=dataset,
            data_dir=data_dir,
            recipe=recipe,
            resume=resume,
            run=run,
            device=device,
            normalization=normalize,
            changes=changes,
            student=student,
            processes=processes,
            threads=threads,
            overwrite=overwrite,
            notify=say,
        )
    if processes > 1 and size == 1:
        from mnist_edge.training.launch import launch
        from mnist_edge.training.model import require_devices

        require_devices(device, processes)
        raise typer.Exit(launch(processes, sys.argv[1:], say))
    report = train_with_progress(request, device=device, log=log, plot=plot)
    emit(report, json, train_table)
    own_data = ("--dataset", request.data.source) if request.data.name == "folder" else ()
    say_next("export", "--run", report.run, *own_data, as_json=json)


def train_with_progress(
    request: TrainingRequest, *, device: DeviceName, log: LogName | None = None, plot: bool = False
) -> TrainReport:
    """Train with progress on standard error; draw loss.png at the end, also after a signal."""
    from mnist_edge.reporting.console import progress, say
    from mnist_edge.reporting.plots.loss import loss_curve
    from mnist_edge.reporting.tables.train import epoch_line, training_detail
    from mnist_edge.training.events import Events
    from mnist_edge.workflow.train import run_training

    recipe, folder = request.start.run.settings.recipe, request.folder
    title = f"{request.data.name}, recipe {recipe.name}"
    events = Events(folder, say) if log == "tensorboard" else None
    drawn, detail = -math.inf, f"epoch 1 of {recipe.epochs}"

    def on_epoch(record: EpochRecord) -> None:
        nonlocal drawn, detail
        detail = training_detail(record, recipe.epochs)
        say(epoch_line(record, recipe.epochs))
        if events is not None:
            events.refresh()
        if plot and monotonic() - drawn >= PLOT_EVERY_S:
            loss_curve(folder, title)
            drawn = monotonic()

    try:
        with progress("training") as update:
            report = run_training(
                request,
                device=device,
                notify=say,
                on_step=lambda done, total: update(done, total, detail),
                on_epoch=on_epoch,
            )
    except StoppedError:
        _finish(request, title, events)
        raise
    _finish(request, title, events)
    return report


def _finish(request: TrainingRequest, title: str, events: Events | None) -> None:
    """Draw the loss curve so far, and close the event file."""
    from mnist_edge.ranks import this_rank
    from mnist_edge.reporting.plots.loss import loss_curve

    if not this_rank().leads:
        return
    if events is not None:
        events.refresh()
        events.close()
    loss_curve(request.folder, title)
