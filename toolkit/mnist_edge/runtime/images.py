"""Fit uint8 images (N, 28, 28) to the input of a model: size, channels, axes, normalisation and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import NORMALIZATIONS, SIDE
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.pixels import Images, normalize
from mnist_edge.records.model import ModelInput

Feed = NDArray[Any]
"""A prepared input of one run: uint8 or float, (N, *image_shape)."""
SIDES = range(4, 1025)
"""Sides that a 28x28 image is resized to."""


def describe(model_input: ModelInput) -> str:
    """Return an input in one phrase: `image uint8 (batch, 28, 28)`."""
    first, *rest = model_input.shape
    sides = ["batch" if first is None else str(first), *("any" if side is None else str(side) for side in rest)]
    return f"{model_input.name} {model_input.dtype} ({', '.join(sides)})"


def require_digit_images(model: str, model_input: ModelInput) -> None:
    """Raise BadFileError unless grey 28x28 images can be fitted to the input in an obvious way.

    Args:
        model: its name in the error.
    """
    found = f"{model} takes {describe(model_input)}"
    if model_input.dtype == "int8":
        raise BadFileError(
            f"{found}: int8 pixels have no agreed scale, expected uint8 (0 to 255) or float",
            hint="export it with a uint8 or float32 input",
        )
    if model_input.channels not in {1, 3}:
        raise BadFileError(
            f"{found}, read as {model_input.layout} with {model_input.channels} channels; "
            "a grey image can be given to 1 or 3 channels",
            hint="export it for grey images, (batch, 1, height, width)",
        )
    if model_input.height not in SIDES or model_input.width not in SIDES:
        raise BadFileError(
            f"{found}, read as images of {model_input.height}x{model_input.width}; 28x28 images are resized to sides "
            f"of {SIDES[0]} to {SIDES[-1]}",
            hint="export it for images of 28x28",
        )


def prepare_images(model: str, model_input: ModelInput, images: Images) -> Feed:
    """Return images as the input takes them.

    Args:
        model: its name in errors.
        images: uint8 (N, 28, 28); resized to the input's sides (bilinear) and repeated in each channel.

    Raises:
        BadFileError: the input holds no such images.
        UsageError: a float input whose normalisation is neither stated nor given.
    """
    require_digit_images(model, model_input)
    if (model_input.height, model_input.width) != (SIDE, SIDE):
        images = _resize(images, model_input.height, model_input.width)
    if model_input.channels != 1:
        axis = -1 if model_input.layout == "NHWC" else 1
        images = np.repeat(np.expand_dims(images, axis), model_input.channels, axis)
    shaped = images.reshape(len(images), *model_input.image_shape)
    if model_input.dtype == "uint8":
        return shaped
    if model_input.normalization is None:
        raise UsageError(
            f"{model} does not state how its pixels are normalised", hint=f"--normalize {'|'.join(NORMALIZATIONS)}"
        )
    return normalize(shaped, model_input.normalization).astype(model_input.dtype, copy=False)


def _resize(images: Images, height: int, width: int) -> Images:
    """Resize uint8 (N, 28, 28) to (N, height, width), bilinear; Pillow widens the filter where it makes smaller."""
    from PIL import Image

    resized = np.empty((len(images), height, width), dtype=np.uint8)
    for row, image in enumerate(images):
        resized[row] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return resized
