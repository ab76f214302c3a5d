"""A file of logits as a predictor: the outputs of any runtime, for images that are recognised by their sha256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.bundle.npz import read_arrays
from mnist_edge.contract import CLASSES
from mnist_edge.errors import BadFileError
from mnist_edge.files import sha256_bytes
from mnist_edge.pixels import Images, Logits

EXPECTED = "logits float32 (n, 10) and images_sha256 uint8 (32,), of the n images uint8 (n, 28, 28)"


@dataclass(frozen=True, kw_only=True)
class RecordedOutputs:
    """Logits that some runtime returned, by the sha256 of the images that they are for.

    Attributes:
        name: of the file.
        outputs: float32 (n, 10) by the hexadecimal sha256 of uint8 (n, 28, 28).
    """

    name: str
    outputs: Mapping[str, Logits]
    fixed_batch: int | None = None
    placement: Mapping[str, int] = field(default_factory=dict)

    def covers(self, images: Images) -> bool:
        """Whether the file holds outputs for exactly these images."""
        return images_sha256(images) in self.outputs

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Return the recorded logits; see `Predictor.logits`.

        Raises:
            BadFileError: the file holds none for these images.
        """
        del batch
        found = self.outputs.get(images_sha256(images))
        if found is None:
            raise BadFileError(f"{self.name} holds no logits for these {len(images)} images", hint="record them too")
        return found


def images_sha256(images: Images) -> str:
    """Return the sha256 of uint8 images (n, 28, 28), row by row."""
    return sha256_bytes(np.ascontiguousarray(images).tobytes())


def read_recorded(path: Path, known: Sequence[tuple[str, Images]]) -> RecordedOutputs:
    """Read a file of logits, for one of the known sets of images or for all of them in their order.

    Args:
        path: of an .npz file with `logits` and `images_sha256`, read without pickle.
        known: name and images of each set, as the error calls it.

    Raises:
        BadFileError: not such a file, or for other images.
    """
    hint = f"numpy.savez writes it: {EXPECTED}"
    members = {"logits": ((None, CLASSES), np.float32), "images_sha256": ((32,), np.uint8)}
    content = read_arrays(path, members, "a file of logits", hint)
    logits, stated = content["logits"], content["images_sha256"].tobytes().hex()
    for _, images in known:
        if stated == images_sha256(images):
            _require_count(path, logits, len(images), hint)
            return RecordedOutputs(name=str(path), outputs={stated: logits})
    joined = np.concatenate([images for _, images in known])
    if stated == images_sha256(joined):
        _require_count(path, logits, len(joined), hint)
        ends = np.cumsum([len(images) for _, images in known])[:-1]
        parts = zip(known, np.split(logits, ends), strict=True)
        return RecordedOutputs(name=str(path), outputs={images_sha256(images): part for (_, images), part in parts})
    expected = " or ".join(f"the {len(images)} {name}" for name, images in known)
    both = f", or both in this order ({len(joined)})" if len(known) > 1 else ""
    raise BadFileError(f"{path}: images_sha256 is {stated[:16]}..., not that of {expected}{both}", hint=hint)


def _require_count(path: Path, logits: Logits, count: int, hint: str) -> None:
    if len(logits) != count:
        raise BadFileError(f"{path}: logits are for {len(logits)} images, images_sha256 for {count}", hint=hint)
