"""A study folder: Optuna's journal, shared by any number of workers, any of which may be killed at any moment.

Why Optuna: the same code searches in one process and on a cluster, where each worker runs the same command and all
share a journal file in a shared folder. No server and no database is needed.
Optuna's journal has no heartbeat. Here each worker holds a file lock, which the system releases when its process ends;
a running trial whose worker holds no lock is stale.
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

from mnist_edge.errors import BadFileError, MnistEdgeError, UsageError
from mnist_edge.files import ensure_folder, explaining_os_errors, require_regular_file

JOURNAL = "journal.log"
LOCK = "lock"
NAME = "sweep"
_HINT = "start another sweep with --study FOLDER, or remove this study folder"
SAMPLER_SEED = 0
"""Equal studies propose equal trials on every machine, as far as training is reproducible."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The search space.

    Attributes:
        lr: smallest and largest learning rate, above 0; searched on a logarithmic scale.
        batch_sizes: images per step.
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
    """A re-entrant lock between processes, released by the system when its process ends.

    Optuna's own lock is a file that remains after a kill and blocks the other workers for half a minute. This one is a
    flock on a file open for writing, which network file systems enforce between machines, too.
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
        """Release the lock once; it is free when it was released as often as acquired."""
        self._depth -= 1
        if self._depth == 0:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which also releases the lock."""
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
        with lock, self._reading():
            _drop_incomplete_line(path)
            backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type] # it has the methods that are called
            storage = JournalStorage(backend)
            if storage.get_all_studies():
                self._study = optuna.load_study(study_name=NAME, storage=storage)
            else:
                self._study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")

    def require_settings(self, settings: dict[str, str]) -> None:
        """Record the settings in a new study; in an existing one, compare them with the recorded ones.

        Raises:
            UsageError: names the settings that differ.
            BadFileError: there are trials and no settings.
        """
        with self._lock, self._reading():
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
                hint="give the options that it was started with to continue it, or another --study",
            )

    def claim(self, trials: int) -> tuple[Trial, Choice] | None:
        """Start a trial and return its setting; None where `trials` trials are finished or running.

        Stale trials, whose worker has ended, do not count.
        """
        with self._lock, self._reading():
            self._fail_stale_trials()
            counted = [trial for trial in self._study.get_trials(deepcopy=False) if _counts(trial)]
            if len(counted) >= trials:
                return None
            # The place of a stale trial is taken again. The proposal depends on the place and on the finished
            # trials, not on the process, so that a sweep that was stopped continues as if it had not been.
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
            # Three digits are easy to type, and more exact than a learning rate needs to be.
            choice = Choice(lr=min(high, max(low, float(f"{lr:.3g}"))), batch_size=batch_size, widths=widths)
            trial.set_user_attr("lr", choice.lr)
            return trial, choice

    def finish(self, trial: Trial, accuracies: list[float], seconds: float) -> FrozenTrial:
        """Record the held-out accuracies of a trial, one per seed, 0 to 1."""
        with self._lock:
            trial.set_user_attr("accuracies", accuracies)
            trial.set_user_attr("seconds", seconds)
            return self._study.tell(trial, sum(accuracies) / len(accuracies))

    def fail(self, trial: Trial, reason: str, seconds: float) -> FrozenTrial:
        """Record that a trial failed, and why; it counts as finished."""
        with self._lock:
            trial.set_user_attr("seconds", seconds)
            trial.set_user_attr("failure", reason)  # last: from here on the trial counts
            return self._study.tell(trial, state=TrialState.FAIL)

    def drop(self, trial: Trial) -> None:
        """Abandon a trial that was not trained to its end; it does not count."""
        with self._lock:
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that completed or failed, in the order of their start; no running or stale ones."""
        with self._reading():
            found = [trial for trial in self._study.get_trials() if _counts(trial) and trial.state.is_finished()]
            return sorted(found, key=lambda trial: int(trial.user_attrs["claim"]["place"]))

    def running(self) -> int:
        """Return how many trials are running, in any worker."""
        with self._lock, self._reading():
            self._fail_stale_trials()
            return len(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _fail_stale_trials(self) -> None:
        """Mark running trials of workers that have ended as failed, and remove the files of those workers."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Trial and claim are written under one lock: without a claim, the worker ended in between.
            claim = trial.user_attrs.get("claim")
            if claim is None or not self._alive(self._worker.parent / claim["worker"]):
                self._study.tell(trial.number, state=TrialState.FAIL)
        for worker in self._worker.parent.iterdir():
            if not self._alive(worker):
                worker.unlink()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Report anything that Optuna or this class finds unexpected as a damaged journal."""
        path = self._folder / JOURNAL
        try:
            yield
        except (OSError, MnistEdgeError):
            raise
        except json.JSONDecodeError as error:
            raise _damaged(path, "a line is not JSON") from error
        except Exception as error:  # a damaged journal can make Optuna fail in any way
            raise _damaged(path, f"{type(error).__name__}: {error}") from error

    def _alive(self, worker: Path) -> bool:
        """Return whether the process of a worker's file still holds its lock."""
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
    """Open or create a study, as one of its workers, for the duration of the block.

    Args:
        folder: of the study.
        space: the search space.
        settings: everything that a trial's result depends on, by the name of its option.

    Raises:
        UsageError: the study was created with other settings; names them.
        BadFileError: its journal is damaged.
        UnavailableError: the folder cannot be written to.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    ensure_folder(folder)
    worker = ensure_folder(folder / "workers") / uuid.uuid4().hex
    with explaining_os_errors(folder), ExitStack() as held:
        lock = Lock(folder / LOCK)
        held.callback(lock.close)
        with lock:  # no other worker may see the new file before it is locked, and remove it as stale
            handle = os.open(worker, os.O_RDWR | os.O_CREAT, 0o666)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            study = Study(folder, lock, worker, space)
            study.require_settings(settings)
            yield study
        finally:
            with lock:
                worker.unlink(missing_ok=True)


def width_text(widths: tuple[int, ...]) -> str:
    """Return widths as the option of `train` takes them: `300,100`."""
    return ",".join(map(str, widths))


def _drop_incomplete_line(path: Path) -> None:
    """Truncate a last line without a newline, which a killed worker left; every line before it must be JSON."""
    if not path.exists():
        return
    require_regular_file(path, "a sweep journal", hint=_HINT)
    *lines, cut = path.read_bytes().split(b"\n")
    for line in lines:
        json.loads(line)
    if cut:
        os.truncate(path, path.stat().st_size - len(cut))


def _counts(trial: FrozenTrial) -> bool:
    """Return whether a trial completed, failed in training, or is running; not so stale and abandoned ones."""
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failure" in trial.user_attrs


def _damaged(path: Path, why: object) -> BadFileError:
    return BadFileError(f"{path} is damaged: {why}", hint=_HINT)
