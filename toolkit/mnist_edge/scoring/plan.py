"""Cut an input into blocks: ranges of an IDX file, or of the image files of a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_edge.data.folder import open_image_set
from mnist_edge.data.image_file import SUFFIXES
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import ImageFile
from mnist_edge.records.scoring import SetKind

BLOCK: dict[SetKind, int] = {"idx": 20_000, "photos": 200}
"""Images of a block, a fraction of a second to a few seconds of work: what a killed run loses, of each worker."""
SAMPLED = 1000
"""Images, evenly spaced, that the fingerprint of an IDX file covers."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Images `start` to `stop` of the input."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class ScoreInput:
    """Images that are to be scored, which stay where they are.

    Attributes:
        kind: of the input.
        path: the IDX file, or the folder of image files.
        labels: IDX file of the right labels; None where there is none.
        names: of the image files, in order; none for an IDX file.
        images: how many there are.
        fingerprint: sha256 of what distinguishes two inputs: of an IDX file its size, its time, images evenly spaced
            over it and all labels; of a folder the names, sizes and times of its image files.
    """

    kind: SetKind
    path: Path
    labels: Path | None
    names: tuple[str, ...]
    images: int
    fingerprint: str


def blocks_of(images: int, size: int) -> tuple[Block, ...]:
    """Cut `images` images into blocks of `size`; the last one may be smaller."""
    starts = range(0, images, size)
    return tuple(
        Block(number=number, start=start, stop=min(start + size, images)) for number, start in enumerate(starts)
    )


def open_input(path: Path) -> ScoreInput:
    """Find out what a path holds: an IDX file, a folder with one, or a folder of image files.

    Raises:
        UnavailableError: there is nothing of that name.
        BadFileError: neither; an IDX file that is damaged or compressed.
    """
    if not path.exists():
        raise UnavailableError(f"{path} does not exist", hint="check the path")
    found = open_image_set(path)
    if found is None:
        return _open_photos(path)
    if not isinstance(found.images, ImageFile):
        raise BadFileError(
            f"{found.path} is compressed: workers cannot read parts of it", hint=f"gunzip --keep {found.path}"
        )
    return ScoreInput(
        kind="idx",
        path=found.path.absolute(),
        labels=None if found.labels_path is None else found.labels_path.absolute(),
        names=(),
        images=len(found.images),
        fingerprint=_digest(
            [_stated(found.path), _sample(found.images), b"" if found.labels is None else found.labels.tobytes()]
        ),
    )


def _open_photos(folder: Path) -> ScoreInput:
    if not folder.is_dir():
        raise BadFileError(f"{folder} is no folder and no IDX file", hint="predict takes a single photo")
    # One scan: a million calls of stat on a network file system take minutes.
    with os.scandir(folder) as entries:
        files = sorted(
            (entry.name, entry.stat()) for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
        )
    if not files:
        raise BadFileError(
            f"{folder} holds neither an IDX file nor an image ({', '.join(SUFFIXES)})", hint="name another folder"
        )
    stated = (
        f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape") for name, status in files
    )
    names = tuple(name for name, _ in files)
    return ScoreInput(
        kind="photos",
        path=folder.absolute(),
        labels=None,
        names=names,
        images=len(names),
        fingerprint=_digest(stated),
    )


def _stated(path: Path) -> bytes:
    status = path.stat()
    return f"{status.st_size}\0{status.st_mtime_ns}\0".encode()


def _sample(images: ImageFile) -> bytes:
    rows = np.unique(np.linspace(0, len(images) - 1, SAMPLED).astype(np.int64))
    return images.take(np.stack([rows, rows + 1], axis=1))[:].tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
