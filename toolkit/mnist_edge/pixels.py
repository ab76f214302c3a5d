"""Images and logits as arrays, images that stay in their file, and the normalisation of pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import PIXELS, SIDE, Normalization
from mnist_edge.errors import BadFileError, UnavailableError

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
RowRanges = NDArray[np.int64]
"""Ranges of rows, int64 (K, 2): the first row of each range, and the one after its last."""

IMAGES_HEADER = 16
"""Bytes before the first image of an IDX file."""


def logits_sha256(logits: Logits) -> str:
    """Return the sha256 of logits (n, 10), as little-endian float32, row by row."""
    return hashlib.sha256(logits_bytes(logits)).hexdigest()


def logits_bytes(logits: Logits) -> bytes:
    """Return logits (n, 10) as the bytes that `logits_sha256` hashes."""
    return np.ascontiguousarray(logits, dtype="<f4").tobytes()


def take_rows(values: Images, ranges: RowRanges) -> Images:
    """Return the rows of these ranges, range after range."""
    return np.concatenate([values[first:end] for first, end in ranges] or [values[:0]])


def softmax(logits: Logits, temperature: float | None = None) -> NDArray[np.float64]:
    """Return the class probabilities of logits (n, classes), each row divided by a temperature first.

    Args:
        logits: float32 (n, classes), finite.
        temperature: of a variant, above 0; None counts as 1.
    """
    scaled = logits.astype(np.float64) / (temperature or 1.0)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class ImageFile:
    """Images that stay in their IDX file: `images[a:b]` reads those rows, uint8 (n, 28, 28); `len` counts all.

    The file is read, not mapped into memory: pages of a map count as memory of this process once they are touched,
    and a file that shrinks under a map ends the process with a bus error.

    Attributes:
        path: an IDX file of uint8 images, whose header was checked.
        ranges: which images of the file these are, in their order.
    """

    def __init__(self, path: Path, ranges: RowRanges) -> None:
        self.path = path
        self.ranges = ranges
        self._ends = np.cumsum(ranges[:, 1] - ranges[:, 0])  # rows up to the end of each range

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, ranges: RowRanges) -> ImageFile:
        """Return other images of the same file; `ranges` count from its first image."""
        return ImageFile(self.path, ranges)

    def __getitem__(self, rows: slice) -> Images:
        """Read rows.

        Raises:
            UnavailableError: the file cannot be opened any more.
            BadFileError: the file became shorter since it was checked.
        """
        start, stop, _ = rows.indices(len(self))
        images = np.empty((max(0, stop - start), SIDE, SIDE), dtype=np.uint8)
        row = 0
        try:
            with self.path.open("rb") as file:
                for first, end in self._ranges_between(start, stop):
                    part = images[row : row + end - first]  # cut at `stop`, which may lie within the last range
                    file.seek(IMAGES_HEADER + int(first) * PIXELS)
                    if file.readinto(part.data) != part.size:
                        raise BadFileError(
                            f"{self.path} became shorter while it was read: image {first} is incomplete",
                            hint="let nothing write to the folder while it is in use",
                        )
                    row += len(part)
        except OSError as error:
            raise UnavailableError(
                f"{self.path}: {error.strerror}", hint="do not move or remove data while they are in use"
            ) from error
        return images

    def _ranges_between(self, start: int, stop: int) -> RowRanges:
        """Return the ranges that cover rows `start` to `stop`; the first begins at `start`, the last may exceed `stop`."""
        if start >= stop:
            return self.ranges[:0]
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        ranges = self.ranges[first : last + 1].copy()
        ranges[0, 0] = ranges[0, 1] - (self._ends[first] - start)
        return ranges


AFFINE: dict[Normalization, tuple[float, float]] = {
    "raw": (1.0, 0.0),
    "unit": (255.0, 0.0),
    "seed": (127.5, -1.0),
    "mnist": (255.0 * 0.3081, -0.1307 / 0.3081),
}
"""Each normalisation as `x / divisor + shift` of a pixel x, 0 to 255: for folding it into weights."""


def normalize(images: Images, normalization: Normalization) -> NDArray[np.float32]:
    """Return pixels as the float input that a model was trained on.

    Args:
        images: uint8 of any shape, 0 (background) to 255.
        normalization: see `Normalization`; `seed` is `((x / 255) - 0.5) / 0.5`, each step rounded to float32 as
            torchvision's transforms do.

    Returns:
        float32, same shape.
    """
    pixels = images.astype(np.float32)
    if normalization == "raw":
        return pixels
    pixels /= np.float32(255)
    if normalization == "seed":
        return (pixels - np.float32(0.5)) / np.float32(0.5)
    if normalization == "mnist":
        return (pixels - np.float32(0.1307)) / np.float32(0.3081)
    return pixels
