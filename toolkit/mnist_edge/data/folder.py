"""A folder of a user's own digits: four IDX files like MNIST's, with any number of images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mnist_edge.data.idx import open_images, read_images, read_labels
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import ImageFile, Images
from mnist_edge.records.data import Dataset

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""Training images and labels, test images and labels."""
FINGERPRINT_IMAGES = 1000
"""So many training images, evenly spaced, go into the fingerprint: to hash all of a large file takes seconds."""


def missing_file(folder: Path) -> Path | None:
    """Return the first of the four files that a folder lacks, or None."""
    return next((folder / file for file in FILES if not (folder / file).exists()), None)


def load_folder(folder: Path) -> Dataset:
    """Check the four files; labels and test set come into memory, the training images stay in their file.

    It is always so, however few they are: one way to train on a folder, and one order of its images.

    Raises:
        BadFileError: names the file that is missing, cut, too long, of other pictures or another count.
        UnavailableError: names the file that cannot be read.
    """
    if missing := missing_file(folder):
        raise BadFileError(f"{missing} is missing", hint=f"the folder needs {', '.join(FILES)}, directly in it")
    train_images, train_labels, test_images, test_labels = (folder / file for file in FILES)
    try:
        images = open_images(train_images)
        labels = read_labels(train_labels, len(images))
        tests = read_images(test_images)
        truth = read_labels(test_labels, len(tests))
    except BadFileError as error:
        raise BadFileError(error.message, hint="write the file again, in MNIST's IDX format") from error
    return Dataset(
        name="folder",
        source=str(folder.absolute()),  # as `--dataset` takes it: `mnist` would be the dataset of that name
        train_images=images,
        train_labels=labels,
        test_images=tests,
        test_labels=truth,
        fingerprint=_fingerprint(images, labels, tests, truth),
    )


def _fingerprint(images: ImageFile, labels: Images, tests: Images, truth: Images) -> str:
    """sha256 of every label, of the test images, and of training images evenly spaced from the first to the last."""
    rows = np.unique(np.linspace(0, len(images) - 1, FINGERPRINT_IMAGES).astype(np.int64))
    sample = images.take(np.stack([rows, rows + 1], axis=1))[:]
    digest = hashlib.sha256()
    for values in (labels, sample, truth, tests):
        digest.update(len(values).to_bytes(8, "big"))
        digest.update(values.data)
    return digest.hexdigest()
