"""Measure how much an image resembles known images of a class, whatever a model says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_edge.pixels import Images

DIRECTIONS = 8
SHRINKAGE = 0.2
"""Share of the covariance that is replaced by a multiple of the identity (Ledoit and Wolf, 2004)."""
LEAST_IMAGES = 200
"""With fewer known images nothing is called unfamiliar."""
KNOWN = 0.99
"""Share of the known images that are within distance 1."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Known images of each class, in two halves.

    Attributes:
        means: of the features of each class, (2, classes, features).
        precisions: inverse of their common covariance, (2, features, features).
        unit: distance of the image of one half that is farther from the other half than KNOWN of them.
    """

    means: Floats
    precisions: Floats
    unit: float

    def distance(self, image: Images, label: int) -> float:
        """Return how far an image of uint8 (28, 28) is from a class; above 1 it is less familiar than 99 % are."""
        return (
            float(_distances(self.means, self.precisions, features(image[None]), np.array([label])).mean()) / self.unit
        )


def familiarity(images: Images, labels: Images, classes: int) -> Familiarity | None:
    """Return the familiarity with images of uint8 (n, 28, 28); None for too few, or a class without images in a half."""
    if len(images) < LEAST_IMAGES:
        return None
    values = features(images)
    halves = np.arange(len(images)) % 2
    counts = [np.bincount(labels[halves == half], minlength=classes) for half in (0, 1)]
    if min(map(min, counts)) < 1:
        return None
    means, precisions = [], []
    for half in (0, 1):
        mine, of = values[halves == half], labels[halves == half]
        mean = np.stack([mine[of == number].mean(axis=0) for number in range(classes)])
        covariance = np.cov((mine - mean[of]).T)
        size = len(covariance)
        spread = np.trace(covariance) / size
        means.append(mean)
        precisions.append(np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * spread * np.eye(size)))
    both_means, both_precisions = np.stack(means), np.stack(precisions)
    apart = _distances(both_means, both_precisions, values, labels)
    unknown = np.where(halves == 0, apart[1], apart[0])  # each by the half that it is not in
    return Familiarity(means=both_means, precisions=both_precisions, unit=float(np.quantile(unknown, KNOWN)))


def features(images: Images) -> Floats:
    """Return histograms of the directions of edges in overlapping cells (Dalal and Triggs, 2005), (n, 392)."""
    smooth = ndimage.gaussian_filter(images.astype(np.float32) / 255, (0, 0.7, 0.7))
    down, across = np.gradient(smooth, axis=(1, 2))
    strength = np.hypot(down, across)
    turn = np.arctan2(down, across) % (2 * np.pi) * (DIRECTIONS / (2 * np.pi))
    first = np.floor(turn).astype(int) % DIRECTIONS
    share = turn - np.floor(turn)
    planes = np.stack(
        [
            strength * ((first == number) * (1 - share) + ((first + 1) % DIRECTIONS == number) * share)
            for number in range(DIRECTIONS)
        ],
        axis=1,
    )
    cells = ndimage.uniform_filter(planes, (0, 0, 6, 6))[:, :, 2::4, 2::4]
    roots = np.sqrt(np.maximum(cells.reshape(len(images), -1), 0))
    return np.asarray(roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-9), dtype=np.float64)


def _distances(means: Floats, precisions: Floats, values: Floats, labels: Images | NDArray[np.int64]) -> Floats:
    """Return the Mahalanobis distance of each row from its class, by each half, (2, n)."""
    apart = values[None] - means[:, labels]
    return np.asarray(np.sqrt(np.einsum("hnf,hfg,hng->hn", apart, precisions, apart, optimize=True)))
