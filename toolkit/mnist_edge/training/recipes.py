"""Recipes: every setting of a training run, as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from mnist_edge.contract import WIDTHS, DatasetName, RecipeName

Schedule = Literal["constant", "one-cycle"]
SMALL_SET = 10_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train with SGD.

    Attributes:
        epochs: passes over the training set.
        small_set_factor: `epochs` is multiplied by it for a set of under 10,000 images.
        lr: learning rate; the peak of the cycle under `one-cycle`.
        momentum: 0 for plain SGD, otherwise Nesterov's.
        schedule: `one-cycle` rises linearly from 0 for `warmup` of all steps, then falls along a cosine.
        label_smoothing: share of each target spread evenly over the classes.
        shift: every picture is moved by up to so many pixels in each direction, anew each epoch.
        holdout: share of the training set kept out of training, to choose by.
    """

    name: str
    epochs: int
    small_set_factor: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    warmup: float
    label_smoothing: float
    shift: int
    holdout: float


RECIPES: dict[RecipeName, Recipe] = {
    # The seed's, to the letter: it trains on every image, so there is nothing to choose by.
    "seed": Recipe(
        name="seed",
        epochs=100,
        small_set_factor=1,
        batch_size=64,
        lr=0.01,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup=0.0,
        label_smoothing=0.0,
        shift=0,
        holdout=0.0,
    ),
    # Chosen on 10,000 images held out of the training set.
    "fast": Recipe(
        name="fast",
        epochs=10,
        small_set_factor=10,
        batch_size=128,
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="one-cycle",
        warmup=0.2,
        label_smoothing=0.05,
        shift=1,
        holdout=0.05,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides what a run computes; kept in each of its checkpoints."""

    dataset: DatasetName
    widths: tuple[int, ...] = WIDTHS
    seed: int = 0
    recipe: Recipe


def settings_for(
    recipe: RecipeName,
    *,
    dataset: DatasetName,
    train_images: int,
    widths: tuple[int, ...] = WIDTHS,
    seed: int = 0,
    epochs: int | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
) -> Settings:
    """Take a recipe, suit its epochs to the size of the set, and replace what the user named."""
    base = RECIPES[recipe]
    factor = base.small_set_factor if train_images < SMALL_SET else 1
    chosen = {
        "epochs": epochs if epochs is not None else base.epochs * factor,
        "lr": base.lr if lr is None else lr,
        "momentum": base.momentum if momentum is None else momentum,
        "weight_decay": base.weight_decay if weight_decay is None else weight_decay,
        "batch_size": base.batch_size if batch_size is None else batch_size,
    }
    changed = dataclasses.replace(base, **chosen)  # type: ignore[arg-type]
    return Settings(dataset=dataset, widths=widths, seed=seed, recipe=changed)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of step `step` of `steps` (0 to `steps` - 1)."""
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step + 1) / (steps + 1)  # never 0: the first and the last step learn something
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup))) / 2
