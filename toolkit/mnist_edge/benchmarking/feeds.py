"""Inputs of a timing: golden images, or random values for a model of unknown origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import normalize
from mnist_edge.records.model import ModelInput
from mnist_edge.runtime.classifier import Classifier

RANDOM_SEED = 7
RANDOM_INPUTS = 8


def random_feeds(model_input: ModelInput, batch: int) -> list[NDArray[Any]]:
    """Return random inputs: all byte values, normalised where the normalisation is known, else floats from 0 to 1.

    Returns:
        Eight arrays (batch, *image_shape) of the input's dtype.
    """
    random = np.random.default_rng(RANDOM_SEED)
    shape = (batch, *model_input.image_shape)
    known, dtype = model_input.normalization, model_input.dtype
    if dtype in {"uint8", "int8"}:
        return [random.integers(0, 256, shape, dtype=np.uint8).view(dtype) for _ in range(RANDOM_INPUTS)]
    if known is None:
        return [random.random(shape, dtype=np.float32).astype(dtype) for _ in range(RANDOM_INPUTS)]
    pixels = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(RANDOM_INPUTS)]
    return [normalize(images, known).astype(dtype) for images in pixels]


def require_finite_outputs(classifier: Classifier) -> None:
    """Run a model of unknown origin once on random images.

    Raises:
        BadFileError: onnxruntime cannot run it.
        CheckFailedError: the outputs are NaN or infinite.
    """
    feed = random_feeds(classifier.input, classifier.fixed_batch or 1)[0]
    if not classifier.output.scores_classes:  # labels, or a sequence of maps
        classifier.run_for([classifier.output.name], feed)
    elif not np.isfinite(classifier.run(feed)).all():
        raise CheckFailedError(
            f"{classifier.name} outputs NaN or infinite values", hint="mnist-edge verify --against shows where"
        )
