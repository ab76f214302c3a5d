"""Decide whether the prediction for a prepared photo can be relied on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_edge.contract import SIDE
from mnist_edge.pixels import Images, Logits, softmax

LEAST_PROBABILITY = 0.8
"""A prediction of a smaller probability is not accepted."""
LEAST_AGREEMENT = 0.7
"""... nor one whose mean probability over slightly changed images is smaller. Both were chosen on held-out images."""
TURNS = (-10.0, 10.0)
"""Degrees."""
SIZES = (0.88, 1.1)
SLANTS = (-0.15, 0.15)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Class probabilities of an image, (classes,), and why the prediction is not accepted; empty where it is."""

    probabilities: NDArray[np.float64]
    reason: str


def judge(logits: Callable[[Images], Logits], image: Images, temperature: float | None) -> Judgement:
    """Predict a prepared image, and the same image turned, scaled and slanted a little.

    A digit stays the digit that it is; what is none changes its prediction, however sure the first one was.

    Args:
        logits: uint8 (n, 28, 28) to float32 (n, classes).
        image: uint8 (28, 28).
        temperature: of the variant.
    """
    shares = softmax(logits(np.stack([image, *_changed(image)])), temperature)
    first = int(shares[0].argmax())
    sure, steady = float(shares[0, first]), float(shares[1:, first].mean())
    reason = ""
    if sure < LEAST_PROBABILITY:
        reason = f"not sure: a probability of {sure:.0%}"
    elif steady < LEAST_AGREEMENT:
        reason = f"not sure: {steady:.0%} once the image is turned or scaled a little"
    return Judgement(probabilities=shares[0], reason=reason)


def _changed(image: Images) -> list[Images]:
    matrices = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in np.deg2rad(TURNS)]
    matrices += [[[1 / size, 0], [0, 1 / size]] for size in SIZES]
    matrices += [[[1, 0], [slant, 1]] for slant in SLANTS]
    middle = np.full(2, (SIDE - 1) / 2)
    return [
        np.asarray(ndimage.affine_transform(image, np.array(matrix), middle - np.array(matrix) @ middle, order=1))
        for matrix in matrices
    ]
