"""A study folder: Optuna's journal, shared by any number of workers, of which each may die at any moment.

Why Optuna: it searches in one process by default, and unchanged on a cluster, where each worker runs the same
command and they share a study in a journal file on a shared folder. No server and no database is needed.
Optuna's journal has no heartbeat; here a worker holds a lock that dies with it, so that a trial it left is known.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.files import ensure_folder, explaining_os_errors

JOURNAL = "journal.log"
LOCK = "lock"
NAME = "sweep"
SAMPLER_SEED = 0
"""The same study has the same trials on every machine, as far as training itself repeats."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched.

    Attributes:
        lr: least and greatest learning rate, above 0; searched on a logarithmic scale.
        batch_sizes: images a step.
        widths: hidden widths of each network, input side first.
    """

    lr: tuple[float, float]
    batch_sizes: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the space."""

    lr: float
    batch_size: int
    widths: tuple[int, ...]


class Lock:
    """One process at a time reads to act, or writes; may be taken again by its holder, and dies with its process.

    Optuna's own lock is a file that outlives a killed process, and holds the others up for half a minute. This one
    is on a file open for writing, so that a network file system keeps it between machines, too.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._depth = 0

    def acquire(self) -> bool:
        """Wait for the lock."""
        if self._depth == 0:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back once; the last time frees it."""
        self._depth -= 1
        if self._depth == 0:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Free it for good."""
        os.close(self._handle)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Study:
    """One worker's view of a study; made by `open_study`."""

    def __init__(self, folder: Path, lock: Lock, worker: Path, space: Space) -> None:
        self._folder = folder
        self._lock = lock
        self._worker = worker
        self._space = space
        path = folder / JOURNAL
        with lock, _readable(path):
            _drop_cut_line(path)
            backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type] # it has what is called
            storage = JournalStorage(backend)
            if storage.get_all_studies():
                self._study = optuna.load_study(study_name=NAME, storage=storage)
            else:
                self._study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")

    def agree(self, settings: dict[str, str]) -> None:
        """Keep the settings of a new study; refuse others than those it has.

        Raises:
            UsageError: names what differs.
            BadFileError: there are trials and no settings.
        """
        with self._lock:
            kept = self._study.user_attrs.get("settings")
            if kept is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr("settings", settings)
                return
        if not isinstance(kept, dict):
            raise _damaged(self._folder / JOURNAL, "it has trials and no settings")
        differing = [
            f"{name} {kept.get(name)}, not {settings.get(name)}"
            for name in {**settings, **kept}
            if kept.get(name) != settings.get(name)
        ]
        if differing:
            raise UsageError(
                f"{self._folder} holds a sweep with {'; '.join(differing)}",
                hint="give the options it was begun with to go on, or another --study",
            )

    def claim(self, trials: int) -> tuple[Trial, Choice] | None:
        """Take up a trial, unless as many as `trials` are finished or in work; trials of dead workers do not count."""
        with self._lock:
            self._fail_stale_trials()
            counted = [trial for trial in self._study.get_trials(deepcopy=False) if _counts(trial)]
            if len(counted) >= trials:
                return None
            # A lost trial's place is taken again. The draw depends on the place and on what is finished,
            # not on the process: so a sweep that was stopped goes on as if it had not been.
            taken = {trial.user_attrs["claim"]["place"] for trial in counted}
            place = next(place for place in range(len(counted) + 1) if place not in taken)
            seed = int(np.random.SeedSequence((SAMPLER_SEED, place)).generate_state(1)[0])
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            trial = self._study.ask()
            trial.set_user_attr("claim", {"worker": self._worker.name, "place": place})
            low, high = self._space.lr
            lr = trial.suggest_float("lr", low, high, log=True)
            batch_size = trial.suggest_categorical("batch_size", self._space.batch_sizes)
            texts = [width_text(widths) for widths in self._space.widths]
            widths = self._space.widths[texts.index(trial.suggest_categorical("widths", texts))]
            # Three digits can be typed, and are more than a learning rate is worth.
            choice = Choice(lr=min(high, max(low, float(f"{lr:.3g}"))), batch_size=batch_size, widths=widths)
            trial.set_user_attr("lr", choice.lr)
            return trial, choice

    def finish(self, trial: Trial, accuracies: list[float], seconds: float) -> FrozenTrial:
        """Record a trial's held-out accuracy, one a seed, 0 to 1."""
        with self._lock:
            trial.set_user_attr("accuracies", accuracies)
            trial.set_user_attr("seconds", seconds)
            return self._study.tell(trial, sum(accuracies) / len(accuracies))

    def fail(self, trial: Trial, reason: str, seconds: float) -> FrozenTrial:
        """Record that a trial cannot be judged, and why."""
        with self._lock:
            trial.set_user_attr("seconds", seconds)
            trial.set_user_attr("failure", reason)  # last: from here on the trial counts
            return self._study.tell(trial, state=TrialState.FAIL)

    def drop(self, trial: Trial) -> None:
        """Give up a trial that was not trained to its end; it does not count."""
        with self._lock:
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def finished(self) -> list[FrozenTrial]:
        """Trials that were judged or failed, in the order they were taken up; none of those in work or lost."""
        found = [trial for trial in self._study.get_trials() if _counts(trial) and trial.state.is_finished()]
        return sorted(found, key=lambda trial: int(trial.user_attrs["claim"]["place"]))

    def running(self) -> int:
        """How many trials workers have in hand."""
        with self._lock:
            self._fail_stale_trials()
            return len(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _fail_stale_trials(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Taken up in one piece under the lock: a trial without a claim is of a worker that died over it.
            claim = trial.user_attrs.get("claim")
            if claim is None or not self._alive(self._worker.parent / claim["worker"]):
                self._study.tell(trial.number, state=TrialState.FAIL)
        for worker in self._worker.parent.iterdir():
            if not self._alive(worker):
                worker.unlink()

    def _alive(self, worker: Path) -> bool:
        """Whether the process behind a worker's file still holds its lock."""
        if worker == self._worker:
            return True
        try:
            handle = os.open(worker, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


@contextmanager
def open_study(folder: Path, space: Space, settings: dict[str, str]) -> Iterator[Study]:
    """Open or begin a study, as one of its workers, for the length of the block.

    Args:
        folder: of the study.
        space: what is searched.
        settings: everything that decides what a trial comes to, by the name a user knows it under.

    Raises:
        UsageError: the study has other settings; names them.
        BadFileError: its journal is damaged.
        UnavailableError: the folder cannot be written to.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    ensure_folder(folder)
    worker = ensure_folder(folder / "workers") / uuid.uuid4().hex
    with explaining_os_errors(folder), ExitStack() as held:
        lock = Lock(folder / LOCK)
        held.callback(lock.close)
        with lock:  # nobody takes the new file for that of a dead worker
            handle = os.open(worker, os.O_RDWR | os.O_CREAT, 0o666)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            study = Study(folder, lock, worker, space)
            study.agree(settings)
            yield study
        finally:
            with lock:
                worker.unlink(missing_ok=True)


def width_text(widths: tuple[int, ...]) -> str:
    """Widths as an option of `train` takes them: `300,100`."""
    return ",".join(map(str, widths))


def _drop_cut_line(path: Path) -> None:
    """Cut off what a writer that died had not finished: nobody was told that it is kept. All before it must be whole."""
    if not path.exists():
        return
    *lines, cut = path.read_bytes().split(b"\n")
    for line in lines:
        json.loads(line)
    if cut:
        os.truncate(path, path.stat().st_size - len(cut))


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is judged, failed for a reason of its own, or in work."""
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failure" in trial.user_attrs


def _damaged(path: Path, why: object) -> BadFileError:
    return BadFileError(f"{path} is not a whole journal: {why}", hint="begin anew with another --study")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except json.JSONDecodeError as error:
        raise _damaged(path, "a line is no JSON") from error
    except Exception as error:  # a damaged journal can make Optuna fail in any way
        raise _damaged(path, error) from error
