"""A study: Optuna's storage, shared by any number of workers, any of which may be killed at any moment.

Why Optuna: the same code searches in one process and on many machines, each of which runs the same command.
Its heartbeats work within `optimize` only, where their thread ends, with a traceback, at the first query that fails. Here
trials are asked for and told, and a heartbeat is recorded between two steps of training.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_edge.errors import UsageError
from mnist_edge.sweeping.storage import HEARTBEAT_SECONDS, Storage, open_storage

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


class Study:
    """One worker's view of a study; made by `open_study`."""

    def __init__(self, storage: Storage, space: Space) -> None:
        self.storage = storage
        self._space = space
        self._beaten = 0.0
        with storage.exclusive():
            self._study = optuna.create_study(
                study_name=storage.study_name, storage=storage.optuna, direction="maximize", load_if_exists=True
            )
            self._id = storage.optuna.get_study_id_from_name(storage.study_name)
            if storage.alone:
                for trial in self._running():
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def require_settings(self, settings: dict[str, str]) -> None:
        """Record the settings in a new study; in an existing one, compare them with the recorded ones.

        Raises:
            UsageError: names the settings that differ.
            BadFileError: there are trials and no settings.
        """
        with self.storage.exclusive():
            kept = self._study.user_attrs.get("settings")
            if kept is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr("settings", settings)
                return
        if not isinstance(kept, dict) or self._study.direction != optuna.study.StudyDirection.MAXIMIZE:
            raise self.storage.damaged("it has trials and no settings of a sweep")
        differing = [
            f"{name} {kept.get(name)}, not {settings.get(name)}"
            for name in {**settings, **kept}
            if kept.get(name) != settings.get(name)
        ]
        if differing:
            raise UsageError(
                f"{self.storage.described} holds a sweep {self.storage.study_name} with {'; '.join(differing)}",
                hint="give the options that it was started with to continue it, or another --study",
            )

    def claim(self, trials: int) -> tuple[Trial, Choice] | None:
        """Start a trial and return its setting; None where `trials` trials are finished or running.

        Stale trials, whose worker has ended, do not count.
        """
        with self.storage.exclusive():
            self._fail_stale_trials()
            counted = [trial for trial in self._study.get_trials(deepcopy=False) if _counts(trial)]
            if len(counted) >= trials:
                return None
            # The place of a stale trial is taken again. The proposal depends on the place and on the finished
            # trials, not on the process, so that a sweep that was stopped continues as if it had not been.
            taken = {trial.user_attrs["place"] for trial in counted}
            place = next(place for place in range(len(counted) + 1) if place not in taken)
            seed = int(np.random.SeedSequence((SAMPLER_SEED, place)).generate_state(1)[0])
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Heartbeat of storage")  # `beat` records them
                trial = self._study.ask()
            self.beat(trial, force=True)
            low, high = self._space.lr
            lr = trial.suggest_float("lr", low, high, log=True)
            batch_size = trial.suggest_categorical("batch_size", self._space.batch_sizes)
            texts = [width_text(widths) for widths in self._space.widths]
            widths = self._space.widths[texts.index(trial.suggest_categorical("widths", texts))]
            # Three digits are easy to type, and more exact than a learning rate needs to be.
            choice = Choice(lr=min(high, max(low, float(f"{lr:.3g}"))), batch_size=batch_size, widths=widths)
            trial.set_user_attr("lr", choice.lr)
            trial.set_user_attr("place", place)  # last: without it, the worker ended in between
            return trial, choice

    def beat(self, trial: Trial, *, force: bool = False) -> None:
        """Record a heartbeat of a running trial, at most one in HEARTBEAT_SECONDS; call it between steps."""
        now = time.monotonic()
        if force or now - self._beaten > HEARTBEAT_SECONDS:
            with self.storage.explaining():
                number = self.storage.optuna.get_trial_id_from_study_id_trial_number(self._id, trial.number)
                self.storage.optuna.record_heartbeat(number)
            self._beaten = now

    def finish(self, trial: Trial, accuracies: list[float], seconds: float) -> FrozenTrial | None:
        """Record the held-out accuracies of a trial, one per seed, 0 to 1; None where it had become stale."""
        with self.storage.exclusive():
            if not self._is_running(trial):
                return None
            trial.set_user_attr("accuracies", accuracies)
            trial.set_user_attr("seconds", seconds)
            return self._study.tell(trial, sum(accuracies) / len(accuracies))

    def fail(self, trial: Trial, reason: str, seconds: float) -> FrozenTrial | None:
        """Record that a trial failed, and why; it counts as finished. None where it had become stale."""
        with self.storage.exclusive():
            if not self._is_running(trial):
                return None
            trial.set_user_attr("seconds", seconds)
            trial.set_user_attr("failure", reason)  # last: from here on the trial counts
            return self._study.tell(trial, state=TrialState.FAIL)

    def drop(self, trial: Trial) -> None:
        """Abandon a trial that was not trained to its end; it does not count."""
        with self.storage.exclusive():
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that completed or failed, in the order of their start; no running or stale ones."""
        with self.storage.explaining():
            found = [trial for trial in self._study.get_trials() if _counts(trial) and trial.state.is_finished()]
            return sorted(found, key=lambda trial: int(trial.user_attrs["place"]))

    def running(self) -> int:
        """Return how many trials are running, in any worker."""
        with self.storage.exclusive():
            self._fail_stale_trials()
            return len(self._running())

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _is_running(self, trial: Trial) -> bool:
        return any(other.number == trial.number for other in self._running())

    def _fail_stale_trials(self) -> None:
        """Mark running trials of workers that have ended as failed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._running():
            if "place" not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def open_study(folder: Path, space: Space, settings: dict[str, str], storage: str | None = None) -> Iterator[Study]:
    """Open or create a study, as one of its workers, for the duration of the block.

    Args:
        folder: of the study.
        space: the search space.
        settings: everything that a trial's result depends on, by the name of its option.
        storage: as `open_storage` takes it.

    Raises:
        UsageError: the study was created with other settings; names them.
        BadFileError, UnavailableError: as `open_storage` raises them.
    """
    with open_storage(folder, storage) as opened:
        study = Study(opened, space)
        study.require_settings(settings)
        yield study


def width_text(widths: tuple[int, ...]) -> str:
    """Return widths as the option of `train` takes them: `300,100`."""
    return ",".join(map(str, widths))


def _counts(trial: FrozenTrial) -> bool:
    """Return whether a trial completed, failed in training, or is running; not so stale and abandoned ones."""
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failure" in trial.user_attrs
