"""A network of its own for a variant: from a finished run of the user's, or trained in a run folder of the variant's.

The run folder survives a kill and a failed export, so no finished epoch is trained twice.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

from torch import nn

from mnist_edge.errors import BadFileError, StoppedError
from mnist_edge.interrupts import stop_requests
from mnist_edge.records.data import Dataset
from mnist_edge.records.training import EpochRecord
from mnist_edge.training.checkpoint import LAST, Checkpoint, load_checkpoint
from mnist_edge.training.loop import new_run
from mnist_edge.training.recipes import Settings
from mnist_edge.training.run import Start, resume_run, train_run

LINES = 10
"""Reports on the progress of a run, about."""


def finished_run(folder: Path, settings: Settings) -> Checkpoint | None:
    """Return the checkpoint of a finished run of the same network on the same dataset, with any recipe and seed.

    Returns:
        None where the folder holds no such run, or a damaged one.
    """
    found = _checkpoint(folder)
    if found is None or found.progress.epoch < found.settings.recipe.epochs:
        return None
    same = dataclasses.replace(found.settings, recipe=settings.recipe, seed=settings.seed) == settings
    return found if same else None


def trained_run(
    folder: Path,
    settings: Settings,
    dataset: Dataset,
    name: str,
    notify: Callable[[str], None],
    initial: nn.Sequential | None = None,
) -> Checkpoint:
    """Return the finished checkpoint of a run with these settings: the one in the folder, continued if need be.

    Args:
        folder: of the variant's own; another run in it is replaced.
        settings: of the run.
        dataset: to train on.
        name: of the variant, for the user.
        notify: takes one plain line about what happens.
        initial: the network to start from, which the settings must identify, or None for the weights of their seed.

    Raises:
        StoppedError: a signal arrived; the last finished step is saved.
        CheckFailedError: the loss became NaN or infinite.
        UnavailableError: the folder is in use or cannot be written.
    """
    kept = _checkpoint(folder)
    resumes = kept is not None and kept.settings == settings
    if not resumes or kept is None or kept.progress.epoch < settings.recipe.epochs:
        start = resume_run(folder / LAST, None) if resumes else Start(run=new_run(settings, initial))
        notify(f"training {name} in {folder}: {settings.recipe.epochs} epochs")

        def on_epoch(record: EpochRecord) -> None:
            if record.epoch % max(1, settings.recipe.epochs // LINES):
                return
            held_out = "" if record.holdout_accuracy is None else f", held-out accuracy {record.holdout_accuracy:.2%}"
            notify(f"{name}: epoch {record.epoch} of {settings.recipe.epochs}{held_out}, {record.seconds:.1f} s")

        with stop_requests() as stop:
            report = train_run(
                start,
                dataset,
                folder,
                device="auto",
                overwrite=True,
                notify=notify,
                on_step=lambda _done, _all: None,
                on_epoch=on_epoch,
                stop=lambda: stop.signal_number is not None,
            )
        if report is None:
            assert stop.signal_number is not None  # only a signal ends a run early
            raise StoppedError(
                f"stopped while {name} was trained; {shlex.quote(str(folder))} holds the last finished step",
                signal_number=stop.signal_number,
                hint="the same command continues it",
            )
        kept = load_checkpoint(folder / LAST)
    return kept


def _checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a run folder; None where there is none, or a damaged one."""
    if not (folder / LAST).exists():
        return None
    try:
        return load_checkpoint(folder / LAST)
    except BadFileError:
        return None
