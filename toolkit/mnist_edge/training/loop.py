"""The training loop: one step per batch, one checkpoint per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnist_edge.contract import Normalization
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import ImageFile, Images, take_rows
from mnist_edge.ranks import ALONE, Rank
from mnist_edge.records.data import Dataset
from mnist_edge.records.training import EpochRecord
from mnist_edge.training.checkpoint import Checkpoint, Progress, environment_of
from mnist_edge.training.cuda_graph import GraphStep
from mnist_edge.training.feed import Feed
from mnist_edge.training.group import SharedStep
from mnist_edge.training.network import build_network, deployed_accuracy, normalization_of, step_for
from mnist_edge.training.recipes import Recipe, Settings, learning_rate
from mnist_edge.training.step import Step, momentum_of
from mnist_edge.training.stream import Stream, chunks_of

KEEP_LOSS_EVERY = 30
"""Steps between two kept losses, as in the seed."""
SPLIT_SEED = 28
"""The held-out split is the same for every run, whatever its seed, so that runs can be compared."""


@dataclass(kw_only=True)
class Run:
    """A run in memory: the model, its momentum, its sampler and its progress."""

    settings: Settings
    model: nn.Sequential
    sampler: torch.Generator
    momentum: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    curve: list[Tensor] = field(default_factory=list)


def new_run(settings: Settings, model: nn.Sequential | None = None) -> Run:
    """Start a run from its seed, or from the weights of `model`."""
    sampler = torch.Generator().manual_seed(settings.seed)
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = build_network(settings)
    return Run(settings=settings, model=model, sampler=sampler)


def continued_run(checkpoint: Checkpoint) -> Run:
    """Return the run that a checkpoint holds."""
    sampler = torch.Generator()
    sampler.set_state(checkpoint.sampler)
    return Run(
        settings=checkpoint.settings,
        model=checkpoint.model(),
        sampler=sampler,
        momentum=dict(checkpoint.momentum),
        progress=checkpoint.progress,
        loss_sum=checkpoint.loss_sum,
        curve=list(checkpoint.curve.unbind()),
    )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Callbacks of the training loop.

    Attributes:
        save: called with a checkpoint after every epoch and before an early end.
        on_step: called with the finished steps and all steps of the run.
        on_epoch: called with the record of an epoch that has just ended.
        stop: called after every step; True ends the run after a checkpoint.
    """

    save: Callable[[Checkpoint], object]
    on_step: Callable[[int, int], object] = lambda _done, _all: None
    on_epoch: Callable[[EpochRecord], object] = lambda _record: None
    stop: Callable[[], bool] = lambda: False


def split(dataset: Dataset, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the training and the held-out positions: indices of images, or of chunks where images stay in a file."""
    images = dataset.train_images
    count = len(chunks_of(len(images))) if isinstance(images, ImageFile) else len(images)
    held = min(round(count * recipe.holdout), count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[held:].sort().values, order[:held]


def steps_per_epoch(dataset: Dataset, recipe: Recipe) -> int:
    """Return how many batches an epoch has; the last may be short."""
    images, chosen = dataset.train_images, split(dataset, recipe)[0]
    count = len(images.take(chunks_of(len(images))[chosen.numpy()])) if isinstance(images, ImageFile) else len(chosen)
    return math.ceil(count / recipe.batch_size)


def held_out(dataset: Dataset, recipe: Recipe) -> tuple[Images | ImageFile, Images]:
    """Return the images and labels that are held out of training, for choosing settings."""
    return _part(dataset, split(dataset, recipe)[1])


def trained_on(dataset: Dataset, recipe: Recipe) -> tuple[Images | ImageFile, Images]:
    """Return the images and labels that are not held out."""
    return _part(dataset, split(dataset, recipe)[0])


def _part(dataset: Dataset, positions: Tensor) -> tuple[Images | ImageFile, Images]:
    images, labels, chosen = dataset.train_images, dataset.train_labels, positions.numpy()
    if isinstance(images, ImageFile):
        chunks = chunks_of(len(images))[chosen]
        return images.take(chunks), take_rows(labels, chunks)
    return images[chosen], labels[chosen]


def feed_for(
    dataset: Dataset, recipe: Recipe, device: torch.device, rank: Rank, normalization: Normalization = "seed"
) -> Feed | Stream:
    """Return the source of batches of all images that are not held out."""
    images, labels, chosen = dataset.train_images, dataset.train_labels, split(dataset, recipe)[0]
    if isinstance(images, ImageFile):
        return Stream(images, labels, chunks_of(len(images))[chosen.numpy()], recipe, device, rank, normalization)
    return Feed(images, labels, chosen, recipe, device, rank, normalization)


def train(run: Run, dataset: Dataset, device: torch.device, hooks: Hooks, rank: Rank = ALONE) -> bool:
    """Train until the recipe's epochs are done or `hooks.stop` returns True.

    Returns:
        True when all epochs are done, False after an early end; in both cases `run` holds the last finished step.

    Raises:
        CheckFailedError: the loss became NaN or infinite; the last saved checkpoint is from before.
    """
    recipe, progress = run.settings.recipe, run.progress
    run.model.to(device)
    run.momentum = momentum_of(run.model, recipe, run.momentum)
    step = _step(run, rank, device)
    feed = feed_for(dataset, recipe, device, rank, normalization_of(run.model))
    held_images, held_labels = held_out(dataset, recipe)
    steps = steps_per_epoch(dataset, recipe)
    run.loss_sum = run.loss_sum.to(device)
    run.curve = [loss.to(device) for loss in run.curve]

    while progress.epoch < recipe.epochs:
        started = time.perf_counter() - progress.seconds
        at_start = run.sampler.get_state()
        batches = feed.epoch(run.sampler, progress.step, distort=recipe.distorts(progress.epoch))
        for pixels, targets in batches:
            done = progress.epoch * steps + progress.step
            rate = learning_rate(recipe, done, recipe.epochs * steps)
            loss = step(pixels, targets, rate)
            run.loss_sum += loss
            if done % KEEP_LOSS_EVERY == 0:
                run.curve.append(loss)
                if (
                    device.type == "cpu"
                ):  # on a GPU the check would wait for the step; there the end of the epoch is near
                    _check_finite(loss, progress)
            progress.step += 1
            hooks.on_step(done + 1, recipe.epochs * steps)
            if progress.step < steps and hooks.stop():
                progress.seconds = time.perf_counter() - started
                _check_run(run)
                hooks.save(checkpoint_of(run, at_start, device))
                return False
        _check_run(run)
        record = EpochRecord(
            epoch=progress.epoch + 1,
            loss=float(run.loss_sum) / steps,
            holdout_accuracy=deployed_accuracy(run.model, held_images, held_labels) if len(held_labels) else None,
            learning_rate=learning_rate(recipe, (progress.epoch + 1) * steps - 1, recipe.epochs * steps),
            seconds=time.perf_counter() - started,
        )
        progress.history.append(record)
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        run.loss_sum.zero_()
        hooks.save(checkpoint_of(run, run.sampler.get_state(), device))
        hooks.on_epoch(record)
        if progress.epoch < recipe.epochs and hooks.stop():
            return False
    return True


def _step(run: Run, rank: Rank, device: torch.device) -> Step:
    """Return the step for this device and number of processes; all give the same losses except for rounding."""
    recipe = run.settings.recipe
    if rank.size > 1:
        return SharedStep(run.model, recipe, run.momentum, rank)
    step = step_for(run.model, recipe, run.momentum)
    return GraphStep(step, recipe.batch_size) if device.type == "cuda" else step


def _check_finite(values: Tensor, progress: Progress, what: str = "the loss") -> None:
    if not bool(torch.isfinite(values).all()):
        raise CheckFailedError(
            f"{what} became NaN or infinite in epoch {progress.epoch + 1}: training has diverged",
            hint="train with a smaller --lr; the last good checkpoint is kept",
        )


def _check_run(run: Run) -> None:
    """Check all state before it is saved: the last loss can be finite although the step after it was not."""
    _check_finite(run.loss_sum, run.progress)
    for key, value in run.model.state_dict().items():
        _check_finite(value, run.progress, key)
    for key, value in run.momentum.items():
        _check_finite(value, run.progress, f"the momentum of {key}")


def checkpoint_of(run: Run, sampler: Tensor, device: torch.device) -> Checkpoint:
    """Return the state to save; `sampler` is the generator's state at the start of the current epoch."""
    return Checkpoint(
        settings=run.settings,
        progress=run.progress,
        weights=run.model.state_dict(),
        momentum=run.momentum,
        sampler=sampler,
        loss_sum=run.loss_sum,
        curve=torch.stack(run.curve) if run.curve else torch.zeros(0),
        environment=environment_of(device),
    )
