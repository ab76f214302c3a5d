"""How a network was trained, as a record that needs no PyTorch to be read."""

from __future__ import annotations

import dataclasses

import numpy as np

from mnist_edge.contract import CLASSES, PIXELS, WIDTHS
from mnist_edge.records.training import EpochRecord, TrainingFacts
from mnist_edge.training.checkpoint import Checkpoint
from mnist_edge.training.loop import KEEP_LOSS_EVERY
from mnist_edge.training.recipes import Settings, find_recipe, recipe_names

OPTIONS = ("epochs", "lr", "momentum", "weight_decay", "batch_size")
"""Settings of a recipe that `train` takes as options."""
MOST_POINTS = 400
"""Of a curve: more than a plot can show."""


def training_facts(checkpoint: Checkpoint) -> TrainingFacts:
    """Return what a checkpoint states about its training."""
    settings, progress = checkpoint.settings, checkpoint.progress
    return TrainingFacts(
        network=_network(settings),
        seed=settings.seed,
        recipe=dataclasses.asdict(settings.recipe),
        environment=checkpoint.environment,
        history=_thinned(progress.history),
        loss=_averaged(checkpoint.curve.numpy()),
        command=_command(settings),
    )


def _network(settings: Settings) -> str:
    if settings.student is None:
        return "-".join(map(str, (PIXELS, *settings.widths, CLASSES)))
    convolutions = ", ".join(
        f"{channels} channels {kernel}x{kernel} stride {stride}" for channels, kernel, stride in settings.student.convs
    )
    bits = ", ".join(map(str, settings.student.bits))
    return f"student {settings.student.name}: {convolutions}, then {CLASSES} classes; weights of {bits} bits"


def _command(settings: Settings) -> tuple[str, ...]:
    """Return the words that train with these settings; none where options cannot express them."""
    recipe = settings.recipe
    if settings.dataset == "folder" or recipe.name not in recipe_names():
        return ()
    named = {name: getattr(recipe, name) for name in OPTIONS}
    base = find_recipe(recipe.name)
    if dataclasses.replace(base, **named) != recipe:
        return ()
    words = [
        "mnist-edge",
        "train",
        "--dataset",
        settings.dataset,
        "--recipe",
        recipe.name,
        "--seed",
        str(settings.seed),
    ]
    for name, value in named.items():
        if value != getattr(base, name):
            words += [f"--{name.replace('_', '-')}", repr(value)]
    if settings.student is not None:
        words += ["--student", settings.student.name]
    elif settings.widths != WIDTHS:
        words += ["--widths", ",".join(map(str, settings.widths))]
    return tuple(words)


def _thinned(history: list[EpochRecord]) -> tuple[EpochRecord, ...]:
    stride = -(-len(history) // MOST_POINTS) or 1
    return tuple(record for number, record in enumerate(history, 1) if number % stride == 0 or number == len(history))


def _averaged(curve: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Return step and loss, averaged over neighbours so that at most MOST_POINTS remain."""
    width = -(-len(curve) // MOST_POINTS) or 1
    starts = range(0, len(curve), width)
    return tuple((start * KEEP_LOSS_EVERY, float(curve[start : start + width].mean())) for start in starts)
