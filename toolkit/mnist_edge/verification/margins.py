"""Margins: predictions that an error of the size that was seen cannot have changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.pixels import Logits
from mnist_edge.records.verification import Margins, SmallMargin


def top2_margins(logits: Logits) -> NDArray[np.float64]:
    """Return the difference of the largest and the second largest logit of each image: (N, classes) to (N,)."""
    top = np.sort(logits, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(top[:, 1] - top[:, 0])


def compare_margins(
    logits: Logits, predicted: NDArray[np.intp], error: float, rows: NDArray[np.intp] | None = None
) -> Margins:
    """Separate the images whose margin is over twice the error from those that it may flip.

    If no logit moves by more than `error`, the largest falls and the second rises by at most that much, so a margin of
    over `2 * error` cannot close.

    Args:
        logits: float32 (N, classes), the reference's.
        predicted: (N,), the variant's classes.
        error: largest logit error, 0 or more.
        rows: the images that the error was measured on, all by default: any other image may flip.
    """
    margins = top2_margins(logits)
    unaffected = margins > 2 * error
    if rows is not None:
        unaffected &= np.isin(np.arange(len(margins)), rows)
    small = np.flatnonzero(~unaffected)
    small = small[np.argsort(margins[small], kind="stable")]
    return Margins(
        error=error,
        unaffected=1 - len(small) / len(margins),
        small=tuple(
            SmallMargin(
                image=int(i), margin=float(margins[i]), reference=int(logits[i].argmax()), predicted=int(predicted[i])
            )
            for i in small
        ),
    )
