"""Decide whether the prediction for a prepared photo can be relied on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_edge.contract import SIDE
from mnist_edge.data.photo import PreparedPhoto
from mnist_edge.pixels import Images, Logits, softmax
from mnist_edge.runtime.familiarity import Familiarity

LEAST_PROBABILITY = 0.8
"""A prediction of a smaller probability is not accepted,"""
LEAST_AGREEMENT = 0.7
"""nor one whose mean probability over slightly changed images is smaller,"""
LARGEST_DISTANCE = 1.1
"""nor one for an image that is less familiar. The three reject about 1.5 % of right predictions on photos of held-out images."""
MOST_HOLES = 2
"""An 8 has two."""
DARK, LEAST_HOLE = 90, 3
"""A hole has at least this many pixels darker than this."""
TURNS = (-10.0, 10.0)
"""Degrees."""
SIZES = (0.88, 1.1)
SLANTS = (-0.15, 0.15)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a model makes of an image.

    Attributes:
        probabilities: of the classes, (classes,); None where the image has no digit.
        reason: why the prediction is not accepted; empty where it is.
    """

    probabilities: NDArray[np.float64] | None
    reason: str


def judge_photo(
    logits: Callable[[Images], Logits], prepared: PreparedPhoto, temperature: float | None, known: Familiarity | None
) -> Judgement:
    """Judge a prepared photo as `judge` does its digit; what preparation noticed counts first."""
    if prepared.image is None:
        return Judgement(probabilities=None, reason=prepared.reason)
    found = judge(logits, prepared.image, temperature, known)
    return replace(found, reason=prepared.reason or found.reason)


def judge(
    logits: Callable[[Images], Logits], image: Images, temperature: float | None, known: Familiarity | None = None
) -> Judgement:
    """Predict a prepared image, and the same image turned, scaled and slanted a little.

    A digit stays the digit that it is, and resembles known digits of its class. What is none often changes its
    prediction, or resembles none, however sure the first prediction was.

    Args:
        logits: uint8 (n, 28, 28) to float32 (n, classes).
        image: uint8 (28, 28).
        temperature: of the variant.
        known: digits that a digit should resemble; None leaves that out.
    """
    shares = softmax(logits(np.stack([image, *_changed(image)])), temperature)
    first = int(shares[0].argmax())
    sure, steady = float(shares[0, first]), float(shares[1:, first].mean())
    reason = ""
    if sure < LEAST_PROBABILITY:
        reason = f"not sure: a probability of {sure:.0%}"
    elif steady < LEAST_AGREEMENT:
        reason = f"not sure: {steady:.0%} once the image is turned or scaled a little"
    elif _holes(image) > MOST_HOLES:
        reason = f"no digit: {_holes(image)} holes"
    elif known is not None and known.distance(image, first) > LARGEST_DISTANCE:
        reason = "it does not look like the digits that the model is tested with"
    return Judgement(probabilities=shares[0], reason=reason)


def _holes(image: Images) -> int:
    """Return how many areas of background ink surrounds."""
    background = np.pad(image < DARK, 1, constant_values=True)
    labels, count = ndimage.label(background)
    sizes = ndimage.sum_labels(background, labels, np.arange(1, count + 1))
    return int((sizes >= LEAST_HOLE).sum()) - 1


def _changed(image: Images) -> list[Images]:
    matrices = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in np.deg2rad(TURNS)]
    matrices += [[[1 / size, 0], [0, 1 / size]] for size in SIZES]
    matrices += [[[1, 0], [slant, 1]] for slant in SLANTS]
    middle = np.full(2, (SIDE - 1) / 2)
    return [
        np.asarray(ndimage.affine_transform(image, np.array(matrix), middle - np.array(matrix) @ middle, order=1))
        for matrix in matrices
    ]
