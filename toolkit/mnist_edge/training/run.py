"""Train in a run folder, from settings or a checkpoint, and write checkpoints and histories into it."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mnist_edge.contract import DeviceName
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.files import ensure_folder, locked, remove_leftovers, sha256_bytes, write_atomic
from mnist_edge.ranks import Rank, this_rank
from mnist_edge.records.data import Dataset
from mnist_edge.records.training import TrainReport
from mnist_edge.training.checkpoint import (
    LAST,
    PREVIOUS,
    Checkpoint,
    environment_of,
    load_checkpoint,
    save_checkpoint,
)
from mnist_edge.training.checkpoint_checks import check_position
from mnist_edge.training.group import process_group, require_same_work, stop_on_any
from mnist_edge.training.loop import (
    KEEP_LOSS_EVERY,
    Hooks,
    Run,
    checkpoint_of,
    continued_run,
    new_run,
    steps_per_epoch,
    train,
)
from mnist_edge.training.model import resolve_device, widths_of, with_normalization
from mnist_edge.training.network import deployed_accuracy
from mnist_edge.training.recipes import Settings
from mnist_edge.training.state_dict import LoadedModel
from mnist_edge.training.threads import choose_threads, limited_threads


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a run: fresh settings, bare weights, or a checkpoint.

    Attributes:
        run: the state to continue.
        note: one line for the user.
        checkpoint: the file that is continued.
        threads: number of CPU threads that it was trained with so far; None for a new run or a GPU.
    """

    run: Run
    note: str = ""
    checkpoint: Path | None = None
    threads: int | None = None


def resume_run(path: Path, epochs: int | None) -> Start:
    """Continue a checkpoint of mnist-edge; `epochs` is the new total, or None for the recipe's."""
    checkpoint = load_checkpoint(path)
    settings, progress = checkpoint.settings, checkpoint.progress
    note = f"resuming {path}: {progress.epoch} of {epochs or settings.recipe.epochs} epochs and {progress.step} steps are done"
    if epochs is not None and epochs != settings.recipe.epochs:
        if epochs < progress.epoch:
            raise UsageError(f"--epochs {epochs}: {progress.epoch} are done already", hint="leave --epochs out")
        if settings.recipe.schedule != "constant":
            note += (
                f"; the checkpoint was begun for {settings.recipe.epochs} epochs, so the learning rate jumps to where the "
                f"{settings.recipe.schedule} schedule of {epochs} epochs would be"
            )
        checkpoint.settings = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, epochs=epochs))
    threads = checkpoint.environment["threads"] if checkpoint.environment["device"] == "cpu" else None
    return Start(run=continued_run(checkpoint), note=note, checkpoint=path, threads=threads)


def start_from_weights(loaded: LoadedModel, path: Path, settings: Settings) -> Start:
    """Start with the weights of a bare state_dict; it has no optimiser state and no progress."""
    model = with_normalization(loaded.network, loaded.normalization, "seed")
    settings = dataclasses.replace(settings, widths=widths_of(model))
    note = f"{path} is a bare state_dict: the optimiser starts fresh, at epoch 0"
    if loaded.normalization != "seed":
        note += f"; its first layer was converted from {loaded.normalization} to the seed's normalisation"
    return Start(run=new_run(settings, model), note=note)


def start_after_restart(folder: Path, start: Start) -> Start:
    """Continue from the checkpoint of the same run after torchrun lost a process; return `start` if there is none."""
    if (folder / LAST).exists() and load_checkpoint(folder / LAST).settings == start.run.settings:
        return resume_run(folder / LAST, None)
    return start


def train_run(
    start: Start,
    dataset: Dataset,
    folder: Path,
    *,
    device: DeviceName,
    threads: int | None = None,
    overwrite: bool = False,
    notify: Callable[[str], object],
    on_step: Callable[[int, int], object],
    on_epoch: Callable[[Any], object],
    stop: Callable[[], bool],
) -> TrainReport | None:
    """Train in a run folder, which one process holds at a time.

    Returns:
        The report, or None where `stop` ended it; the checkpoint then holds the last finished step.

    Raises:
        UsageError: the checkpoint is of another dataset, or the folder holds another run that was interrupted.
        UnavailableError: folder in use or not writable, no such device.
    """
    settings = start.run.settings
    _check_data(start, dataset)
    target, rank = resolve_device(device), this_rank()
    with process_group(rank, target), _held(folder, rank):
        if not overwrite:
            _refuse_to_overwrite(start, folder)
        if rank.leads:
            remove_leftovers(folder)
        require_same_work(rank, _work(start.run, dataset))
        if start.note:
            notify(start.note)

        def save(checkpoint: Checkpoint, *, keep: bool = True) -> None:
            if rank.leads:
                save_checkpoint(folder, checkpoint, keep=keep)
                _write_histories(folder, checkpoint)

        if start.checkpoint is None or start.checkpoint.resolve() != (folder / LAST).resolve():
            # Shows before the long work that it can be written. What it replaces may be damaged, and is not kept.
            save(checkpoint_of(start.run, start.run.sampler.get_state(), target), keep=False)
            if rank.leads and (start.checkpoint is None or start.checkpoint.resolve().parent != folder.resolve()):
                (folder / PREVIOUS).unlink(missing_ok=True)  # of the run that is replaced
        elif rank.leads:
            _write_histories(folder, load_checkpoint(start.checkpoint))  # only the checkpoint may have been copied here
        count = _threads(start, dataset, target, rank, threads, notify)
        hooks = Hooks(
            save=save,
            on_step=on_step,
            on_epoch=on_epoch if rank.leads else lambda _record: None,
            stop=stop_on_any(rank, stop),
        )
        with limited_threads(count):
            finished = train(start.run, dataset, target, hooks, rank)
        if not finished:
            return None
        history = start.run.progress.history
        seconds = sum(record.seconds for record in history)
        return TrainReport(
            run=folder,
            checkpoint=folder / LAST,
            dataset=dataset.name,
            recipe=settings.recipe.name,
            epochs=start.run.progress.epoch,
            test_accuracy=deployed_accuracy(start.run.model, dataset.test_images, dataset.test_labels),
            seconds=seconds,
            seconds_per_epoch=seconds / max(1, len(history)),
            device=environment_of(target)["device"],
        )


def _check_data(start: Start, dataset: Dataset) -> None:
    """Raise UsageError for another dataset than the checkpoint's, BadFileError for a position that it does not have."""
    settings = start.run.settings
    if settings.dataset != dataset.name:
        raise UsageError(
            f"the checkpoint was trained on {settings.dataset}, the dataset is {dataset.name}",
            hint=f"--dataset {'FOLDER' if settings.dataset == 'folder' else settings.dataset}",
        )
    if settings.fingerprint != dataset.fingerprint:
        raise UsageError(
            f"{dataset.source} does not hold the images that the checkpoint was trained on",
            hint="--dataset with the folder that the run began with, or start a new one with another --run",
        )
    steps = steps_per_epoch(dataset, settings.recipe)
    try:
        check_position(start.run.progress, start.run.curve, steps, KEEP_LOSS_EVERY)
    except ValueError as error:
        raise BadFileError(f"{start.checkpoint}: {error}", hint="give another checkpoint") from error


def _threads(
    start: Start,
    dataset: Dataset,
    device: torch.device,
    rank: Rank,
    wanted: int | None,
    notify: Callable[[str], object],
) -> int:
    """Return how many threads to train with, and report why; processes share the CPUs of their machine."""
    if device.type != "cpu" or rank.size > 1:
        return wanted or torch.get_num_threads()
    threads, notes = choose_threads(start.run, dataset, wanted, start.threads)
    for line in notes:
        notify(line)
    return threads


@contextmanager
def _held(folder: Path, rank: Rank) -> Iterator[None]:
    """Hold the run folder, which only the leading process writes to."""
    if not rank.leads:
        yield
        return
    ensure_folder(folder)
    with locked(folder):
        yield


def _work(run: Run, dataset: Dataset) -> dict[str, Any]:
    """Return what processes that train together must agree on, by name."""
    return {
        "settings": repr(run.settings),
        "progress": (run.progress.epoch, run.progress.step),
        "weights": sha256_bytes(b"".join(value.numpy().tobytes() for value in run.model.state_dict().values())),
        "labels": sha256_bytes(dataset.train_labels.tobytes()),
    }


def _refuse_to_overwrite(start: Start, folder: Path) -> None:
    """Raise UsageError where the folder holds another run than the one to be continued."""
    last = folder / LAST
    if not last.exists() or (start.checkpoint is not None and start.checkpoint.resolve().parent == folder.resolve()):
        return
    kept = load_checkpoint(last)
    done, epochs = kept.progress.epoch, kept.settings.recipe.epochs
    found = "a finished run" if done == epochs else f"an interrupted run ({done} of {epochs} epochs)"
    raise UsageError(
        f"{folder} holds {found}, which is not replaced",
        hint=f"--resume {shlex.quote(str(folder))} continues it, --overwrite replaces it, another --run keeps both",
    )


def _write_histories(folder: Path, checkpoint: Checkpoint) -> None:
    """Rewrite `history.csv` and `loss.csv` from the checkpoint, so that they never disagree with it."""
    columns = ("epoch", "loss", "holdout_accuracy", "learning_rate", "seconds")
    history = [tuple(getattr(record, column) for column in columns) for record in checkpoint.progress.history]
    _write_csv(folder / "history.csv", columns, history)  # None is written as nothing
    curve = [(index * KEEP_LOSS_EVERY, loss) for index, loss in enumerate(checkpoint.curve.tolist())]
    _write_csv(folder / "loss.csv", ("step", "loss"), curve)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
