"""The IDX format of MNIST, read with nothing taken on trust."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES, SIDE
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import IMAGES_HEADER, ImageFile, Images


def read_images(path: Path, count: int | None = None) -> Images:
    """Read pictures, uint8 (N, 28, 28).

    Args:
        path: an IDX file of unsigned bytes in three dimensions.
        count: how many pictures there must be; any number from 1 where None.

    Raises:
        BadFileError: header, size or count are not what they must be.
    """
    images = _read(path, dimensions=3, count=count)
    _check_sides(path, images.shape)
    return images


def open_images(path: Path) -> ImageFile:
    """Check the header and size of a file of any number of pictures, and leave the pictures in it.

    Raises:
        BadFileError: header or size are not what they must be.
        UnavailableError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            shape = _shape(path, file.read(IMAGES_HEADER), os.fstat(file.fileno()).st_size, dimensions=3, count=None)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    _check_sides(path, shape)
    return ImageFile(path, np.array([[0, shape[0]]]))


def read_labels(path: Path, count: int | None = None) -> Images:
    """Read labels, uint8 (N,), each 0 to 9; arguments and errors as `read_images`."""
    labels = _read(path, dimensions=1, count=count)
    if labels.max() >= CLASSES:
        where = int(np.argmax(labels >= CLASSES))
        raise BadFileError(f"{path}: label {labels[where]} at position {where} is above {CLASSES - 1}", hint=_HINT)
    return labels


_HINT = "replace the file, or delete its folder to have it downloaded again"


def _read(path: Path, *, dimensions: int, count: int | None) -> Images:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    shape = _shape(path, data, len(data), dimensions=dimensions, count=count)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _shape(path: Path, data: bytes, size: int, *, dimensions: int, count: int | None) -> tuple[int, ...]:
    """Read the shape from the first bytes of a file of `size` bytes that must have it."""
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 0x08, dimensions])  # two zeros, unsigned byte, number of dimensions
    if len(data) < header:
        raise BadFileError(f"{path}: {size} bytes, too short for an IDX header", hint=_HINT)
    if data[:4] != magic:
        raise BadFileError(f"{path}: starts with {data[:4].hex()}, an IDX file with {magic.hex()}", hint=_HINT)
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = header + math.prod(shape)
    if size != expected:
        raise BadFileError(f"{path}: {size} bytes, its header announces {expected}", hint=_HINT)
    if shape[0] == 0 or (count is not None and shape[0] != count):
        raise BadFileError(f"{path}: {shape[0]} items, expected {count or 'at least 1'}", hint=_HINT)
    return shape


def _check_sides(path: Path, shape: tuple[int, ...]) -> None:
    if shape[1:] != (SIDE, SIDE):
        raise BadFileError(f"{path}: pictures are {shape[1]}x{shape[2]}, not {SIDE}x{SIDE}", hint=_HINT)
