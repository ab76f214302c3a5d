"""Pictures and answers as arrays, pictures that stay in their file, and what a model may expect of its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import PIXELS, SIDE, Normalization
from mnist_edge.errors import BadFileError, UnavailableError

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
Runs = NDArray[np.int64]
"""Rows in pieces, int64 (K, 2): the first row of each piece, and the one after its last."""

IMAGES_HEADER = 16
"""Bytes before the first picture of an IDX file."""


def rows_of(values: Images, runs: Runs) -> Images:
    """The rows of an array, piece after piece."""
    return np.concatenate([values[first:end] for first, end in runs] or [values[:0]])


class ImageFile:
    """Pictures that stay in their IDX file: `images[a:b]` reads those rows, uint8 (n, 28, 28), and `len` counts all.

    It reads, and maps nothing: the pages of a map count as memory of this process once they are touched,
    and a file that shrinks under a map ends the process with a bus error.

    Attributes:
        runs: which pictures of the file these are, in their order.
    """

    def __init__(self, path: Path, runs: Runs) -> None:
        self.path = path
        self.runs = runs
        self.ends = np.cumsum(runs[:, 1] - runs[:, 0])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, runs: Runs) -> ImageFile:
        """Other rows of the same file."""
        return ImageFile(self.path, runs)

    def __getitem__(self, rows: slice) -> Images:
        """Read rows.

        Raises:
            UnavailableError: the file cannot be opened any more.
            BadFileError: it is no longer as long as it was.
        """
        start, stop, _ = rows.indices(len(self))
        images = np.empty((max(0, stop - start), SIDE, SIDE), dtype=np.uint8)
        row = 0
        try:
            with self.path.open("rb") as file:
                for first, end in self._cut(start, stop):
                    piece = images[row : row + end - first]  # shorter than the last run, where that goes on
                    file.seek(IMAGES_HEADER + int(first) * PIXELS)
                    if file.readinto(piece.data) != piece.size:
                        raise BadFileError(
                            f"{self.path} became shorter while it was read: image {first} is not whole",
                            hint="let nothing write to the folder while it is in use",
                        )
                    row += len(piece)
        except OSError as error:
            raise UnavailableError(
                f"{self.path}: {error.strerror}", hint="it was there a moment ago: leave the folder as it is"
            ) from error
        return images

    def _cut(self, start: int, stop: int) -> Runs:
        """The pieces of the rows from `start`, as many as reach `stop`: the last may go on after it."""
        if start >= stop:
            return self.runs[:0]
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop, side="left"))
        runs = self.runs[first : last + 1].copy()
        runs[0, 0] = runs[0, 1] - (self.ends[first] - start)
        return runs


AFFINE: dict[Normalization, tuple[float, float]] = {
    "raw": (1.0, 0.0),
    "unit": (255.0, 0.0),
    "seed": (127.5, -1.0),
    "mnist": (255.0 * 0.3081, -0.1307 / 0.3081),
}
"""Each normalisation as `x / divisor + shift` of a pixel x, 0 to 255: for folding it into weights."""


def normalize(images: Images, normalization: Normalization) -> NDArray[np.float32]:
    """Bring raw pixels to what a float model was trained on.

    Args:
        images: uint8 of any shape, 0 (background) to 255.
        normalization: see `Normalization`; `seed` is `((x / 255) - 0.5) / 0.5` in float32, step by step.

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
