"""Calibration: training images, the same number of every class, and the range of each activation on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES
from mnist_edge.errors import BadFileError
from mnist_edge.exporting.variants.dense import Dense, hidden_activations
from mnist_edge.pixels import ImageFile, Images
from mnist_edge.records.data import Dataset
from mnist_edge.stats import rounded_up

if TYPE_CHECKING:
    from mnist_edge.training.recipes import Recipe

SEED = 0
PER_CLASS = 200
LEAST_PER_CLASS = 5
BATCH = 250
"""Images in memory at a time, with their activations: a few megabytes, whatever their number."""


@dataclass(frozen=True)
class CalibrationSet:
    """Images that activations are measured on; they stay in their file, if that is where they are.

    Attributes:
        images: uint8 (N, 28, 28), the training images that training did not hold out.
        rows: int64 (K,), those of them that were drawn, sorted.
        labels: uint8 (K,), of those that were drawn.
    """

    images: Images | ImageFile
    rows: NDArray[np.int64]
    labels: Images

    def batches(self) -> Iterator[Images]:
        """Yield the images that were drawn, uint8 (at most BATCH, 28, 28)."""
        for start in range(0, len(self.rows), BATCH):
            rows = self.rows[start : start + BATCH]
            yield np.concatenate([self.images[row : row + 1] for row in rows])


def calibration_set(dataset: Dataset, recipe: Recipe) -> CalibrationSet:
    """Draw up to PER_CLASS images of every class from the training images that a recipe does not hold out.

    Raises:
        BadFileError: a class has fewer than LEAST_PER_CLASS; the ranges of its activations would be unknown.
    """
    from mnist_edge.training.loop import trained_on

    images, labels = trained_on(dataset, recipe)
    counts = np.bincount(labels, minlength=CLASSES)[:CLASSES]
    scarce = int(counts.argmin())
    if counts[scarce] < LEAST_PER_CLASS:
        raise BadFileError(
            f"{dataset.source}: {counts[scarce]} training images of class {scarce}, and calibration needs "
            f"{LEAST_PER_CLASS} of every class",
            hint="add images of that class, or leave the variant out",
        )
    generator = np.random.default_rng(SEED)
    drawn = [
        generator.choice(np.flatnonzero(labels == label), min(PER_CLASS, counts[label]), replace=False)
        for label in range(CLASSES)
    ]
    rows = np.sort(np.concatenate(drawn))
    return CalibrationSet(images=images, rows=rows, labels=labels[rows])


def activation_ranges(layers: Sequence[Dense], calibration: CalibrationSet, divisor: float) -> tuple[float, ...]:
    """Return the largest output of every ReLU on the calibration set, at least 1e-6; the smallest is 0.

    Rounded up to three digits, so that another machine's rounding of the products does not change the file.
    """
    largest = np.full(len(layers) - 1, 1e-6)
    for images in calibration.batches():
        found = [values.max() for values in hidden_activations(layers, images, divisor)]
        largest = np.maximum(largest, found) if found else largest
    return tuple(rounded_up(float(value)) for value in largest)
