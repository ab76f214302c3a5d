"""Which decisions the error seen cannot have changed: the margin certificate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.pixels import Logits
from mnist_edge.records.verification import MarginCertificate, Uncertified


def top2_margins(logits: Logits) -> NDArray[np.float64]:
    """Gap between the largest and the second largest logit of each image: (N, classes) to (N,)."""
    top = np.sort(logits, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(top[:, 1] - top[:, 0])


def certify(
    logits: Logits, predicted: NDArray[np.intp], error: float, rows: NDArray[np.intp] | None = None
) -> MarginCertificate:
    """Certify every image whose margin is over twice the error.

    If no logit moves by more than `error`, the best moves down and the second up by at most that
    much, so a gap of over `2 * error` cannot close.

    Args:
        logits: float32 (N, classes), the reference's.
        decided: (N,), what the variant decided.
        error: largest logit error seen, 0 or more.
        rows: the images that it was seen on, if not on all: nothing is certified but these.
    """
    gaps = top2_margins(logits)
    vouched = gaps > 2 * error
    if rows is not None:
        vouched &= np.isin(np.arange(len(gaps)), rows)
    open_cases = np.flatnonzero(~vouched)
    open_cases = open_cases[np.argsort(gaps[open_cases], kind="stable")]
    return MarginCertificate(
        error=error,
        certified=1 - len(open_cases) / len(gaps),
        uncertified=tuple(
            Uncertified(
                image=int(i), margin=float(gaps[i]), reference=int(logits[i].argmax()), predicted=int(predicted[i])
            )
            for i in open_cases
        ),
    )
