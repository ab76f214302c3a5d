"""Check the content of a checkpoint: a valid sha256 shows only that the content is what somebody wrote.

torch's fused SGD does not compare the shapes of momentum buffers with the parameters, so a wrong one corrupts the heap;
a generator accepts any state of the right length. Every name, shape, dtype, value and counter is checked before use.
Each function raises ValueError and names the field, what was found and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mnist_edge.contract import CLASSES, PIXELS
from mnist_edge.training.recipes import Recipe, Settings, range_error
from mnist_edge.training.student import Student
from mnist_edge.training.student_shape import StudentShape

if TYPE_CHECKING:
    from mnist_edge.training.checkpoint import Progress

MAX_STEPS = 2**31
"""More steps than an epoch of the largest dataset can have."""
MAX_SECONDS = 1e9
MAX_THREADS = 4096
MODEL, MOMENTUM = "model.", "momentum."
"""Prefixes of tensor names: both are followed by the keys of the model's state_dict."""
Declared = tuple[str, tuple[int, ...]]
"""dtype as safetensors spells it, and shape."""


def check_settings(settings: Settings, raw: Mapping[str, Any]) -> None:
    """Check the ranges of all settings, and that `raw`, the JSON they were read from, has no other setting."""
    parts = [(Settings, raw, "settings"), (Recipe, raw["recipe"], "settings.recipe")]
    if settings.student is not None:
        parts.append((StudentShape, raw["student"], "settings.student"))
    for record, found, where in parts:
        unknown = sorted(set(found) - {field.name for field in fields(record)})
        if unknown:
            raise ValueError(f"{where}.{unknown[0]} is not a setting of this version")
    error = range_error(settings)
    if error is not None:
        raise ValueError(f"settings.{error}")


def check_progress(progress: Progress, settings: Settings) -> None:
    """Check counters, times, losses and accuracies."""
    epochs = settings.recipe.epochs
    _check_range("progress.epoch", progress.epoch, 0, epochs)
    _check_range("progress.step", progress.step, 0, 0 if progress.epoch == epochs else MAX_STEPS)
    _check_range("progress.seconds", progress.seconds, 0, MAX_SECONDS)
    if len(progress.history) != progress.epoch:
        raise ValueError(
            f"progress.history has {len(progress.history)} records, but progress.epoch is {progress.epoch}"
        )
    for index, record in enumerate(progress.history):
        where = f"progress.history.{index}"
        _check_range(f"{where}.epoch", record.epoch, index + 1, index + 1)
        _check_range(f"{where}.loss", record.loss, 0, torch.finfo(torch.float32).max)
        _check_range(f"{where}.seconds", record.seconds, 0, MAX_SECONDS)
        if record.holdout_accuracy is not None:
            _check_range(f"{where}.holdout_accuracy", record.holdout_accuracy, 0, 1)
        if record.learning_rate is not None:
            _check_range(f"{where}.learning_rate", record.learning_rate, 0, settings.recipe.lr)


def check_environment(environment: Any) -> None:
    """Check the part of the environment that a resumed run uses: the number of threads."""
    for name, kind in (("threads", int), ("device", str)):
        found = environment.get(name) if isinstance(environment, dict) else None
        if type(found) is not kind:
            raise ValueError(f"environment.{name} is {found!r}, expected {kind.__name__}")
    _check_range("environment.threads", environment["threads"], 1, MAX_THREADS)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name} is {value}, expected {low:g}" + (f" to {high:g}" if high != low else ""))


def check_declared(declared: Mapping[str, Declared], settings: Settings, progress: Progress) -> None:
    """Check the names, dtypes and shapes that a file declares, before any tensor is read.

    Args:
        declared: dtype and shape in the header of the file, by tensor name.
        settings: of the same file, checked.
        progress: of the same file, checked: before the first step there is no momentum yet.
    """
    expected = _expected(settings)
    begun = progress.epoch > 0 or progress.step > 0
    has_momentum = any(key.startswith(MOMENTUM) for key in declared)
    if not settings.recipe.momentum or not (begun or has_momentum):
        expected = {key: value for key, value in expected.items() if not key.startswith(MOMENTUM)}
    for key in [*expected, *(key for key in declared if key not in expected)]:
        name = key.removeprefix(MODEL)
        if key not in declared:
            raise ValueError(f"{name} is missing")
        if key not in expected:
            raise ValueError(f"{name} is not a tensor of this checkpoint")
        (found_type, found), (wanted_type, wanted) = declared[key], expected[key]
        if key == "curve" and len(found) == 1:  # as long as the run
            wanted = found
        if found != wanted:
            raise ValueError(f"{name} is {found}, the network has {wanted}")
        if found_type != wanted_type:
            raise ValueError(f"{name} is {found_type}, expected {wanted_type}")


def _expected(settings: Settings) -> dict[str, Declared]:
    """Return every tensor of a checkpoint with momentum; the shape of `curve` stands for any length."""
    state, trained = _student_state(settings.student) if settings.student else _perceptron_state(settings.widths)
    return {
        **{f"{MODEL}{key}": value for key, value in state.items()},
        **{f"{MOMENTUM}{key}": state[key] for key in trained},
        "rng.sampler": ("U8", tuple(torch.Generator().get_state().shape)),
        "epoch.loss_sum": ("F32", ()),
        "curve": ("F32", (0,)),
    }


def _perceptron_state(widths: tuple[int, ...]) -> tuple[dict[str, Declared], list[str]]:
    """Return the tensors of a perceptron, and the keys of those that are trained."""
    state: dict[str, Declared] = {}
    for index, (fan_in, fan_out) in enumerate(pairwise((PIXELS, *widths, CLASSES))):
        state[f"{2 * index}.weight"] = ("F32", (fan_out, fan_in))
        state[f"{2 * index}.bias"] = ("F32", (fan_out,))
    return state, list(state)


def _student_state(shape: StudentShape) -> tuple[dict[str, Declared], list[str]]:
    """Return the tensors of a student, and the keys of those that are trained."""
    with torch.device("meta"):  # takes no memory
        student = Student(shape)
    state = {key: ("F32", tuple(value.shape)) for key, value in student.state_dict().items()}
    return state, [key for key, _ in student.named_parameters()]


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Check that all float tensors are finite and that the generator accepts its state."""
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key.removeprefix(MODEL)} holds NaN or infinite values")
        if key.endswith(".variance") and bool((value < 0).any()):
            raise ValueError(f"{key.removeprefix(MODEL)} holds negative values")
    try:
        torch.Generator().set_state(tensors["rng.sampler"])
    except RuntimeError as error:
        raise ValueError("rng.sampler is no state of a random generator") from error


def check_position(progress: Progress, curve: Iterable[Tensor], steps: int, keep_loss_every: int) -> None:
    """Check that a run's position is possible in its dataset, once that is loaded.

    Args:
        progress: of the run.
        curve: its kept losses.
        steps: of an epoch.
        keep_loss_every: steps between two kept losses.
    """
    _check_range("progress.step", progress.step, 0, steps - 1)
    kept, done = len(list(curve)), progress.epoch * steps + progress.step
    if kept != math.ceil(done / keep_loss_every):
        raise ValueError(
            f"curve has {kept} losses, expected {math.ceil(done / keep_loss_every)} after {done} steps of {steps} an epoch"
        )
