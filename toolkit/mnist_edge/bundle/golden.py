"""golden.npz: inputs with PyTorch's logits and pre-activations, so that a device without PyTorch can compare."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.manifest import EXPORT_AGAIN
from mnist_edge.bundle.npz import Shape, read_arrays
from mnist_edge.contract import CLASSES, SIDE
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import ImageFile, Images, Logits

GOLDEN = "golden.npz"
GOLDEN_IMAGES = 1024
LAYER_IMAGES = 32
RANDOM_SEED = 20201
RANDOM_IMAGES = 14
NO_LABEL = 255
HASHED = 10_000
"""Images that are hashed at a time."""
ROUNDING = 1e-4
"""Largest difference between the logits and the last layer's pre-activations, which PyTorch computed at another batch size,
or the exact logits; relative to the image's largest logit."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Inputs with PyTorch's outputs, so that a device without PyTorch can compare its own.

    Attributes:
        images: uint8 (M, 28, 28): the first test images (at most 1,024), then all-black, all-white and random ones.
        labels: uint8 (M,), 255 where there is none.
        logits: float32 (M, 10), PyTorch's.
        test_logits: float32 (N, 10), PyTorch's on the whole test set, for devices that have it.
        test_sha256: uint8 (32,), of the test images and labels that `test_logits` are for.
        weights_sha256: uint8 (32,), of the weights of that network.
        layer_rows: int64 (K,), rows of `images` for which pre-activations are kept: the first test images (at most
            32), and all that are no test images.
        layer_widths: int64 (L,), outputs of each linear layer or convolution, input side first.
        pre_activations: float32 (K, sum of the widths), outputs of each such layer for these rows before its ReLU,
            layer after layer.
        exact_logits: float64 (M, 10), those of the exported fp32 graph, evaluated in float64.
        form_difference: float64 (1,), by how much a logit of PyTorch's network, evaluated in the same way, differs at
            most from the graph's, over `images` and the whole test set.
    """

    images: Images
    labels: Images
    logits: Logits
    test_logits: Logits
    test_sha256: NDArray[np.uint8]
    weights_sha256: NDArray[np.uint8]
    layer_rows: NDArray[np.int64]
    layer_widths: NDArray[np.int64]
    pre_activations: NDArray[np.float32]
    exact_logits: NDArray[np.float64]
    form_difference: NDArray[np.float64]


MEMBERS: dict[str, tuple[Shape, type]] = {
    "images": ((None, SIDE, SIDE), np.uint8),
    "labels": ((None,), np.uint8),
    "logits": ((None, CLASSES), np.float32),
    "test_logits": ((None, CLASSES), np.float32),
    "test_sha256": ((32,), np.uint8),
    "weights_sha256": ((32,), np.uint8),
    "layer_rows": ((None,), np.int64),
    "layer_widths": ((None,), np.int64),
    "pre_activations": ((None, None), np.float32),
    "exact_logits": ((None, CLASSES), np.float64),
    "form_difference": ((1,), np.float64),
}
"""Shape and dtype of each member of golden.npz."""


def sha256_of_test_set(images: Images | ImageFile, labels: Images) -> NDArray[np.uint8]:
    """Return the sha256 of a test set, uint8 (32,), so that recorded outputs are only compared on the same images."""
    digest = hashlib.sha256()
    for start in range(0, len(images), HASHED):
        digest.update(np.ascontiguousarray(images[start : start + HASHED]).data)
    digest.update(np.ascontiguousarray(labels).data)
    return sha256_array(digest.hexdigest())


def golden_inputs(test_images: Images | ImageFile, test_labels: Images) -> tuple[Images, Images]:
    """Return the golden images and their labels: see `Golden`."""
    random = np.random.default_rng(RANDOM_SEED).integers(0, 256, (RANDOM_IMAGES, SIDE, SIDE), dtype=np.uint8)
    plain = np.stack([np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)])
    images = np.concatenate([test_images[:GOLDEN_IMAGES], plain, random])
    unlabelled = np.full(len(plain) + len(random), NO_LABEL, np.uint8)
    return images, np.concatenate([test_labels[:GOLDEN_IMAGES], unlabelled])


def layer_rows(labels: Images) -> NDArray[np.int64]:
    """Return the golden images for which pre-activations are kept: see `Golden.layer_rows`."""
    real, other = np.flatnonzero(labels != NO_LABEL), np.flatnonzero(labels == NO_LABEL)
    return np.concatenate([real[:LAYER_IMAGES], other]).astype(np.int64)


def sha256_array(digest: str) -> NDArray[np.uint8]:
    """Return a hexadecimal sha256 as uint8 (32,)."""
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
    golden = Golden(**read_arrays(path, MEMBERS, "a golden file", EXPORT_AGAIN))
    problem = next(_problems(golden), "")
    if problem:
        raise BadFileError(f"{path}: {problem}", hint=EXPORT_AGAIN)
    return golden


def _problems(golden: Golden) -> Iterator[str]:
    """Yield each value that no export writes; a check relies on those before it."""
    count, rows = len(golden.images), len(golden.layer_rows)
    if golden.layer_widths.min() < 1 or golden.layer_widths.max() > golden.pre_activations.shape[1]:
        yield f"layer_widths: {golden.layer_widths.tolist()[:20]} are no widths of layers"
    for name, found, expected in (
        ("labels", golden.labels.shape, (count,)),
        ("logits", golden.logits.shape, (count, CLASSES)),
        ("pre_activations", golden.pre_activations.shape, (rows, int(golden.layer_widths.sum()))),
        ("exact_logits", golden.exact_logits.shape, (count, CLASSES)),
    ):
        if found != expected:
            yield f"{name} is of shape {found}, expected {expected}"
    for name, values in (
        ("logits", golden.logits),
        ("test_logits", golden.test_logits),
        ("pre_activations", golden.pre_activations),
        ("exact_logits", golden.exact_logits),
        ("form_difference", golden.form_difference),
    ):
        if not np.isfinite(values).all():
            yield f"{name} holds NaN or infinite values"
    if golden.layer_rows.min() < 0 or golden.layer_rows.max() >= count:
        yield "layer_rows: rows of images that it does not hold"
    unknown = golden.labels[(golden.labels >= CLASSES) & (golden.labels != NO_LABEL)]
    if len(unknown):
        yield f"labels: {unknown[0]} is no class: expected 0 to {CLASSES - 1}, or {NO_LABEL} for none"
    logits = golden.logits[golden.layer_rows]
    allowed = ROUNDING * np.maximum(1, np.abs(logits).max(axis=1, keepdims=True))
    if golden.layer_widths[-1] != CLASSES or (np.abs(golden.pre_activations[:, -CLASSES:] - logits) > allowed).any():
        yield "pre_activations: the last layer's are not its logits"
    yield from _exact_problems(golden)


def _exact_problems(golden: Golden) -> Iterator[str]:
    allowed = ROUNDING * np.maximum(1, np.abs(golden.logits).max(axis=1, keepdims=True))
    if (np.abs(golden.exact_logits - golden.logits) > allowed).any():
        yield "exact_logits: they are not near its logits"
    if golden.form_difference[0] < 0:
        yield f"form_difference: {golden.form_difference[0]} is no difference"
