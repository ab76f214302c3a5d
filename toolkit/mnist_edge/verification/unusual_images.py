"""Detect two mistakes in test images that no format check finds: inverted colours, and pixels of 0 and 1."""

from __future__ import annotations

import numpy as np

from mnist_edge.pixels import Images

BRIGHT_BORDER = 127
"""Mean of the outermost pixels of images with a light background; MNIST's is 0, Fashion-MNIST's 20."""
IMAGES = 1000


def describe_unusual(images: Images) -> str:
    """Return what is probably wrong with images, and the correction, in one line; an empty string if nothing is.

    Args:
        images: uint8 (N, 28, 28); about a thousand of them, evenly spaced, are checked.
    """
    sample = images[:: max(1, len(images) // IMAGES)]
    largest = int(sample.max())
    if largest <= 1:
        return (
            f"the images look binary: their largest pixel is {largest}, models expect 0 to 255; "
            "write them again, multiplied by 255"
        )
    border = np.concatenate([sample[:, (0, -1)].reshape(-1), sample[:, 1:-1, (0, -1)].reshape(-1)])
    if border.mean() > BRIGHT_BORDER:
        return (
            f"the images look inverted: their border has a mean of {border.mean():.0f}, MNIST's is black (0); "
            "write them again as 255 - images"
        )
    return ""
