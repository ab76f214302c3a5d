"""The IDX format of MNIST: every declared size is checked before memory is allocated for it."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES, SIDE
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import require_regular_file
from mnist_edge.pixels import IMAGES_HEADER, ImageFile, Images

MEMORY_LIMIT = 1 << 30
"""Bytes of a file that is read into memory: 1.4 million images."""
DEFLATE_RATIO = 1032
"""deflate cannot compress better (zlib's documentation): a header that declares more is wrong."""
UINT8 = 0x08
TYPES = {
    0x08: "8-bit unsigned integer",
    0x09: "8-bit signed integer",
    0x0B: "16-bit integer",
    0x0C: "32-bit integer",
    0x0D: "32-bit float",
    0x0E: "64-bit float",
}
"""Third byte of an IDX file."""
FOREIGN = (
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89PNG", "a PNG image"),
    (b"version ", "a git-lfs pointer"),
    (b"<", "a web page or XML"),
)
"""First bytes of what is often found under the name of an IDX file."""


@dataclass(frozen=True)
class _Kind:
    """What a file must hold: `images` in 3 dimensions or `labels` in 1."""

    noun: str
    dimensions: int

    @property
    def header(self) -> int:
        return 4 + 4 * self.dimensions


_IMAGES, _LABELS = _Kind("images", 3), _Kind("labels", 1)


def read_images(path: Path, count: int | None = None) -> Images:
    """Read images into memory, uint8 (N, 28, 28).

    Args:
        path: an IDX file of unsigned bytes in three dimensions; gzip-compressed where its name ends in `.gz`.
        count: how many images it must hold; any number from 1 where None.

    Raises:
        BadFileError: no regular file, or type, size or count differ from what they must be.
        UnavailableError: it cannot be opened.
    """
    images = _read(path, _IMAGES, count)
    _check_sides(path, images.shape)
    return images


def open_images(path: Path) -> ImageFile | Images:
    """Check header and size of a file of images, and leave the images in it; compressed ones are read into memory.

    Raises:
        BadFileError: no regular file, or type or size differ from what they must be.
        UnavailableError: it cannot be opened.
    """
    if path.suffix == ".gz":
        return read_images(path)
    size = require_regular_file(path, "an IDX file")
    try:
        with path.open("rb") as file:
            shape = _shape(path, file.read(IMAGES_HEADER), _IMAGES, None)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    _check_size(path, size, IMAGES_HEADER + math.prod(shape))
    _check_sides(path, shape)
    return ImageFile(path, np.array([[0, shape[0]]]))


def read_labels(path: Path, count: int | None = None) -> Images:
    """Read labels, uint8 (N,), each 0 to 9; arguments and errors as `read_images`."""
    labels = _read(path, _LABELS, count)
    if labels.max() >= CLASSES:
        where = int(np.argmax(labels >= CLASSES))
        raise BadFileError(f"{path}: label {labels[where]} at position {where} is above {CLASSES - 1}")
    return labels


def read_label_rows(path: Path, start: int, stop: int) -> Images:
    """Read labels `start` to `stop`, uint8, of an uncompressed file that `read_labels` has checked.

    Raises:
        BadFileError: the file became shorter.
        UnavailableError: it cannot be opened any more.
    """
    try:
        with path.open("rb") as file:
            file.seek(_LABELS.header + start)
            data = file.read(stop - start)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    if len(data) != stop - start:
        raise BadFileError(
            f"{path} became shorter while it was read", hint="let nothing write to the folder while it is in use"
        )
    return np.frombuffer(data, dtype=np.uint8)


def idx_bytes(values: Images) -> bytes:
    """Return the uncompressed IDX file that holds these uint8 values."""
    return _header(values) + values.tobytes()


def sha256_of_idx(values: Images) -> str:
    """Return the sha256 of the uncompressed IDX file that holds these uint8 values."""
    digest = hashlib.sha256(_header(values))
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _header(values: Images) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, UINT8, values.ndim, *values.shape)


def _read(path: Path, kind: _Kind, count: int | None) -> Images:
    """Read a complete file: uint8 of the shape that its header declares."""
    compressed = path.suffix == ".gz"
    size = require_regular_file(path, "an IDX file", limit=MEMORY_LIMIT)
    try:
        with path.open("rb") as raw, gzip.open(raw) if compressed else nullcontext(raw) as file:
            head = file.read(kind.header)
            shape = _shape(path, head, kind, count)
            expected = kind.header + math.prod(shape)
            if expected > MEMORY_LIMIT:
                raise BadFileError(f"{path} declares {expected:,} bytes, over the limit of {MEMORY_LIMIT:,}")
            if not compressed:
                _check_size(path, size, expected)
            elif expected > size * DEFLATE_RATIO + kind.header:
                raise BadFileError(
                    f"{path} declares {expected:,} bytes, but {size:,} compressed bytes cannot hold them"
                )
            data = head + file.read(expected + 1 - len(head))  # one more byte, to detect data after the end
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadFileError(f"{path} is not gzip data, or damaged ({_describe_content(path)})") from error
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    if len(data) != expected:
        found = f"over {expected:,}" if len(data) > expected else f"{len(data):,}"
        raise BadFileError(f"{path}: {found} bytes, its header declares {expected:,}")
    return np.frombuffer(data, dtype=np.uint8, offset=kind.header).reshape(shape)


def _shape(path: Path, head: bytes, kind: _Kind, count: int | None) -> tuple[int, ...]:
    """Return the shape that the first bytes of a file declare, or raise BadFileError with what they show instead."""
    if head[:2] != b"\0\0" and (found := _describe_head(head)):
        hint = f"rename it to {path.name}.gz, or unpack it" if found == "gzip data" else "fetch the file again"
        raise BadFileError(f"{path} holds {found}, not IDX {kind.noun}", hint=hint)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES:
        raise BadFileError(f"{path} is no IDX file: it starts with {head[:4].hex(' ') or 'nothing'}")
    if head[2] != UINT8 or head[3] != kind.dimensions:
        found = f"{TYPES[head[2]]} values in {head[3]} dimension{'s' if head[3] != 1 else ''}"
        raise BadFileError(
            f"{path} holds {found}; {kind.noun} must be {TYPES[UINT8]}s in {kind.dimensions}",
            hint=_conversion(head[2], head[3], kind),
        )
    if len(head) < kind.header:
        raise BadFileError(f"{path}: {len(head)} bytes, too short for an IDX header")
    shape = struct.unpack(f">{kind.dimensions}I", head[4 : kind.header])
    if shape[0] == 0 or (count is not None and shape[0] != count):
        raise BadFileError(f"{path}: {shape[0]} {kind.noun}, expected {count or 'at least 1'}")
    return shape


def _conversion(code: int, dimensions: int, kind: _Kind) -> str:
    """Return what to do about values of another type or number of dimensions."""
    if kind is _LABELS and dimensions == 2:
        return "keep the first column only and write it as uint8: labels[:, 0].astype('uint8')"
    if dimensions != kind.dimensions:
        return "check that images and labels are not exchanged"
    if kind is _IMAGES and code in (0x0D, 0x0E):
        return "write them as uint8 from 0 to 255: (255 * images).round().astype('uint8') where they are from 0 to 1"
    return f"write them as uint8: {kind.noun}.astype('uint8')"


def _describe_head(head: bytes) -> str:
    """Name the format that the first bytes of a file show, or return an empty string."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")  # a byte order mark or blank lines before a web page
    return next((name for start, name in FOREIGN if text.startswith(start)), "")


def _describe_content(path: Path) -> str:
    """Describe, from its first bytes, a file that should be gzip data."""
    with path.open("rb") as file:
        head = file.read(IMAGES_HEADER)
    if head[:3] == bytes([0, 0, UINT8]):
        return "an uncompressed IDX file: rename it without .gz"
    return _describe_head(head) or f"it starts with {head[:4].hex(' ') or 'nothing'}"


def _check_size(path: Path, size: int, expected: int) -> None:
    if size != expected:
        raise BadFileError(f"{path}: {size:,} bytes, its header declares {expected:,}")


def _check_sides(path: Path, shape: tuple[int, ...]) -> None:
    if shape[1:] != (SIDE, SIDE):
        raise BadFileError(
            f"{path}: images are {shape[1]}x{shape[2]}, not {SIDE}x{SIDE}", hint=f"resize them to {SIDE}x{SIDE}"
        )
