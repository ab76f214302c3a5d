"""Margins: predictions that an error of the size that was seen cannot have changed."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import LISTED, Margins, SmallMargin
from mnist_edge.verification.reference import Reference, StoredReference

SPOOLED_BYTES = 2**20
"""Margins in memory, 131,072 of them; those of a larger set go to a temporary file."""
UNMEASURED = -1.0
"""Stands for the margin of an image whose error is not among those that were measured: any image may flip."""


def top2_margins(logits: Logits) -> NDArray[np.float64]:
    """Return the difference of the largest and the second largest logit of each image: (N, classes) to (N,)."""
    top = np.sort(logits, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(top[:, 1] - top[:, 0])


class MarginCounter:
    """Separates the images whose margin is over twice the error from those that it may flip, part by part.

    If no logit moves by more than `error`, the largest falls and the second rises by at most that much, so a margin of
    over `2 * error` cannot close. The error is known at the end only: every margin is kept, in a temporary file where
    they are many, and the images with the LISTED smallest ones are kept with their predictions.
    """

    def __init__(self) -> None:
        self._count = 0
        self._margins = tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115 - closed in the next line
        weakref.finalize(self, self._margins.close)
        # Rows of (margin, whether it was measured, image, reference, predicted), the smallest margin first.
        self._smallest = np.zeros((0, 5))

    def add(self, logits: Logits, predicted: NDArray[np.intp], rows: NDArray[np.intp] | None = None) -> None:
        """Count the next images.

        Args:
            logits: float32 (n, classes), the reference's.
            predicted: (n,), the variant's classes.
            rows: the images that errors were measured on, all by default: any other image may flip.
        """
        margins = top2_margins(logits)
        measured = np.ones(len(margins), bool) if rows is None else np.isin(np.arange(len(margins)), rows)
        images = np.arange(self._count, self._count + len(margins))
        added = np.stack([margins, measured, images, logits.argmax(axis=1), predicted], axis=1)
        joined = np.concatenate([self._smallest, added])
        self._smallest = joined[np.argsort(joined[:, 0], kind="stable")[:LISTED]]
        self._margins.write(np.where(measured, margins, UNMEASURED).tobytes())
        self._count += len(margins)

    def result(self, error: float) -> Margins:
        """Return the margins of all images that were added, at least one.

        Args:
            error: largest logit error, 0 or more.
        """
        affected = self._count - self._count_above(2 * error)
        small = self._smallest[(self._smallest[:, 0] <= 2 * error) | (self._smallest[:, 1] == 0)]
        return Margins(
            error=error,
            unaffected=1 - affected / self._count,
            small=tuple(
                SmallMargin(image=int(image), margin=float(margin), reference=int(expected), predicted=int(found))
                for margin, _, image, expected, found in small
            ),
        )

    def _count_above(self, limit: float) -> int:
        self._margins.seek(0)
        count = 0
        while part := self._margins.read(SPOOLED_BYTES):
            count += int((np.frombuffer(part) > limit).sum())
        return count


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The images with the smallest margins, smallest first.

    Attributes:
        numbers: (n,), their places in the set.
        images: uint8 (n, 28, 28).
        logits: float32 (n, 10), the reference's.
    """

    numbers: NDArray[np.intp]
    images: Images
    logits: Logits


def nearest_images(reference: Reference | StoredReference, count: int) -> Nearest:
    """Return the images of a set with the `count` smallest margins."""
    found: Nearest | None = None
    start = 0
    for part in reference.parts():
        numbers = np.arange(start, start + len(part))
        start += len(part)
        images, logits = part.images, part.logits
        if found is not None:
            numbers = np.concatenate([found.numbers, numbers])
            images, logits = np.concatenate([found.images, images]), np.concatenate([found.logits, logits])
        rows = np.argsort(top2_margins(logits), kind="stable")[:count]
        found = Nearest(numbers=numbers[rows], images=images[rows], logits=logits[rows])
    assert found is not None  # a set has an image
    return found
