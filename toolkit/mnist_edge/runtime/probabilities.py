"""Predicted classes and their probabilities for many images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits, softmax
from mnist_edge.runtime.classifier import Classifier

BATCH = 1000
"""Images of a run of the model."""


def finite_logits(classifier: Classifier, images: Images, classes: int) -> Logits:
    """Return the logits of images uint8 (n, 28, 28), at least one: float32 (n, classes), finite.

    Raises:
        BadFileError: the model has another number of classes.
        CheckFailedError: the model's outputs are NaN or infinite.
    """
    logits = classifier.class_logits(images, classes, classifier.bounded_batch(BATCH))
    if not np.isfinite(logits).all():
        raise CheckFailedError(
            f"{classifier.name} returns NaN or infinite outputs", hint="mnist-edge verify shows where"
        )
    return logits


def predictions(
    classifier: Classifier, images: Images, classes: int, temperature: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the predicted class of each image, uint8 (n,), and its probability, float32 (n,).

    Args:
        classifier: the model.
        images: uint8 (n, 28, 28).
        classes: that the model must have.
        temperature: that logits are divided by; None counts as 1.

    Raises:
        As `finite_logits`.
    """
    labels = np.empty(len(images), np.uint8)
    probabilities = np.empty(len(images), np.float32)
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        logits = finite_logits(classifier, images[rows], classes)
        labels[rows] = logits.argmax(axis=1)
        probabilities[rows] = softmax(logits, temperature).max(axis=1)
    return labels, probabilities
