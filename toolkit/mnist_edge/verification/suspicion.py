"""Detect a model that is evaluated with other pixels, or on another dataset, than it was trained for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from mnist_edge.contract import CLASSES, NORMALIZATIONS, Normalization
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.data import EvaluationSet
from mnist_edge.records.suspicion import PixelReading, Suspicion

Predict = Callable[[Images, Normalization | None], Logits]
"""Uint8 images (n, 28, 28), and the normalisation to apply (None: the model takes uint8), to logits (n, classes)."""

IMAGES = 1000
SCREENED = 200
FINALISTS = 3
"""All readings are tried on SCREENED images, the best FINALISTS on all IMAGES: 6,000 predictions instead of 16,000."""

NEAR_CHANCE = 0.25
"""Guessing gives 10 % with ten classes; models read with other pixels in the field had 9 to 19 %."""

LEAST_GAIN = 0.05
STANDARD_ERRORS = 4
"""A reading is clearly better by 5 points and by 4 standard errors. The latter leaves room for the choice of the best
of 15 readings on the same images: one-sided 3e-5 for a single comparison, 5e-4 for all of them (Bonferroni)."""

PLAUSIBLE = 0.5
"""A model is right on most images of what it was trained on; a wrong reading that is merely less wrong is no hint."""


def find_suspicion(
    predict: Predict,
    normalization: Normalization | None,
    data: EvaluationSet,
    others: Sequence[EvaluationSet] = (),
    *,
    images: int = IMAGES,
) -> Suspicion | None:
    """Try other readings of the pixels, and other datasets, on a part of the test set.

    Args:
        predict: runs the model.
        normalization: the one in use; None where the model takes uint8 images, whose normalisation is in its graph.
        data: the test set that it is evaluated on.
        others: further datasets whose labels the model may have been trained for.
        images: how many test images are used; fewer for a slow model.

    Returns:
        None where nothing is suspicious.
    """
    rows = _rows(len(data.test_labels), images)
    pixels, labels = data.test_images[rows], data.test_labels[rows]
    current = PixelReading(normalization=normalization)
    accuracy = _accuracy(predict, current, pixels, labels)
    found = Suspicion(images=len(rows), accuracy=accuracy, near_chance=accuracy < NEAR_CHANCE)
    if clearly_better(1.0, accuracy, len(rows)):
        better, reached = _best_reading(predict, current, pixels, labels)
        if clearly_better(reached, accuracy, len(rows)):
            return replace(found, better=better, better_accuracy=reached)
        for other in others:
            rows = _rows(len(other.test_labels), images)
            reached = _accuracy(predict, current, other.test_images[rows], other.test_labels[rows])
            if clearly_better(reached, max(accuracy, found.better_accuracy or 0.0), len(rows)):
                found = replace(found, better_dataset=other.name, better_accuracy=reached)
    return found if found.near_chance or found.better_dataset else None


def clearly_better(accuracy: float, reference: float, images: int) -> bool:
    """Whether an accuracy is plausible and exceeds another by more than chance explains (two proportions)."""
    error = math.sqrt((accuracy * (1 - accuracy) + reference * (1 - reference)) / images)
    return accuracy >= PLAUSIBLE and accuracy - reference > max(LEAST_GAIN, STANDARD_ERRORS * error)


def suspicion_line(found: Suspicion) -> str:
    """Describe a suspicion in one line that names the option to change."""
    if found.better is not None and found.better_accuracy is not None:
        return (
            f"{found.better.description} gives {found.better_accuracy:.1%} instead of {found.accuracy:.1%} on "
            f"{found.images:,} test images: the model was probably trained on pixels in that form"
        )
    if found.better_dataset is not None and found.better_accuracy is not None:
        return (
            f"--dataset {found.better_dataset} gives {found.better_accuracy:.1%} instead of {found.accuracy:.1%}: "
            "the model was probably trained on that dataset"
        )
    return (
        f"accuracy {found.accuracy:.1%} on {found.images:,} test images is near chance ({1 / CLASSES:.0%}): check the "
        "dataset, the order of the classes and, for a state_dict, the activation; no other normalisation, "
        "inversion or transposition of the images does clearly better"
    )


def apply_reading(images: Images, reading: PixelReading) -> Images:
    """Return uint8 images (n, 28, 28) inverted and transposed as the reading states."""
    if reading.inverted:
        images = 255 - images
    return images.transpose(0, 2, 1) if reading.transposed else images


def _best_reading(
    predict: Predict, current: PixelReading, images: Images, labels: Images
) -> tuple[PixelReading, float]:
    """Return the most accurate other reading; of those within one point of it, the one that changes least."""
    normalizations = [current.normalization]
    if current.normalization is not None:
        # Without large biases `raw` predicts as `unit` does, and `mnist` nearly as `seed`: the more common one first.
        common: tuple[Normalization, ...] = ("unit", "mnist", "seed", "raw")
        assert set(common) == set(NORMALIZATIONS)
        normalizations += [name for name in common if name != current.normalization]
    readings = [
        PixelReading(normalization=name, inverted=inverted, transposed=transposed)
        for inverted, transposed, name in product((False, True), (False, True), normalizations)
    ][1:]
    screened = _rows(len(labels), SCREENED)
    scores = [_accuracy(predict, reading, images[screened], labels[screened]) for reading in readings]
    finalists = sorted(range(len(readings)), key=lambda index: (-scores[index], index))[:FINALISTS]
    finals = {index: _accuracy(predict, readings[index], images, labels) for index in finalists}
    best = max(finals.values())
    chosen = min(index for index, accuracy in finals.items() if accuracy >= best - 0.01)
    return readings[chosen], finals[chosen]


def _rows(count: int, wanted: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Evenly spaced rows: the images of a folder may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.intp))


def _accuracy(predict: Predict, reading: PixelReading, images: Images, labels: Images) -> float:
    """Share of predictions that agree with the labels; 0 where the model cannot run the images in this form."""
    try:
        logits = predict(np.ascontiguousarray(apply_reading(images, reading)), reading.normalization)
    except (BadFileError, CheckFailedError):
        return 0.0
    finite = np.isfinite(logits).all(axis=1)
    return float(((logits.argmax(axis=1) == labels) & finite).mean())
