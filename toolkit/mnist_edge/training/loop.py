"""The training loop: images resident as uint8, a block at a time made float, a batch at a time learnt from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnist_edge.contract import CLASSES, SIDE
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images
from mnist_edge.records import Dataset, EpochRecord
from mnist_edge.training.augment import Deformer
from mnist_edge.training.checkpoint import Checkpoint, Progress, surroundings
from mnist_edge.training.model import accuracy, build_model, normalize_pixels
from mnist_edge.training.recipes import Recipe, Settings, learning_rate
from mnist_edge.training.step import layers_of, sgd_step

KEEP_LOSS_EVERY = 30
"""As the seed does."""
BLOCK_ROWS = 1024
"""Images made float at a time: large enough to hide the cost of the call, small enough for the cache."""
SPLIT_SEED = 28
"""The held-out split is the same for every run, whatever its seed, so that runs can be compared."""


@dataclass(kw_only=True)
class Run:
    """A run in memory: the model, its momentum, its sampler and how far it has come."""

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
            model = build_model(settings.widths)
    return Run(settings=settings, model=model, sampler=sampler)


def continued_run(checkpoint: Checkpoint) -> Run:
    """Go on from a checkpoint."""
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
    """What the loop tells while it works, and asks.

    Attributes:
        save: takes a checkpoint after every epoch and before an early end.
        on_step: finished steps and all steps of the run.
        on_epoch: the record of an epoch that just ended.
        stop: asked after every step; True ends the run in order.
    """

    save: Callable[[Checkpoint], object]
    on_step: Callable[[int, int], object] = lambda _done, _all: None
    on_epoch: Callable[[EpochRecord], object] = lambda _record: None
    stop: Callable[[], bool] = lambda: False


def split(dataset: Dataset, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the positions of the images to train on and of those held out to choose by."""
    count = len(dataset.train_images)
    held = round(count * recipe.holdout)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[held:].sort().values, order[:held]


def train(run: Run, dataset: Dataset, device: torch.device, hooks: Hooks) -> bool:
    """Train until the recipe's epochs are done or `hooks.stop` says so.

    Returns:
        True when all epochs are done, False after an early end; both times `run` holds the last finished step.

    Raises:
        CheckFailedError: the loss became NaN or infinite; the last saved checkpoint is from before.
    """
    recipe, progress = run.settings.recipe, run.progress
    run.model.to(device)
    layers = layers_of(run.model, recipe)
    names = [key.removesuffix(".weight") for key in run.model.state_dict() if key.endswith(".weight")]
    for name, layer in zip(names, layers, strict=True):
        for kind, buffer in zip(("weight", "bias"), layer.momentum, strict=bool(layer.momentum)):
            key = f"{name}.{kind}"
            if key in run.momentum:
                buffer.copy_(run.momentum[key])
            run.momentum[key] = buffer
    chosen, held = split(dataset, recipe)
    held_images, held_labels = dataset.train_images[held.numpy()], dataset.train_labels[held.numpy()]
    feed = Feed(dataset.train_images, dataset.train_labels, chosen, recipe, device)
    steps = math.ceil(len(chosen) / recipe.batch_size)
    run.loss_sum = run.loss_sum.to(device)

    while progress.epoch < recipe.epochs:
        started = time.perf_counter() - progress.seconds
        at_start = run.sampler.get_state()
        batches = feed.epoch(run.sampler, from_step=progress.step)
        for pixels, targets in batches:
            done = progress.epoch * steps + progress.step
            rate = learning_rate(recipe, done, recipe.epochs * steps)
            loss = sgd_step(layers, pixels, targets, recipe, rate)
            run.loss_sum += loss
            if done % KEEP_LOSS_EVERY == 0:
                _check_finite(loss, progress)
                run.curve.append(loss)
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
            holdout_accuracy=accuracy(run.model, held_images, held_labels) if len(held) else None,
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


class Feed:
    """Batches of the training set, ordered, shifted and deformed anew each epoch.

    The images stay uint8 (N, 28 + 2 s, 28 + 2 s) on the device; `windows` is a view of them with
    every shift, (N, 2 s + 1, 2 s + 1, 28, 28), so that a shifted batch is one gather.
    """

    def __init__(self, images: Images, labels: Images, chosen: Tensor, recipe: Recipe, device: torch.device) -> None:
        self.deformer = Deformer(recipe, device) if recipe.deforms else None
        self.choices = 1 if recipe.deforms else 2 * recipe.shift + 1
        padded = torch.nn.functional.pad(torch.tensor(images), (self.choices // 2,) * 4)
        self.windows = padded.to(device).unfold(1, SIDE, 1).unfold(2, SIDE, 1)
        self.labels = torch.tensor(labels, device=device).long()
        self.chosen = chosen
        self.recipe = recipe
        self.device = device
        smoothing = recipe.label_smoothing
        self.targets = torch.eye(CLASSES, device=device) * (1 - smoothing) + smoothing / CLASSES

    def epoch(self, sampler: torch.Generator, from_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels float32 (n, 784), targets float32 (n, 10)); all randomness is drawn here, at the start."""
        count, batch = len(self.chosen), self.recipe.batch_size
        order = self.chosen[torch.randperm(count, generator=sampler)].to(self.device)
        shifts = torch.randint(self.choices, (2, count), generator=sampler).to(self.device)
        draws = () if self.deformer is None else self.deformer.draw(count, sampler)
        block = max(1, BLOCK_ROWS // batch) * batch
        for start in range(from_step * batch, count, block):
            rows = slice(start, start + block)
            index = order[rows]
            pictures = self.windows[index, shifts[0, rows], shifts[1, rows]]
            if self.deformer is not None:
                pictures = self.deformer.deform(pictures, *(drawn[rows].to(self.device) for drawn in draws))
            pixels = normalize_pixels(pictures.flatten(1))
            targets = self.targets[self.labels[index]]
            for row in range(0, len(index), batch):
                yield pixels[row : row + batch], targets[row : row + batch]


def _check_finite(figures: Tensor, progress: Progress, what: str = "the loss") -> None:
    if not bool(torch.isfinite(figures).all()):
        raise CheckFailedError(
            f"{what} became NaN or infinite in epoch {progress.epoch + 1}: training has diverged",
            hint="train with a smaller --lr; the last good checkpoint is kept",
        )


def _check_run(run: Run) -> None:
    """Nothing is saved that cannot be gone on from: a loss can still be finite when its step was not."""
    _check_finite(run.loss_sum, run.progress)
    for key, value in run.model.state_dict().items():
        _check_finite(value, run.progress, key)


def checkpoint_of(run: Run, sampler: Tensor, device: torch.device) -> Checkpoint:
    """Return the state to save; `sampler` is the generator's state when the epoch under way began."""
    return Checkpoint(
        settings=run.settings,
        progress=run.progress,
        weights=run.model.state_dict(),
        momentum=run.momentum,
        sampler=sampler,
        loss_sum=run.loss_sum,
        curve=torch.stack(run.curve) if run.curve else torch.zeros(0),
        surroundings=surroundings(device),
    )
