"""Train a run from a dataset and a recipe, from a checkpoint, or from the weights of a .pth."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_edge.contract import WIDTHS, DeviceName, Normalization, StudentName, variant_name
from mnist_edge.errors import StoppedError, UsageError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.workflow.folders import RUNS
from mnist_edge.workflow.suspicion import suspect_normalization

if TYPE_CHECKING:
    from mnist_edge.records.data import Dataset
    from mnist_edge.records.training import EpochRecord, TrainReport
    from mnist_edge.training.recipes import Settings
    from mnist_edge.training.run import Start

Notify = Callable[[str], None]

NO_CHANGES: Mapping[str, Any] = dict.fromkeys(
    ("epochs", "lr", "momentum", "weight_decay", "batch_size", "seed", "widths")
)
"""Settings that can be named besides a recipe, none of them."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """Everything that a run needs; made by `prepare_training`.

    Attributes:
        start: fresh weights, those of a .pth, or a checkpoint.
        data: the dataset to train on.
        folder: of the run.
        threads: on the CPU; None for the checkpoint's number, or, in a new run, for the faster of one and all.
        overwrite: whether another run in the folder may be replaced.
    """

    start: Start
    data: Dataset
    folder: Path
    threads: int | None = None
    overwrite: bool = False


def prepare_training(
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    recipe: str | None = None,
    resume: Path | None = None,
    run: Path | None = None,
    device: DeviceName = "auto",
    normalization: Normalization | None = None,
    changes: Mapping[str, Any] = NO_CHANGES,
    student: StudentName | None = None,
    processes: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    continue_run: bool = False,
    notify: Notify = lambda _line: None,
) -> TrainingRequest:
    """Read all that a run needs.

    Args:
        dataset: a name or a folder; None takes mnist, or the checkpoint's.
        data_dir: folder in which datasets are looked for first.
        recipe: a name, or a TOML file.
        resume: run folder or checkpoint to continue, or a .pth whose weights are the start.
        run: run folder; None takes `runs/<dataset>`, with `-student-<name>` for a student, or the resumed run's.
        device: must be available.
        normalization: of the pixels that a .pth was trained on.
        changes: settings by name: epochs, lr, momentum, weight_decay, batch_size, seed, widths; None for what is left
            to the recipe. A resumed run accepts those of its checkpoint, and another number of epochs.
        student: to train in place of the perceptron.
        processes: that are going to train together.
        threads: to train with on the CPU; None chooses.
        overwrite: replace another run in the folder.
        continue_run: resume the run in the folder, where there is one and it is not to be overwritten.
        notify: takes one plain line about what happens.

    Raises:
        UsageError: an option that does not fit the checkpoint, or the student; more threads than CPUs.
    """
    from mnist_edge.cpus import require_cpus
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.ranks import this_rank
    from mnist_edge.training.openmp import import_torch

    import_torch()
    from mnist_edge.training.checkpoint import LAST, checkpoint_path, load_checkpoint
    from mnist_edge.training.model import resolve_device
    from mnist_edge.training.run import resume_run, start_after_restart

    changes = {**NO_CHANGES, **changes}
    require_cpus(threads or 1)
    resolve_device(device)
    if continue_run and not overwrite and run is not None and (run / LAST).exists():
        resume = run
    path = None if resume is None else checkpoint_path(resume)
    kind = None if path is None else require_model_kind(path, "checkpoint", "state_dict")
    if student is not None and changes["widths"] is not None:
        raise UsageError(f"--student {student} has layers of its own", hint="leave --widths out, or --student")
    if student is not None and kind == "state_dict":
        raise UsageError(
            f"--student {student} starts from fresh weights, {path} holds those of a perceptron",
            hint="leave --resume out, or --student",
        )
    if normalization is not None and kind != "state_dict":
        raise UsageError("--normalize is for the weights of a .pth (--resume FILE.pth)", hint="leave --normalize out")
    if path is not None and kind == "checkpoint":
        checkpoint = load_checkpoint(path)
        _refuse_changes(checkpoint.settings, recipe, changes, student)
        data = load_dataset(dataset or checkpoint.settings.dataset, data_dir, notify)
        start = resume_run(path, changes["epochs"])
        folder = run or path.parent
    else:
        data = load_dataset(dataset or "mnist", data_dir, notify)
        folder = run or RUNS / (data.name if student is None else f"{data.name}-{variant_name(student)}")
        start = _fresh(path, normalization, recipe, data, changes, student, notify)
    if start.run.settings.student is not None and max(processes, this_rank().size) > 1:
        raise UsageError(
            "a student is trained by one process: batch normalisation takes the statistics of a whole batch",
            hint="leave --processes out, or start it without torchrun",
        )
    if this_rank().restarts:
        start = start_after_restart(folder, start)
    return TrainingRequest(start=start, data=data, folder=folder, threads=threads, overwrite=overwrite)


def train(
    *,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    widths: Sequence[int] | None = None,
    student: StudentName | None = None,
    seed: int | None = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    device: DeviceName = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    notify: Notify = lambda _line: None,
    on_step: Callable[[int, int], None] = lambda _done, _all: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _record: None,
) -> TrainReport:
    """Train a run in this process, from the start or from a checkpoint, and save checkpoints into its folder.

    Args:
        dataset: a name or a folder; None takes mnist, or the checkpoint's.
        data_dir: folder in which datasets are looked for first.
        recipe: a name, or a TOML file.
        epochs, lr, batch_size, seed: None leaves them to the recipe, and the seed at 0.
        widths: of the hidden layers; None takes 600, 400, 200 and 100.
        student: a small convolutional network to train in place of the perceptron.
        run: run folder; None takes `runs/<dataset>`, or the resumed run's.
        resume: run folder or checkpoint to continue, or a .pth whose weights are the start.
        device: to train on.
        threads: on the CPU; None chooses.
        overwrite: replace another run in the folder.
        notify: takes one plain line about what happens.
        on_step: called with finished steps and all steps.
        on_epoch: called after each epoch.

    Raises:
        UsageError: settings that do not fit the checkpoint, or the student.
        UnavailableError: the dataset or the device is not available, or the folder is in use.
        CheckFailedError: the loss became NaN or infinite.
        StoppedError: SIGINT, SIGTERM or SIGHUP arrived; the last finished step is saved.
    """
    request = prepare_training(
        dataset=None if dataset is None else str(dataset),
        data_dir=None if data_dir is None else Path(data_dir),
        recipe=recipe,
        resume=None if resume is None else Path(resume),
        run=None if run is None else Path(run),
        device=device,
        changes={
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
            "seed": seed,
            "widths": None if widths is None else tuple(widths),
        },
        student=student,
        threads=threads,
        overwrite=overwrite,
        notify=notify,
    )
    return run_training(request, device=device, notify=notify, on_step=on_step, on_epoch=on_epoch)


def run_training(
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
        StoppedError: SIGINT, SIGTERM or SIGHUP arrived; the last finished step is saved.
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
            threads=request.threads,
            overwrite=request.overwrite,
            notify=notify,
            on_step=on_step,
            on_epoch=on_epoch,
            stop=lambda: stop.signal_number is not None,
        )
    if report is None:
        assert stop.signal_number is not None or this_rank().size > 1  # only a signal ends a run early
        again = ["mnist-edge", "train", "--resume", str(request.folder)]
        raise StoppedError(
            f"stopped; {request.folder} holds the last finished step",
            signal_number=stop.signal_number or signal.SIGTERM,  # another process may have received it
            hint=shlex.join([*again, "--dataset", request.data.source] if request.data.name == "folder" else again),
        )
    return report


def _refuse_changes(
    kept: Settings, recipe: str | None, changes: Mapping[str, Any], student: StudentName | None
) -> None:
    """Raise UsageError for an option whose value is not the checkpoint's; the number of epochs may change.

    Equal values are accepted, so that the command that started a run works again with `--resume` added.
    """
    from mnist_edge.training.recipes import find_recipe

    found_student = "none" if kept.student is None else kept.student.name
    if student is not None and student != found_student:
        raise _changed("--student", student, found_student)
    named = {key: value for key, value in changes.items() if value is not None}
    for key in ("seed", "widths"):
        if key in named and named[key] != getattr(kept, key):
            raise _changed(f"--{key}", named[key], getattr(kept, key))
    wanted = {key: value for key, value in named.items() if key not in {"seed", "widths", "epochs"}}
    for key, value in wanted.items():
        if value != getattr(kept.recipe, key):
            raise _changed("--" + key.replace("_", "-"), value, getattr(kept.recipe, key))
    if recipe is not None:
        options = {"small_set_factor", "epochs", "lr", "momentum", "weight_decay", "batch_size"}  # may have been named
        given = find_recipe(recipe)
        for field in dataclasses.fields(given):
            found, expected = getattr(given, field.name), getattr(kept.recipe, field.name)
            if field.name == "name" and found != expected:
                raise _changed("--recipe", found, expected)
            if field.name not in options and found != expected:
                raise _changed(f"--recipe {recipe} with {field.name}", found, expected)


def _changed(option: str, found: Any, kept: Any) -> UsageError:
    def text(value: Any) -> str:
        return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)

    return UsageError(
        f"{option} {text(found)}: the checkpoint has {text(kept)}, and a resumed run keeps it",
        hint=f"leave {option.split(maxsplit=1)[0].rstrip(':')} out, or start a new run with another --run",
    )


def _fresh(
    weights: Path | None,
    normalization: Normalization | None,
    recipe: str | None,
    data: Dataset,
    changes: Mapping[str, Any],
    student: StudentName | None,
    notify: Notify,
) -> Start:
    """Return the start of a run from initial weights or from those of a .pth."""
    from mnist_edge.training.loop import new_run
    from mnist_edge.training.recipes import settings_for
    from mnist_edge.training.run import Start, start_from_weights
    from mnist_edge.training.state_dict import read_state_dict
    from mnist_edge.training.student_shape import STUDENTS

    if weights is not None and changes["widths"] is not None:
        raise UsageError("--widths cannot change: the .pth file has its own", hint="leave --widths out")
    given = {**changes, "seed": changes["seed"] or 0, "widths": changes["widths"] or WIDTHS}
    settings = settings_for(
        recipe or ("fast" if student is None else "student"),
        student=None if student is None else STUDENTS[student],
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
    return start_from_weights(loaded, weights, settings)
