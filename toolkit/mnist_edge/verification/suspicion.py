"""Detect a model that is evaluated with other pixels, or on another dataset, than it was trained for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES, NORMALIZATIONS, Normalization
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.data import EvaluationSet
from mnist_edge.records.suspicion import PixelReading, Suspicion
from mnist_edge.stats import mcnemar_exact

Predict = Callable[[Images, Normalization | None], Logits]
"""Uint8 images (n, 28, 28), and the normalisation to apply (None: the model takes uint8), to logits (n, classes)."""

Correct = NDArray[np.bool_]
"""Bool (n,): whether the prediction for each image is its label."""

IMAGES = 1000
SCREENED = 200
FINALISTS = 3
"""All readings are tried on SCREENED images, the best FINALISTS on all IMAGES: 6,000 predictions instead of 16,000."""

NEAR_CHANCE = 0.25
"""Guessing gives 10 % with ten classes; models read with other pixels in the field had 9 to 19 %."""

LEAST_GAIN = 0.05
SIGNIFICANCE = 1e-4
"""A reading is clearly better by 5 points, at this level of McNemar's test on the same images: at most 1.5e-3 for all
15 readings together (Bonferroni). Comparing two independent proportions instead missed 84 % against 92 % on the 360
images of the digits."""
STANDARD_ERRORS = 4
"""For another dataset, with other images: one-sided 3e-5."""

PLAUSIBLE = 0.5
"""A model is right on most images of its own dataset: a reading with less accuracy is wrong too, and not suggested."""


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
    correct = _correct(predict, current, pixels, labels)
    accuracy = float(correct.mean())
    found = Suspicion(images=len(rows), accuracy=accuracy, near_chance=accuracy < NEAR_CHANCE)
    if accuracy < 1 - LEAST_GAIN:
        better, other_correct = _best_reading(predict, current, pixels, labels)
        if clearly_better_pairs(other_correct, correct):
            return replace(found, better=better, better_accuracy=float(other_correct.mean()))
        for other in others:
            rows = _rows(len(other.test_labels), images)
            reached = float(_correct(predict, current, other.test_images[rows], other.test_labels[rows]).mean())
            if clearly_better(reached, max(accuracy, found.better_accuracy or 0.0), len(rows)):
                found = replace(found, better_dataset=other.name, better_accuracy=reached)
    return found if found.near_chance or found.better_dataset else None


def clearly_better(accuracy: float, reference: float, images: int) -> bool:
    """Whether one accuracy exceeds another, measured on `images` other images, by more than chance explains."""
    error = math.sqrt((accuracy * (1 - accuracy) + reference * (1 - reference)) / images)
    return accuracy >= PLAUSIBLE and accuracy - reference > max(LEAST_GAIN, STANDARD_ERRORS * error)


def clearly_better_pairs(correct: Correct, reference: Correct) -> bool:
    """Whether more predictions are correct than in a reference on the same images, by more than chance explains."""
    wins, losses = int((correct & ~reference).sum()), int((reference & ~correct).sum())
    if correct.mean() < PLAUSIBLE or wins - losses <= LEAST_GAIN * len(correct):
        return False
    return mcnemar_exact(wins, losses) < SIGNIFICANCE


def suspicion_line(found: Suspicion) -> str:
    """Describe a suspicion in one line that names the option to change."""
    if found.better is not None and found.better_accuracy is not None:
        return (
            f"with {found.better.description} accuracy is {found.better_accuracy:.1%} instead of {found.accuracy:.1%} "
            f"on {found.images:,} test images; evaluate the model on pixels as it was trained on"
        )
    if found.better_dataset is not None and found.better_accuracy is not None:
        return (
            f"with --dataset {found.better_dataset} accuracy is {found.better_accuracy:.1%} instead of "
            f"{found.accuracy:.1%}: the model was probably trained on it"
        )
    return (
        f"accuracy {found.accuracy:.1%} on {found.images:,} test images is near chance ({1 / CLASSES:.0%}): check the "
        "dataset, the order of the classes and, for a state_dict, the activation; no other normalisation, "
        "inversion or transposition of the images gives a clearly better accuracy"
    )


def apply_reading(images: Images, reading: PixelReading) -> Images:
    """Return uint8 images (n, 28, 28) inverted and transposed as the reading states."""
    if reading.inverted:
        images = 255 - images
    return images.transpose(0, 2, 1) if reading.transposed else images


def _best_reading(
    predict: Predict, current: PixelReading, images: Images, labels: Images
) -> tuple[PixelReading, Correct]:
    """Return the best other reading, and which images are predicted correctly with it.

    Of all readings within one point of the highest accuracy, it is the one that changes least.
    """
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
    scores = [_correct(predict, reading, images[screened], labels[screened]).mean() for reading in readings]
    finalists = sorted(range(len(readings)), key=lambda index: (-scores[index], index))[:FINALISTS]
    finals = {index: _correct(predict, readings[index], images, labels) for index in finalists}
    best = max(correct.mean() for correct in finals.values())
    chosen = min(index for index, correct in finals.items() if correct.mean() >= best - 0.01)
    return readings[chosen], finals[chosen]


def _rows(count: int, wanted: int) -> NDArray[np.intp]:
    """Return evenly spaced rows: the images of a folder may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.intp))


def _correct(predict: Predict, reading: PixelReading, images: Images, labels: Images) -> Correct:
    """Return whether each prediction is the label; all False where the model cannot run the images in this form."""
    try:
        logits = predict(np.ascontiguousarray(apply_reading(images, reading)), reading.normalization)
    except (BadFileError, CheckFailedError):
        return np.zeros(len(labels), dtype=bool)
    return np.asarray((logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1))
