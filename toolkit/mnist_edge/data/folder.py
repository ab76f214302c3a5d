"""A folder of a user's own images: IDX files named as MNIST's, with any number of images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mnist_edge.data.idx import open_images, read_images, read_labels
from mnist_edge.data.layout import FILES, TEST_FILES, describe_missing, find_files
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import ImageFile, Images, take_rows
from mnist_edge.records.data import Dataset, EvaluationSet, StoredSet

FINGERPRINT_IMAGES = 1000
"""Training images, evenly spaced, that the fingerprint covers: hashing all of a large file takes seconds."""
_HINT = "write the file again, in MNIST's IDX format"


def load_folder(folder: Path) -> Dataset:
    """Check the four files; labels and test set are read into memory, the training images stay in their file.

    Even a small training set stays in its file, so that there is one way to train on a folder. Only a compressed file
    is unpacked into memory.

    Raises:
        BadFileError: names the file that is missing, cut, too long, or holds other images or another number.
        UnavailableError: names the file that cannot be read.
    """
    paths = _require(folder, FILES)
    try:
        images = open_images(paths[FILES[0]])
        labels = read_labels(paths[FILES[1]], len(images))
    except BadFileError as error:
        raise BadFileError(error.message, hint=error.hint or _HINT) from error
    tests = load_test_folder(folder)
    return Dataset(
        name="folder",
        source=tests.source,
        train_images=images,
        train_labels=labels,
        test_images=tests.test_images,
        test_labels=tests.test_labels,
        fingerprint=_fingerprint(images, labels, tests),
    )


def load_test_folder(folder: Path) -> EvaluationSet:
    """Read the two test files of a folder, which need hold nothing else; errors as `load_folder`."""
    paths = _require(folder, TEST_FILES)
    try:
        images = read_images(paths[TEST_FILES[0]])
        labels = read_labels(paths[TEST_FILES[1]], len(images))
    except BadFileError as error:
        raise BadFileError(error.message, hint=error.hint or _HINT) from error
    # Absolute: `--dataset mnist` would be the dataset of that name, not the folder.
    return EvaluationSet(name="folder", source=str(folder.absolute()), test_images=images, test_labels=labels)


def open_test_folder(folder: Path) -> StoredSet:
    """Check the two test files of a folder, and leave the images in theirs; errors as `load_folder`.

    Only a compressed file is unpacked into memory.
    """
    paths = _require(folder, TEST_FILES)
    try:
        images = open_images(paths[TEST_FILES[0]])
        labels = read_labels(paths[TEST_FILES[1]], len(images))
    except BadFileError as error:
        raise BadFileError(error.message, hint=error.hint or _HINT) from error
    return StoredSet(source=str(folder.absolute()), images=images, labels=labels)


def _require(folder: Path, files: tuple[str, ...]) -> dict[str, Path]:
    """Return the paths of these files in the folder or in its subfolder `raw`."""
    found = find_files(folder) or find_files(folder / "raw")
    if missing := [file for file in files if file not in found]:
        needed = "training needs the four files" if files == FILES else "evaluating needs the two files"
        raise BadFileError(describe_missing(folder, missing), hint=f"{needed} {', '.join(files)}")
    return found


def _fingerprint(images: ImageFile | Images, labels: Images, tests: EvaluationSet) -> str:
    """Return the sha256 of every label, of the test images, and of training images evenly spaced over the file."""
    rows = np.unique(np.linspace(0, len(images) - 1, FINGERPRINT_IMAGES).astype(np.int64))
    ranges = np.stack([rows, rows + 1], axis=1)
    sample = images.take(ranges)[:] if isinstance(images, ImageFile) else take_rows(images, ranges)
    digest = hashlib.sha256()
    for values in (labels, sample, tests.test_labels, tests.test_images):
        digest.update(len(values).to_bytes(8, "big"))
        digest.update(values.data)
    return digest.hexdigest()
