"""Predict the images of an IDX set of any size, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PART = 10_000
"""Images that are in memory at a time, 8 MB."""


@dataclass(frozen=True, kw_only=True)
class SetPart:
    """Predictions of n images that follow each other.

    Attributes:
        start: number of the first one.
        total: images of the whole set.
        labels: uint8 (n,), the predicted classes.
        probabilities: float32 (n,), of these.
        stated: uint8 (n,), the right classes; None where the set has no labels.
    """

    start: int
    total: int
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    stated: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True)
class SetPredictions:
    """A set that is predicted as its parts are asked for.

    Attributes:
        names: of the classes.
        variant: name in the bundle.
    """

    names: tuple[str, ...]
    variant: str
    parts: Iterator[SetPart]


def predict_set(source: Path, model: Path, variant: str | None, notify: Callable[[str], None]) -> SetPredictions:
    """Predict every image of an IDX set, whose images stay in their file; labels may be missing.

    Args:
        source: an IDX file of images, or a folder with one.
        model: the bundle.
        variant: of the bundle, by name; None takes the one that `tune` chose, or else the first.
        notify: called with one plain line.

    Raises:
        UnavailableError: there is no such set, bundle or provider.
        BadFileError: the set or the bundle is damaged.
        UsageError: no such variant.
    """
    from mnist_edge.data.folder import open_image_set
    from mnist_edge.runtime.probabilities import predictions
    from mnist_edge.workflow.model import load

    found = open_image_set(source) if source.exists() else None
    if found is None:
        raise UnavailableError(
            f"--dataset {source}: there is no IDX file of images", hint="name the folder, or the file itself"
        )
    opened = load(model, variant)
    images, stated, names, chosen = found.images, found.labels, opened.labels, opened.variant
    notify(f"predicting {len(images):,} images of {found.path} with {chosen.name}")

    def parts() -> Iterator[SetPart]:
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            labels, probabilities = predictions(opened.classifier, part, len(names), chosen.temperature)
            yield SetPart(
                start=start,
                total=len(images),
                labels=labels,
                probabilities=probabilities,
                stated=None if stated is None else stated[start : start + PART],
            )

    return SetPredictions(names=names, variant=chosen.name, parts=parts())
