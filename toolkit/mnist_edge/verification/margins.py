"""The margin certificate: predictions that an error of the measured size cannot have changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.pixels import Logits
from mnist_edge.records.verification import MarginCertificate, Uncertified


def top2_margins(logits: Logits) -> NDArray[np.float64]:
    """Return the difference of the largest and the second largest logit of each image: (N, classes) to (N,)."""
    top = np.sort(logits, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(top[:, 1] - top[:, 0])


def certify(
    logits: Logits, predicted: NDArray[np.intp], error: float, rows: NDArray[np.intp] | None = None
) -> MarginCertificate:
    """Certify the prediction of every image whose margin is over twice the error.

    If no logit moves by more than `error`, the largest falls and the second rises by at most that much, so a margin of
    over `2 * error` cannot close.

    Args:
        logits: float32 (N, classes), the reference's.
        predicted: (N,), the variant's classes.
        error: largest logit error, 0 or more.
        rows: the images that the error was measured on, all by default: no other image is certified.
    """
    margins = top2_margins(logits)
    certified = margins > 2 * error
    if rows is not None:
        certified &= np.isin(np.arange(len(margins)), rows)
    uncertified = np.flatnonzero(~certified)
    uncertified = uncertified[np.argsort(margins[uncertified], kind="stable")]
    return MarginCertificate(
        error=error,
        certified=1 - len(uncertified) / len(margins),
        uncertified=tuple(
            Uncertified(
                image=int(i), margin=float(margins[i]), reference=int(logits[i].argmax()), predicted=int(predicted[i])
            )
            for i in uncertified
        ),
    )
