"""Read a model's input and output as those of an image classifier, from what onnxruntime reports of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_edge.contract import CLASSES, SIDE, Normalization
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import Logits
from mnist_edge.records.model import Layout, ModelInput, ModelOutput, OutputKind

IMAGE_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
FLOATS = ("float16", "float32", "float64")
CHANNELS = range(1, 5)
"""Grey, grey and alpha, colour, colour and alpha."""
FLAT_SIDE = 8
"""Smallest side that is assumed for a flat input: 16 values are more likely measurements than 4x4 pixels."""
MOST_VALUES = 2**26
"""Largest number of values in one image."""
MOST_FIXED = 2**28
"""Largest number of values in one batch of a graph for one batch size."""


def read_input(model: str, values: Sequence[Any], normalization: Normalization | None) -> ModelInput:
    """Return the one input of a classifier.

    Args:
        model: its name in errors.
        values: onnxruntime's `NodeArg`s, with `name`, `type` and `shape`.
        normalization: what a float model expects of its pixels.

    Raises:
        BadFileError: several inputs or none, or one that holds no images.
    """
    found = ", ".join(f"{value.name} {value.type} {list(value.shape)}" for value in values) or "no input"
    expected = "expected one input of images: uint8 or float, (batch, height, width) with or without channels"
    if len(values) != 1 or values[0].type not in IMAGE_DTYPES:
        raise BadFileError(f"{model} takes {found}; {expected}", hint="export the model with images as its only input")
    (value,) = values
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape)
    image = _read_image(shape[1:]) if len(shape) > 1 else None
    if image is None:
        raise BadFileError(f"{model} takes {found}; {expected}", hint="export the model with a batch axis and images")
    image_shape, layout, (channels, height, width) = image
    size = channels * height * width
    if size > MOST_VALUES or size * (shape[0] or 1) > MOST_FIXED:
        raise BadFileError(
            f"{model} takes {found}: {size:,} values an image, at most {MOST_VALUES:,} are supported, "
            f"and {MOST_FIXED:,} a batch",
            hint="export the model for smaller images or a free batch axis",
        )
    return ModelInput(
        name=value.name,
        dtype=IMAGE_DTYPES[value.type],
        shape=shape,
        image_shape=image_shape,
        layout=layout,
        channels=channels,
        height=height,
        width=width,
        normalization=normalization,
    )


def _read_image(shape: tuple[int | None, ...]) -> tuple[tuple[int, ...], Layout, tuple[int, int, int]] | None:
    """Return image shape, layout, and channels, height and width of a shape without its batch; None for no image."""
    sides = [side for side in shape if side != 1]
    if len(shape) <= 2 and len(sides) == 1:  # (values), (1, values) or (values, 1)
        values = sides[0] or SIDE * SIDE
        size = _flat_size(values)
        return None if size is None else (tuple(side or values for side in shape), "flat", size)
    if len(shape) == 2:
        height, width = (side or SIDE for side in shape)
        return (height, width), "NHW", (1, height, width)
    if len(shape) != 3:
        return None
    first, _, last = shape
    if last is not None and last in CHANNELS and first not in CHANNELS:
        height, width = (side or SIDE for side in shape[:2])
        return (height, width, last), "NHWC", (last, height, width)
    channels = first or 1
    height, width = (side or SIDE for side in shape[1:])
    return (channels, height, width), "NCHW", (channels, height, width)


def _flat_size(values: int) -> tuple[int, int, int] | None:
    """Return channels, height and width of a square image with this many values, or None."""
    for channels in (1, 3):
        side = round((values / channels) ** 0.5)
        if side >= FLAT_SIDE and channels * side * side == values:
            return channels, side, side
    return None


def read_output(model: str, values: Sequence[Any]) -> ModelOutput:
    """Return the output that holds a float for each class: (N, classes), or the same with further axes of length 1.

    Of several, one with ten classes is preferred, then the first. Where none is a float tensor (labels, a sequence
    of maps), the last output is returned, which can be timed and not evaluated.

    Raises:
        BadFileError: no output.
    """
    if not values:
        raise BadFileError(f"{model} has no output", hint="export the model with its logits as output")
    outputs = [_output(value, [other.name for other in values if other is not value]) for value in values]
    scoring = [output for output in outputs if output.scores_classes]
    return min(scoring, key=lambda output: output.classes != CLASSES) if scoring else outputs[-1]


def _output(value: Any, others: list[str]) -> ModelOutput:
    tensor = value.type.startswith("tensor(")
    dtype = IMAGE_DTYPES.get(value.type, value.type.removeprefix("tensor(").removesuffix(")") if tensor else value.type)
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape or ())
    long = [side for side in shape[1:] if side != 1]
    classes = None if len(shape) < 2 or len(long) > 1 else (long[0] if long else 1)
    return ModelOutput(
        name=value.name,
        dtype=dtype,
        shape=shape,
        classes=classes,
        scores_classes=tensor and dtype in FLOATS and len(long) <= 1,
        others=tuple(others),
    )


def class_rows(values: object, count: int) -> Logits | None:
    """Return an output as float32 (count, classes), or None where it has another form.

    Args:
        values: float (count, classes), with any further axes of length 1: (count, classes, 1, 1); for one image also
            (classes).
        count: number of images that were run.
    """
    if not isinstance(values, np.ndarray) or values.dtype.name not in FLOATS or values.ndim == 0:
        return None
    if values.ndim == 1 and count == 1:
        values = values[None]
    if len(values) != count or sum(side != 1 for side in values.shape[1:]) > 1:
        return None
    return values.reshape(count, -1).astype(np.float32, copy=False)


def output_kind(outputs: Logits) -> OutputKind:
    """Distinguish logits, probabilities and scores by the values on real images.

    Rows sum to 1 within 0.02, which covers half precision and outputs quantised to 8 bits. Logits meet that on every
    one of many images only by construction.

    Args:
        outputs: float32 (N, classes) on a few hundred images or more.
    """
    if not outputs.size or not np.isfinite(outputs).all():
        return "logits"
    tolerance = 0.02
    if (outputs >= -1e-6).all() and (outputs <= 1 + 1e-3).all():
        return "probabilities" if (np.abs(outputs.sum(axis=1) - 1) < tolerance).all() else "scores"
    if (outputs <= 1e-3).all() and (np.abs(np.exp(outputs).sum(axis=1) - 1) < tolerance).all():
        return "log-probabilities"
    return "logits"
