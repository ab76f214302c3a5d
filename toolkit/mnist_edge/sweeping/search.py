"""Run a sweep: settings are proposed, and each is trained with every seed and evaluated on the held-out split only.

Optuna's tree-structured Parzen estimator (Bergstra et al., 2011) proposes them; `study.py` explains why Optuna, and how
several workers share a study.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.records.data import Dataset
from mnist_edge.records.sweep import SweepReport, SweepTrial
from mnist_edge.sweeping.study import Choice, Space, Study, open_study, width_text
from mnist_edge.training.loop import Hooks, held_out, new_run, train
from mnist_edge.training.model import resolve_device
from mnist_edge.training.recipes import Recipe, settings_for

POLL_SECONDS = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to search, and for how many trials.

    Attributes:
        folder: the study folder; finished trials are kept there.
        recipe: name or `.toml` file, for every setting that is not searched.
        epochs: of each training; None for the recipe's.
        space: the search space.
        seeds: each setting is trained with every one.
        trials: settings to try in total, over all workers and earlier runs.
        data_dir: passed on in the command line that trains the best setting.
        storage: URL of a database that workers on several machines share; None for a file in the folder.
    """

    folder: Path
    recipe: str
    epochs: int | None
    space: Space
    seeds: tuple[int, ...]
    trials: int
    data_dir: Path | None = None
    storage: str | None = None


def sweep(
    plan: Plan,
    dataset: Dataset,
    *,
    on_trial: Callable[[SweepTrial, int], object],
    on_progress: Callable[[int, int], object],
    stop: Callable[[], bool],
    on_wait: Callable[[int], object] = lambda _running: None,
) -> SweepReport:
    """Try settings until as many trials as planned are finished, or `stop` returns True; other workers may help.

    Trials of other workers are waited for: those of a worker that is killed are tried again here.

    Args:
        plan: what to search.
        dataset: its test set is never used.
        on_trial: called with each trial that this process finished, unranked, and the number finished by all.
        on_progress: called with the work done and the total.
        stop: called after every step; True abandons the current trial, which is tried again next time.
        on_wait: called with the number of trials that other workers are running, when only these are left.

    Raises:
        UsageError: the recipe has no held-out split, or the study was created with other settings.
        BadFileError: the storage is damaged.
        UnavailableError: the folder cannot be written to, or the database is not available.
    """
    base = settings_for(
        plan.recipe, dataset=dataset.name, train_images=len(dataset.train_images), epochs=plan.epochs
    ).recipe
    held = len(held_out(dataset, base)[1])
    if not held:
        raise UsageError(
            f"recipe {base.name} has no held-out images to compare settings on",
            hint="--recipe fast, or a .toml file with a holdout above 0",
        )
    with open_study(plan.folder, plan.space, _recorded_settings(plan, dataset, base), plan.storage) as study:
        waiting = 0
        while not stop():
            claimed = study.claim(plan.trials)
            if claimed is not None:
                done = _run_trial(plan, dataset, study, *claimed, on_progress, stop)
                if done is not None:
                    on_trial(_record(done, study), len(study.finished()))
                continue
            before, waiting = waiting, study.running()
            if not waiting:
                break
            if waiting != before:
                on_wait(waiting)
            sleep(POLL_SECONDS)
        return _report(plan, dataset, base, held, study)


def _run_trial(
    plan: Plan,
    dataset: Dataset,
    study: Study,
    trial: Trial,
    choice: Choice,
    on_progress: Callable[[int, int], object],
    stop: Callable[[], bool],
) -> FrozenTrial | None:
    """Train a setting with each seed and record the result; None where `stop` ended it, or another worker took it."""
    accuracies: list[float] = []
    before = len(study.finished())

    def on_step(step: int, steps: int) -> None:
        share = (len(accuracies) + step / steps) / len(plan.seeds)
        on_progress(round(1000 * (before + share)), 1000 * plan.trials)
        study.beat(trial)

    hooks = Hooks(save=lambda _checkpoint: None, on_step=on_step, stop=stop)
    started = perf_counter()
    try:
        for seed in plan.seeds:
            accuracy = _held_out_accuracy(plan, dataset, choice, seed, hooks)
            if accuracy is None:
                study.drop(trial)
                return None
            accuracies.append(accuracy)
    except CheckFailedError as error:
        return study.fail(trial, f"seed {plan.seeds[len(accuracies)]}: {error.message}", perf_counter() - started)
    except BaseException:
        study.drop(trial)
        raise
    return study.finish(trial, accuracies, perf_counter() - started)


def _held_out_accuracy(plan: Plan, dataset: Dataset, choice: Choice, seed: int, hooks: Hooks) -> float | None:
    settings = settings_for(
        plan.recipe,
        dataset=dataset.name,
        train_images=len(dataset.train_images),
        fingerprint=dataset.fingerprint,
        epochs=plan.epochs,
        seed=seed,
        lr=choice.lr,
        batch_size=choice.batch_size,
        widths=choice.widths,
    )
    run = new_run(settings)
    if not train(run, dataset, resolve_device("auto"), hooks):
        return None
    return run.progress.history[-1].holdout_accuracy


def _recorded_settings(plan: Plan, dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Return everything that a trial's result depends on, by the name of its option."""
    space = plan.space
    searched = {
        "--dataset": f"{dataset.name} {dataset.fingerprint}".rstrip(),
        "--recipe": recipe.name,
        "--epochs": str(recipe.epochs),
        "--lr": ":".join(map(str, space.lr)),
        "--batch-size": width_text(space.batch_sizes),
        "--widths": " and ".join(map(width_text, space.widths)),
        "--seeds": width_text(plan.seeds),
    }
    listed_or_searched = {"name", "epochs", "lr", "batch_size", "small_set_factor"}
    return searched | {
        f"{key} of the recipe": str(value)
        for key, value in dataclasses.asdict(recipe).items()
        if key not in listed_or_searched
    }


def _record(trial: FrozenTrial, study: Study) -> SweepTrial:
    found = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    try:
        return SweepTrial(
            rank=0,
            lr=float(found["lr"]),
            batch_size=int(trial.params["batch_size"]),
            widths=tuple(int(width) for width in trial.params["widths"].split(",")),
            holdout_accuracy=float(trial.values[0]) if complete else None,
            accuracies=tuple(float(accuracy) for accuracy in found["accuracies"]) if complete else (),
            seconds=float(found["seconds"]),
            failure="" if complete else str(found["failure"]),
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise study.storage.damaged(f"trial {trial.number}: {type(error).__name__} {error}") from error


def _report(plan: Plan, dataset: Dataset, recipe: Recipe, held: int, study: Study) -> SweepReport:
    """Rank by mean accuracy, equal means by the worst seed; failed trials last."""
    found = [_record(trial, study) for trial in study.finished()]
    found.sort(key=lambda trial: (-(trial.holdout_accuracy or 0), -min(trial.accuracies, default=-1)))
    ranked = tuple(dataclasses.replace(trial, rank=rank) for rank, trial in enumerate(found, start=1))
    return SweepReport(
        study=plan.folder,
        storage=study.storage.described,
        dataset=dataset.name,
        recipe=recipe.name,
        epochs=recipe.epochs,
        holdout_images=held,
        seeds=plan.seeds,
        trials=ranked,
        command=_command(plan, dataset, ranked[0]) if ranked and not ranked[0].failure else "",
    )


def _command(plan: Plan, dataset: Dataset, best: SweepTrial) -> str:
    chosen = dataset.source if dataset.name == "folder" else dataset.name
    words = ["mnist-edge", "train", "--dataset", chosen, "--recipe", plan.recipe]
    words += [] if plan.data_dir is None else ["--data-dir", str(plan.data_dir)]
    words += [] if plan.epochs is None else ["--epochs", str(plan.epochs)]
    words += ["--lr", str(best.lr), "--batch-size", str(best.batch_size), "--widths", width_text(best.widths)]
    return shlex.join([*words, "--seed", str(plan.seeds[0])])
