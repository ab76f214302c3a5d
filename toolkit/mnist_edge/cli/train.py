"""`mnist-edge train`: from a dataset to a checkpoint."""

from __future__ import annotations

import math
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_edge.cli.options import RECIPE_HELP, DataDir, Json, dataset_option, whole_numbers
from mnist_edge.contract import WIDTHS, DeviceName, LogName
from mnist_edge.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from mnist_edge.records.data import Dataset
    from mnist_edge.records.training import EpochRecord, TrainReport
    from mnist_edge.training.run import Start

RUNS = Path("runs")
PLOT_EVERY_S = 10.0
"""Drawing loss.png takes about 0.3 s, as long as some epochs."""


def train(
    *,
    dataset: Annotated[str | None, dataset_option("Default: mnist, or the checkpoint's.")] = None,
    data_dir: DataDir = None,
    recipe: Annotated[str | None, typer.Option(help=RECIPE_HELP)] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on from a run folder or checkpoint, or start with the weights of a .pth file."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set, in total.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate; the peak under a schedule.")] = None,
    momentum: Annotated[float | None, typer.Option(min=0, max=1, help="0 is plain SGD, else Nesterov's.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    widths: Annotated[str | None, typer.Option(help="Hidden widths. Default: 600,400,200,100.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of first weights, order and shifts. Default: 0.")] = None,
    device: Annotated[DeviceName, typer.Option(help="auto is CUDA where there is one.")] = "auto",
    processes: Annotated[
        int, typer.Option(min=1, help="Share every batch among so many processes; torchrun does it across machines.")
    ] = 1,
    run: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<dataset>, or the resumed run's.")] = None,
    log: Annotated[LogName | None, typer.Option(help="Write TensorBoard events into the run folder, too.")] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw loss.png anew while training, every 10 seconds at most.")
    ] = False,
    json: Json = False,
) -> None:
    """Train or resume a digit classifier with SGD.

    Writes last.safetensors, history.csv, loss.csv and loss.png into the run folder.
    """
    from mnist_edge.ranks import this_rank
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.train import train_table

    size = this_rank().size
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
    work = prepared(
        dataset=dataset, data_dir=data_dir, recipe=recipe, resume=resume, run=run, device=device, changes=changes
    )
    if processes > 1 and size == 1:
        from mnist_edge.training.launch import launch

        raise typer.Exit(launch(processes, sys.argv[1:], say))
    emit(train_stage(work, device=device, log=log, plot=plot), json, train_table)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run that may begin: where from, on what, and in which folder."""

    start: Start
    data: Dataset
    folder: Path


def prepared(
    *,
    dataset: str | None,
    data_dir: Path | None,
    recipe: str | None,
    resume: Path | None,
    run: Path | None,
    device: DeviceName,
    changes: dict[str, Any],
) -> Work:
    """Read all that a run needs; `changes` are the settings that the user named, None for the others."""
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.ranks import this_rank
    from mnist_edge.reporting.console import say
    from mnist_edge.training.checkpoint import checkpoint_path, is_state_dict
    from mnist_edge.training.model import resolve_device
    from mnist_edge.training.run import restarted, resumed

    resolve_device(device)
    if resume is not None and not is_state_dict(resume):
        _refuse_changes(recipe, changes)
        path = checkpoint_path(resume)
        start = resumed(path, changes["epochs"])
        data = load_dataset(dataset or start.run.settings.dataset, data_dir, say)
        folder = run or path.parent
    else:
        data = load_dataset(dataset or "mnist", data_dir, say)
        folder = run or RUNS / data.name
        start = _fresh(resume, recipe, data, changes)
    if this_rank().restarts:
        start = restarted(folder, start)
    return Work(start=start, data=data, folder=folder)


def train_stage(work: Work, *, device: DeviceName, log: LogName | None = None, plot: bool = False) -> TrainReport:
    """Train with progress on standard error."""
    from mnist_edge.interrupts import stop_requests
    from mnist_edge.ranks import this_rank
    from mnist_edge.reporting.console import progress, say
    from mnist_edge.reporting.plots.loss import loss_curve
    from mnist_edge.reporting.tables.train import epoch_line
    from mnist_edge.training.events import Events
    from mnist_edge.training.run import train_run

    recipe, data, folder = work.start.run.settings.recipe, work.data, work.folder
    title = f"{data.name}, recipe {recipe.name}"
    events = Events(folder, say) if log == "tensorboard" else None
    drawn = -math.inf

    def on_epoch(record: EpochRecord) -> None:
        nonlocal drawn
        say(epoch_line(record, recipe.epochs))
        if events is not None:
            events.refresh()
        if plot and monotonic() - drawn >= PLOT_EVERY_S:
            loss_curve(folder, title)
            drawn = monotonic()

    with stop_requests() as request, progress("training") as on_step:
        report = train_run(
            work.start,
            data,
            folder,
            device=device,
            say=say,
            on_step=on_step,
            on_epoch=on_epoch,
            stop=lambda: request.signal_number is not None,
        )
    if this_rank().leads:
        if events is not None:
            events.refresh()
            events.close()
        loss_curve(folder, title)
    if report is None:
        assert request.signal_number is not None or this_rank().size > 1  # only a signal ends a run early
        again = ["mnist-edge", "train", "--resume", str(folder)]
        raise StoppedError(
            f"stopped; {folder} holds the last finished step",
            signal_number=request.signal_number or signal.SIGTERM,  # it may have come to another process
            hint=shlex.join([*again, "--dataset", data.source] if data.name == "folder" else again),
        )
    return report


def _refuse_changes(recipe: str | None, changes: dict[str, Any]) -> None:
    named = [key for key, value in {"recipe": recipe, **changes}.items() if value is not None and key != "epochs"]
    if named:
        option = "--" + named[0].replace("_", "-")
        raise UsageError(
            f"{option} cannot change when a run is resumed: its checkpoint holds it", hint=f"leave {option} out"
        )


def _fresh(weights: Path | None, recipe: str | None, data: Dataset, changes: dict[str, Any]) -> Start:
    """A run from first weights or from those of a .pth."""
    from mnist_edge.training.checkpoint import checkpoint_path
    from mnist_edge.training.loop import new_run
    from mnist_edge.training.recipes import settings_for
    from mnist_edge.training.run import Start, started_from

    if weights is not None and changes["widths"] is not None:
        raise UsageError("--widths cannot change: the .pth file has its own", hint="leave --widths out")
    given = {**changes, "seed": changes["seed"] or 0, "widths": changes["widths"] or WIDTHS}
    settings = settings_for(
        recipe or "fast",
        dataset=data.name,
        train_images=len(data.train_images),
        fingerprint=data.fingerprint,
        **given,
    )
    return Start(run=new_run(settings)) if weights is None else started_from(checkpoint_path(weights), settings)
