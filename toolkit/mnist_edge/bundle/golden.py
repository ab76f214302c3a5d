"""golden.npz: inputs with the reference logits and layer outputs, so that a device without PyTorch can compare."""

from __future__ import annotations

import dataclasses
import io
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.manifest import EXPORT_AGAIN
from mnist_edge.contract import CLASSES, SIDE
from mnist_edge.errors import BadFileError
from mnist_edge.files import sha256_bytes
from mnist_edge.pixels import Images, Logits

GOLDEN = "golden.npz"


GOLDEN_IMAGES = 1024


STAGE_IMAGES = 32


NOISE_SEED = 20201


NOISE_IMAGES = 14


NO_LABEL = 255


ROUNDING = 1e-4
"""How far the last stage's sums may lie from the logits, relative to the image's largest: both are PyTorch's,
computed for other numbers of images at once."""


DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # a flipped bit says that it is encrypted
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # numpy reads an array's header as Python
)
"""What numpy and zipfile raise on a damaged archive."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Inputs with PyTorch's answers, so that a device without torch can be held to them.

    Attributes:
        images: uint8 (M, 28, 28): the first test images (at most 1,024), then all-black, all-white and noise.
        labels: uint8 (M,), 255 where there is none.
        logits: float32 (M, 10), PyTorch's.
        test_logits: float32 (N, 10), PyTorch's on the whole test set, for devices that have it.
        test_sha256: uint8 (32,), of the test images and labels that `test_logits` are for.
        weights_sha256: uint8 (32,), of the weights that gave all these answers.
        stage_rows: int64 (K,), rows of `images` for which the network's inside is kept: the first
            test images (at most 32), and all that are no test images.
        stage_widths: int64 (L,), outputs of each linear layer, input side first.
        stage_sums: float32 (K, sum of the widths), what each linear layer gives for these rows
            before its ReLU, layer after layer.
    """

    images: Images
    labels: Images
    logits: Logits
    test_logits: Logits
    test_sha256: NDArray[np.uint8]
    weights_sha256: NDArray[np.uint8]
    stage_rows: NDArray[np.int64]
    stage_widths: NDArray[np.int64]
    stage_sums: NDArray[np.float32]


def sha256_of_test_set(images: Images, labels: Images) -> NDArray[np.uint8]:
    """Hash a test set, uint8 (32,), so that recorded answers are only ever compared on the same images."""
    return sha256_array(sha256_bytes(np.ascontiguousarray(images).tobytes() + np.ascontiguousarray(labels).tobytes()))


def golden_inputs(test_images: Images, test_labels: Images) -> tuple[Images, Images]:
    """Choose the golden images and their labels: see `Golden`."""
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, (NOISE_IMAGES, SIDE, SIDE), dtype=np.uint8)
    plain = np.stack([np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)])
    images = np.concatenate([test_images[:GOLDEN_IMAGES], plain, noise])
    unlabelled = np.full(len(plain) + len(noise), NO_LABEL, np.uint8)
    return images, np.concatenate([test_labels[:GOLDEN_IMAGES], unlabelled])


def stage_rows(labels: Images) -> NDArray[np.int64]:
    """Choose the golden images for which the network's inside is kept: see `Golden.stage_rows`."""
    real, other = np.flatnonzero(labels != NO_LABEL), np.flatnonzero(labels == NO_LABEL)
    return np.concatenate([real[:STAGE_IMAGES], other]).astype(np.int64)


def sha256_array(digest: str) -> NDArray[np.uint8]:
    """A sha256 in hex as uint8 (32,)."""
    return np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)


def golden_bytes(golden: Golden) -> bytes:
    """Serialise; the same content gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{field.name: getattr(golden, field.name) for field in dataclasses.fields(golden)})
    return buffer.getvalue()


def read_golden(path: Path) -> Golden:
    """Read the golden file and check names, shapes, dtypes and values.

    Raises:
        BadFileError: names the member that does not fit.
    """
    names = [field.name for field in dataclasses.fields(Golden)]
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = Golden(**{name: archive[name] for name in names})
    except DAMAGED as error:
        raise BadFileError(f"{path} is not a golden file", hint=EXPORT_AGAIN) from error
    count, tests, rows, layers = (
        len(values) if values.ndim else 0
        for values in (golden.images, golden.test_logits, golden.stage_rows, golden.stage_widths)
    )
    units = int(golden.stage_widths.sum()) if golden.stage_widths.dtype == np.int64 else 0
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((count, SIDE, SIDE), np.uint8),
        "labels": ((count,), np.uint8),
        "logits": ((count, CLASSES), np.float32),
        "test_logits": ((tests, CLASSES), np.float32),
        "test_sha256": ((32,), np.uint8),
        "weights_sha256": ((32,), np.uint8),
        "stage_rows": ((rows,), np.int64),
        "stage_widths": ((layers,), np.int64),
        "stage_sums": ((rows, units), np.float32),
    }
    for name, (shape, dtype) in expected.items():
        found = getattr(golden, name)
        if found.shape != shape or found.dtype != dtype or found.size == 0:
            raise BadFileError(
                f"{path}: {name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}", hint=EXPORT_AGAIN
            )
    if not all(np.isfinite(values).all() for values in (golden.logits, golden.test_logits, golden.stage_sums)):
        raise BadFileError(f"{path} holds NaN or infinite answers", hint=EXPORT_AGAIN)
    if golden.stage_rows.min() < 0 or golden.stage_rows.max() >= count or golden.stage_widths.min() < 1:
        raise BadFileError(f"{path}: its stages are for images that it does not hold", hint=EXPORT_AGAIN)
    strange = golden.labels[(golden.labels >= CLASSES) & (golden.labels != NO_LABEL)]
    if len(strange):
        raise BadFileError(
            f"{path}: labels: {strange[0]} is no class: expected 0 to {CLASSES - 1}, or {NO_LABEL} for none",
            hint=EXPORT_AGAIN,
        )
    logits = golden.logits[golden.stage_rows]
    if golden.stage_widths[-1] != CLASSES or not np.allclose(
        golden.stage_sums[:, -CLASSES:],
        logits,
        rtol=0,
        atol=ROUNDING * np.maximum(1, np.abs(logits).max(axis=1, keepdims=True)),
    ):
        raise BadFileError(f"{path}: stage_sums: the last layer's are not its logits", hint=EXPORT_AGAIN)
    return golden
