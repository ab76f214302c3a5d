"""Inputs of a timing: golden images, or random values for a model of unknown origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.pixels import normalize
from mnist_edge.records.model import ModelInput
from mnist_edge.runtime.classifier import Classifier

RANDOM_SEED = 7
RANDOM_INPUTS = 8


def random_feeds(model_input: ModelInput, batch: int) -> list[NDArray[Any]]:
    """Return random inputs: bytes for uint8, normalised bytes where the normalisation is known, else floats 0 to 1."""
    random = np.random.default_rng(RANDOM_SEED)
    shape = (batch, *(side or 0 for side in model_input.shape[1:]))
    known = model_input.normalization
    if model_input.dtype == "float32" and known is None:
        return [random.random(shape, dtype=np.float32) for _ in range(RANDOM_INPUTS)]
    pixels = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(RANDOM_INPUTS)]
    if model_input.dtype == "uint8" or known is None:
        return list(pixels)
    return [normalize(images, known) for images in pixels]


def require_digit_classifier(classifier: Classifier) -> None:
    """Run a model of unknown origin once before it is timed.

    Raises:
        BadFileError: its input is no image, or its output is not of ten classes.
        CheckFailedError: its logits are NaN or infinite.
    """
    classifier.require_pictures()
    logits = classifier.run(random_feeds(classifier.input, classifier.fixed_batch or 1)[0])
    if logits.shape[1] != CLASSES:
        raise BadFileError(
            f"{classifier.name} answers {logits.shape[1]} classes, expected {CLASSES}", hint="give a digit classifier"
        )
    if not np.isfinite(logits).all():
        raise CheckFailedError(
            f"{classifier.name} answers NaN or infinite logits", hint="mnist-edge verify --against shows where"
        )
