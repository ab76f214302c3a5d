"""Which golden images a self-test contains: few, so that they fit beside the model in the flash of a small device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.pixels import Images

REAL = 12
RANDOM = 2
"""With all-black and all-white, the unlabelled images of a bundle: every weight of the first layer takes part."""


def golden_rows(labels: Images) -> NDArray[np.intp]:
    """Return the rows of a bundle's golden images that a self-test contains.

    Args:
        labels: of the golden images, uint8 (m,).
    """
    real, other = np.flatnonzero(labels != NO_LABEL), np.flatnonzero(labels == NO_LABEL)
    return np.concatenate([real[:REAL], other[: 2 + RANDOM]])
