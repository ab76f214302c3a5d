"""Pictures and answers as arrays, and what a model may expect of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]


def normalize(images: Images, how: Normalization) -> NDArray[np.float32]:
    """Bring raw pixels to what a float model was trained on.

    Args:
        images: uint8 of any shape, 0 (background) to 255.
        how: see `Normalization`; `seed` is `((x / 255) - 0.5) / 0.5` in float32, step by step.

    Returns:
        float32, same shape.
    """
    pixels = images.astype(np.float32)
    if how == "raw":
        return pixels
    pixels /= np.float32(255)
    if how == "seed":
        return (pixels - np.float32(0.5)) / np.float32(0.5)
    if how == "mnist":
        return (pixels - np.float32(0.1307)) / np.float32(0.3081)
    return pixels
