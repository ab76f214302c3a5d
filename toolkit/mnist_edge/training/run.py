"""A run folder: from settings or a checkpoint to a trained one, with its histories beside it."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.contract import DeviceName
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.files import ensure_folder, locked, sha256_bytes, write_atomic
from mnist_edge.ranks import Rank, this_rank
from mnist_edge.records.data import Dataset
from mnist_edge.records.training import TrainReport
from mnist_edge.training.checkpoint import (
    LAST,
    Checkpoint,
    environment_of,
    load_checkpoint,
    save_checkpoint,
)
from mnist_edge.training.checkpoint_checks import check_position
from mnist_edge.training.group import agreed, joined, same_everywhere
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
from mnist_edge.training.model import accuracy, linear_layers, resolve_device, with_seed_normalization
from mnist_edge.training.recipes import Settings
from mnist_edge.training.state_dict import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: fresh settings, bare weights, or the checkpoint file that it goes on from."""

    run: Run
    note: str = ""
    checkpoint: Path | None = None


def resumed(path: Path, epochs: int | None) -> Start:
    """Go on from a checkpoint of mnist-edge; `epochs` is the new total, or None for the recipe's."""
    checkpoint = load_checkpoint(path)
    if epochs is not None and epochs != checkpoint.settings.recipe.epochs:
        recipe = dataclasses.replace(checkpoint.settings.recipe, epochs=epochs)
        checkpoint.settings = dataclasses.replace(checkpoint.settings, recipe=recipe)
    run = continued_run(checkpoint)
    done, total = run.progress.epoch, run.settings.recipe.epochs
    return Start(
        run=run,
        note=f"resuming {path}: {done} of {total} epochs and {run.progress.step} steps are done",
        checkpoint=path,
    )


def started_from(loaded: LoadedModel, path: Path, settings: Settings) -> Start:
    """Start with the weights of a bare state_dict; it has no optimiser state and no progress."""
    model = with_seed_normalization(loaded.network, loaded.normalization)
    widths = tuple(layer.out_features for layer in linear_layers(model)[:-1])
    settings = dataclasses.replace(settings, widths=widths)
    note = f"{path} is a bare state_dict: the optimiser starts fresh, at epoch 0"
    if loaded.normalization != "seed":
        note += f"; its first layer was converted from {loaded.normalization} to the seed's normalisation"
    return Start(run=new_run(settings, model), note=note)


def unfinished(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of an interrupted run in this folder, or None."""
    if not (folder / LAST).exists():
        return None
    checkpoint = load_checkpoint(folder / LAST)
    return checkpoint if checkpoint.progress.epoch < checkpoint.settings.recipe.epochs else None


def restarted(folder: Path, start: Start) -> Start:
    """Go on from what the same run left in its folder when torchrun lost a process; `start` where it left nothing."""
    if (folder / LAST).exists() and load_checkpoint(folder / LAST).settings == start.run.settings:
        return resumed(folder / LAST, None)
    return start


def train_run(
    start: Start,
    dataset: Dataset,
    folder: Path,
    *,
    device: DeviceName,
    say: Callable[[str], object],
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
    target, rank = resolve_device(device), this_rank()
    with joined(rank, target), _held(folder, rank):
        _refuse_to_overwrite(start, folder)
        same_everywhere(rank, _work(start.run, dataset))
        if start.note:
            say(start.note)

        def save(checkpoint: Checkpoint, *, keep: bool = True) -> None:
            if rank.leads:
                save_checkpoint(folder, checkpoint, keep=keep)
                _write_histories(folder, checkpoint)

        last = folder / LAST
        if not last.exists() or (start.checkpoint is not None and start.checkpoint.resolve() != last.resolve()):
            # Proves before the long work that it can be written. What it replaces may be damaged: not kept.
            save(checkpoint_of(start.run, start.run.sampler.get_state(), target), keep=False)
        hooks = Hooks(
            save=save,
            on_step=on_step,
            on_epoch=on_epoch if rank.leads else lambda _record: None,
            stop=agreed(rank, stop),
        )
        if not train(start.run, dataset, target, hooks, rank):
            return None
        history = start.run.progress.history
        seconds = sum(record.seconds for record in history)
        return TrainReport(
            run=folder,
            checkpoint=folder / LAST,
            dataset=dataset.name,
            recipe=settings.recipe.name,
            epochs=start.run.progress.epoch,
            test_accuracy=accuracy(start.run.model, dataset.test_images, dataset.test_labels),
            seconds=seconds,
            seconds_per_epoch=seconds / max(1, len(history)),
            device=environment_of(target)["device"],
        )


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
    """What processes that train together must agree on, by name."""
    return {
        "settings": repr(run.settings),
        "progress": (run.progress.epoch, run.progress.step),
        "weights": sha256_bytes(b"".join(value.numpy().tobytes() for value in run.model.state_dict().values())),
        "labels": sha256_bytes(dataset.train_labels.tobytes()),
    }


def _refuse_to_overwrite(start: Start, folder: Path) -> None:
    """An interrupted run is gone on with or left alone."""
    if start.checkpoint is not None and start.checkpoint.resolve().parent == folder.resolve():
        return
    if unfinished(folder) is not None:
        raise UsageError(
            f"{folder} holds a run that was interrupted; it is not overwritten",
            hint=f"--resume {folder} to go on, or another --run, or remove the folder",
        )


def _write_histories(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `history.csv` and `loss.csv` whole from the checkpoint, so that they never disagree with it."""
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
