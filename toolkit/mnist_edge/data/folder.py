"""A folder of a user's own images: IDX files named as MNIST's, with any number of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_edge.data.idx import open_images, read_images, read_labels
from mnist_edge.data.layout import FILES, TEST_FILES, TRAIN_FILES, describe_missing, find_files
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


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of an IDX file, with their labels where there are any.

    Attributes:
        path, labels_path: the files.
        images: left in the file; read into memory where it is compressed.
        labels: uint8 (N,).
    """

    path: Path
    labels_path: Path | None
    images: ImageFile | Images
    labels: Images | None


def open_image_set(path: Path) -> ImageSet | None:
    """Open an IDX file of images, or that of a folder: its test set, or else its training set; labels may be missing.

    Returns:
        None where the path is a folder without such a file, or a file that is not IDX by its name.

    Raises:
        BadFileError: a file is damaged, or holds another number of labels than of images.
        UnavailableError: a file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    found = find_files(folder) or (find_files(folder / "raw") if path.is_dir() else {})
    for images_file, labels_file in (TEST_FILES, TRAIN_FILES):
        if images_file in found and (path.is_dir() or found[images_file] == path):
            return _image_set(found[images_file], found.get(labels_file))
    return _image_set(path, None) if not path.is_dir() and "idx3" in path.name else None


def _image_set(images_path: Path, labels_path: Path | None) -> ImageSet:
    try:
        images = open_images(images_path)
        labels = None if labels_path is None else read_labels(labels_path, len(images))
    except BadFileError as error:
        raise BadFileError(error.message, hint=error.hint or _HINT) from error
    return ImageSet(path=images_path, labels_path=labels_path, images=images, labels=labels)


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
