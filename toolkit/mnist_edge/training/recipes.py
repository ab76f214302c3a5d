"""Recipes: every setting of a training run, as data."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnist_edge.contract import MAX_SEED, WIDTHS, DatasetName
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.files import require_regular_file
from mnist_edge.training.student_shape import StudentShape
from mnist_edge.validation import validated

Schedule = Literal["constant", "one-cycle"]
SMALL_SET = 10_000
MAX_BYTES = 65_536
"""Of a recipe file."""


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
        shift: whole pixels; each image is moved by up to this many in each direction, drawn again each epoch, as are:
        rotation: degrees, at most.
        scaling: share by which each direction is stretched or compressed, at most.
        shear: share of the height, at most.
        elastic: pixels, standard deviation of a smooth displacement field.
        undistorted: share of the epochs, at the end, on images that are neither shifted nor deformed.
        holdout: share of the training set kept out of training, for choosing settings.
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
    rotation: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    undistorted: float = 0.0

    @property
    def deforms(self) -> bool:
        """Whether images are deformed, not only shifted by whole pixels."""
        return max(self.rotation, self.scaling, self.shear, self.elastic) > 0

    def distorts(self, epoch: int) -> bool:
        """Whether images are shifted and deformed in this epoch, counted from 0."""
        return epoch < round(self.epochs * (1 - self.undistorted))


TABLE = Path(__file__).with_name("recipes.toml")
_HINT = "mnist-edge train --help; the project's own recipes show every setting"


def recipe_names() -> tuple[str, ...]:
    """Return the names of the project's own recipes."""
    return tuple(_read(TABLE))


def find_recipe(named: str) -> Recipe:
    """Return one of the project's recipes by name, or read a user's own `.toml` file.

    A user's file may start from a recipe of the project (`base = "fast"`) and name only what it changes.

    Raises:
        UsageError: no such recipe.
        BadFileError: no TOML, an unknown setting, a value of the wrong type or out of range.
        UnavailableError: the file does not exist or may not be read.
    """
    table = _read(TABLE)
    if not named.endswith(".toml"):
        if named not in table:
            raise UsageError(f"no recipe {named}", hint=f"--recipe {'|'.join(table)}, or a .toml file of your own")
        return _checked({"name": named, **table[named]}, TABLE)
    path = Path(named)
    given = _read(path)
    base = given.pop("base", None)
    if base is not None and base not in list(table):  # it may be of any type
        raise BadFileError(f"{path}: base is {base!r}, expected {', '.join(table)}", hint=_HINT)
    start = {} if base is None else table[base]
    if (
        base is not None and "epochs" in given
    ):  # epochs that somebody wrote down are meant as they stand, on a small set too
        start = {**start, "small_set_factor": 1}
    return _checked({**start, **given, "name": path.stem}, path)


def _read(path: Path) -> dict[str, Any]:
    require_regular_file(path, "a recipe", limit=MAX_BYTES, hint=_HINT)
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib's own error and UnicodeDecodeError are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise BadFileError(f"{path} is not TOML: {reason}", hint=_HINT) from error


def _checked(values: dict[str, Any], path: Path) -> Recipe:
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(Recipe)})
    if unknown:
        raise BadFileError(f"{path}: {unknown[0]} is not a setting of a recipe", hint=_HINT)
    recipe = validated(Recipe, values, path, _HINT)
    error = _recipe_range_error(recipe)
    if error is not None:
        raise BadFileError(f"{path}: {error}", hint=_HINT)
    return recipe


RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "small_set_factor": (1, 1000),
    "batch_size": (1, 1_048_576),
    "lr": (0, 1_000_000),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup": (0, 0.99),
    "label_smoothing": (0, 0.99),
    "shift": (0, 8),
    "holdout": (0, 0.9),
    "rotation": (0, 180),
    "scaling": (0, 0.9),
    "shear": (0, 1),
    "elastic": (0, 8),
    "undistorted": (0, 1),
}
"""Least and greatest value of each setting, in recipes, options and checkpoints."""
MAX_LAYERS, MAX_WIDTH = 100, 65_536


@dataclass(frozen=True)
class RangeError:
    """A setting outside its range."""

    name: str
    value: Any
    expected: str

    def __str__(self) -> str:
        """As in "recipe.lr is -1.0, expected 0 to 1000000"."""
        return f"{self.name} is {self.value}, expected {self.expected}"


def _recipe_range_error(recipe: Recipe) -> RangeError | None:
    for name, (low, high) in RANGES.items():
        value = getattr(recipe, name)
        if not low <= value <= high:  # NaN is in no range
            return RangeError(name, value, f"{low} to {high}")
    return None


def range_error(settings: Settings) -> RangeError | None:
    """Return the first setting outside its range, or None."""
    if len(settings.widths) > MAX_LAYERS or not all(1 <= width <= MAX_WIDTH for width in settings.widths):
        found = ",".join(map(str, settings.widths[: MAX_LAYERS + 1]))
        return RangeError("widths", found, f"at most {MAX_LAYERS} widths of 1 to {MAX_WIDTH}")
    problem = None if settings.student is None else settings.student.problem()
    if problem is not None:
        return RangeError(f"student.{problem[0]}", *problem[1:])
    if not 0 <= settings.seed <= MAX_SEED:
        return RangeError("seed", settings.seed, f"0 to {MAX_SEED}")
    error = _recipe_range_error(settings.recipe)
    return None if error is None else dataclasses.replace(error, name=f"recipe.{error.name}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines the result of a run; kept in each of its checkpoints.

    Attributes:
        fingerprint: of the dataset where it is a user's folder; see `Dataset`.
        widths: of the perceptron; empty for a student.
        student: shape of the student that is trained in its place; None for the perceptron.
    """

    dataset: DatasetName
    fingerprint: str = ""
    widths: tuple[int, ...] = WIDTHS
    student: StudentShape | None = None
    seed: int = 0
    recipe: Recipe


def settings_for(
    recipe: str,
    *,
    dataset: DatasetName,
    train_images: int,
    fingerprint: str = "",
    widths: tuple[int, ...] = WIDTHS,
    student: StudentShape | None = None,
    seed: int = 0,
    epochs: int | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
) -> Settings:
    """Return the settings of a recipe, its epochs adapted to the size of the set, with the given values replaced.

    Raises:
        UsageError: no such recipe, or a given value is out of range.
        BadFileError, UnavailableError: as `find_recipe`.
    """
    base = find_recipe(recipe)
    factor = base.small_set_factor if train_images < SMALL_SET else 1
    chosen = {
        "epochs": epochs if epochs is not None else base.epochs * factor,
        "lr": base.lr if lr is None else lr,
        "momentum": base.momentum if momentum is None else momentum,
        "weight_decay": base.weight_decay if weight_decay is None else weight_decay,
        "batch_size": base.batch_size if batch_size is None else batch_size,
    }
    changed = dataclasses.replace(base, **chosen)  # type: ignore[arg-type]
    settings = Settings(
        dataset=dataset,
        fingerprint=fingerprint,
        widths=widths if student is None else (),
        student=student,
        seed=seed,
        recipe=changed,
    )
    error = range_error(settings)
    if error is not None:  # the recipe itself is in range: an option is not
        option = "--" + error.name.removeprefix("recipe.").replace("_", "-")
        raise UsageError(f"{option} {error.value}: expected {error.expected}", hint="mnist-edge train --help")
    return settings


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of step `step`, 0 to `steps` - 1."""
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step + 1) / (steps + 1)  # strictly between 0 and 1: the rate of no step is 0
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup))) / 2
