"""The handwritten digits that scikit-learn includes, converted to MNIST's format.

1,797 images of 8x8 pixels from the "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak 1998).
As for MNIST (LeCun et al. 1998), each image is cropped to its ink, scaled to fit 20x20 with its proportions kept,
and placed on 28x28 with its centre of mass in the middle.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_edge.contract import SIDE
from mnist_edge.errors import UnavailableError
from mnist_edge.extras import install_hint
from mnist_edge.pixels import Images
from mnist_edge.records.data import Dataset

TEST_IMAGES = 360
"""The last fifth in file order is the test set: most of its images are by other writers than the training images."""


def load_digits() -> Dataset:
    """Return the digits as a dataset of 1,437 training and 360 test images.

    Raises:
        UnavailableError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise UnavailableError(
            "the dataset digits comes with scikit-learn, which is not installed",
            hint=install_hint("train"),
        )
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = np.stack([_to_mnist_format(image) for image in bunch.images])
    labels = bunch.target.astype(np.uint8)
    cut = len(images) - TEST_IMAGES
    return Dataset(
        name="digits",
        source="scikit-learn",
        train_images=images[:cut],
        train_labels=labels[:cut],
        test_images=images[cut:],
        test_labels=labels[cut:],
    )


def _to_mnist_format(image: NDArray[np.float64]) -> Images:
    """Convert an image (8, 8) with values 0 to 16 to uint8 (28, 28)."""
    rows, columns = np.nonzero(image)
    ink = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] * (255 / 16)
    scale = 20 / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    large = np.asarray(Image.fromarray(ink.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    mass = large.sum(dtype=np.float64)
    centre_row = (large.sum(axis=1) * np.arange(height)).sum() / mass
    centre_column = (large.sum(axis=0) * np.arange(width)).sum() / mass
    top = int(np.clip(round((SIDE - 1) / 2 - centre_row), 0, SIDE - height))
    left = int(np.clip(round((SIDE - 1) / 2 - centre_column), 0, SIDE - width))
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = large
    return canvas
