"""From a dataset, a recipe or a checkpoint to a trained run."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_edge.contract import WIDTHS, DeviceName, Normalization
from mnist_edge.errors import StoppedError, UsageError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.workflow.folders import RUNS
from mnist_edge.workflow.suspicion import suspect_normalization

if TYPE_CHECKING:
    from mnist_edge.records.data import Dataset
    from mnist_edge.records.training import EpochRecord, TrainReport
    from mnist_edge.training.run import Start

Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """A run that may begin: where it starts, on what data, and in which folder."""

    start: Start
    data: Dataset
    folder: Path


def prepare_training(
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    recipe: str | None = None,
    resume: Path | None = None,
    run: Path | None = None,
    device: DeviceName = "auto",
    normalization: Normalization | None = None,
    changes: dict[str, Any],
    notify: Notify = lambda _line: None,
) -> TrainingRequest:
    """Read all that a run needs.

    Args:
        dataset: a name or a folder; None takes mnist, or the checkpoint's.
        data_dir: folder in which datasets are looked for first.
        recipe: a name, or a TOML file.
        resume: run folder or checkpoint to continue, or a .pth whose weights are the start.
        run: run folder; None takes `runs/<dataset>`, or the resumed run's.
        device: must be available.
        normalization: of the pixels that a .pth was trained on.
        changes: settings that the user named, None for the others.
        notify: takes one plain line about what happens.
    """
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.ranks import this_rank
    from mnist_edge.training.checkpoint import checkpoint_path
    from mnist_edge.training.model import resolve_device
    from mnist_edge.training.run import restarted, resumed

    resolve_device(device)
    path = None if resume is None else checkpoint_path(resume)
    kind = None if path is None else require_model_kind(path, "checkpoint", "state_dict")
    if normalization is not None and kind != "state_dict":
        raise UsageError("--normalize is for the weights of a .pth (--resume FILE.pth)", hint="leave --normalize out")
    if path is not None and kind == "checkpoint":
        _refuse_changes(recipe, changes)
        start = resumed(path, changes["epochs"])
        data = load_dataset(dataset or start.run.settings.dataset, data_dir, notify)
        folder = run or path.parent
    else:
        data = load_dataset(dataset or "mnist", data_dir, notify)
        folder = run or RUNS / data.name
        start = _fresh(path, normalization, recipe, data, changes, notify)
    if this_rank().restarts:
        start = restarted(folder, start)
    return TrainingRequest(start=start, data=data, folder=folder)


def train(
    request: TrainingRequest,
    *,
    device: DeviceName = "auto",
    notify: Notify = lambda _line: None,
    on_step: Callable[[int, int], None] = lambda _done, _all: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _record: None,
) -> TrainReport:
    """Train to the end, saving checkpoints into the run folder.

    Args:
        request: see `prepare_training`.
        device: to train on.
        notify: takes one plain line about what happens.
        on_step: called with finished steps and all steps.
        on_epoch: called after each epoch.

    Raises:
        StoppedError: SIGINT or SIGTERM arrived; the last finished step is saved.
    """
    from mnist_edge.interrupts import stop_requests
    from mnist_edge.ranks import this_rank
    from mnist_edge.training.run import train_run

    with stop_requests() as stop:
        report = train_run(
            request.start,
            request.data,
            request.folder,
            device=device,
            say=notify,
            on_step=on_step,
            on_epoch=on_epoch,
            stop=lambda: stop.signal_number is not None,
        )
    if report is None:
        assert stop.signal_number is not None or this_rank().size > 1  # only a signal ends a run early
        again = ["mnist-edge", "train", "--resume", str(request.folder)]
        raise StoppedError(
            f"stopped; {request.folder} holds the last finished step",
            signal_number=stop.signal_number or signal.SIGTERM,  # it may have come to another process
            hint=shlex.join([*again, "--dataset", request.data.source] if request.data.name == "folder" else again),
        )
    return report


def _refuse_changes(recipe: str | None, changes: dict[str, Any]) -> None:
    named = [key for key, value in {"recipe": recipe, **changes}.items() if value is not None and key != "epochs"]
    if named:
        option = "--" + named[0].replace("_", "-")
        raise UsageError(
            f"{option} cannot change when a run is resumed: its checkpoint holds it", hint=f"leave {option} out"
        )


def _fresh(
    weights: Path | None,
    normalization: Normalization | None,
    recipe: str | None,
    data: Dataset,
    changes: dict[str, Any],
    notify: Notify,
) -> Start:
    """A run from first weights or from those of a .pth."""
    from mnist_edge.training.loop import new_run
    from mnist_edge.training.recipes import settings_for
    from mnist_edge.training.run import Start, started_from
    from mnist_edge.training.state_dict import read_state_dict

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
    if weights is None:
        return Start(run=new_run(settings))
    loaded = read_state_dict(weights, normalization)
    for note in loaded.notes:
        notify(note)
    suspect_normalization(loaded, data, notify)
    return started_from(loaded, weights, settings)
