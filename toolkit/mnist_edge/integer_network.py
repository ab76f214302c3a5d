"""A network on integers whose logits are the same bytes on every runtime, and its reference in numpy.

Scales are powers of two and every value is an integer below 2^24, so integer kernels, float32 kernels in any order of
summation, fused or not, TF32 and fp16 products with float32 accumulation all compute the same. What is left to
rounding is one shift a layer, half to even. `check_network` proves the bounds for a given network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES, PIXELS
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits

EXACT_BITS = 24
"""float32 holds every integer up to 2^24."""
LARGEST = 255
"""Of an activation or a pixel, uint8."""
PAIR_LIMIT = 32767
"""Largest int16: x86 without VNNI adds two products of uint8 and int8 in int16, with saturation (vpmaddubsw)."""
WEIGHT_LIMITS = {8: 127, 4: 7}
"""Bits that a weight is stored in, and its largest absolute value."""
MAX_SHIFT = 30
"""A larger one would shift every int32 out."""
BATCH = 500
"""Images in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """A convolution without padding, followed by a rounding shift. A dense layer is one of kernel 1 on a map of size 1.

    `t = sum(weight * x) * multiplier + bias`; a hidden layer returns `clip(round(t / 2^shift), 0, 255)` as uint8,
    rounded half to even; the last layer the logits `t * 2^-shift`, which float32 holds exactly.

    Attributes:
        weight: int8 (outputs, channels, kernel, kernel), at most 127 with 8 bits, 7 with 4.
        bits: 8 or 4, as which the weights are stored.
        multiplier: int32 (outputs,), at least 1; all ones in dense networks.
        bias: int32 (outputs,).
        shift: at least 0.
        stride: in both directions.
        size: the input map is (channels, size, size).
    """

    weight: NDArray[np.int8]
    bits: int
    multiplier: NDArray[np.int32]
    bias: NDArray[np.int32]
    shift: int
    stride: int
    size: int

    @property
    def output_size(self) -> int:
        """The output map is (outputs, output_size, output_size)."""
        kernel: int = self.weight.shape[2]
        return (self.size - kernel) // self.stride + 1

    @property
    def dense(self) -> bool:
        """Whether the layer is a matrix product."""
        return self.size == 1


@dataclass(frozen=True, kw_only=True)
class IntegerNetwork:
    """A chain of layers. The 784 pixels of an image, row by row, are the input map of the first: (784, 1, 1) or (1, 28, 28)."""

    layers: tuple[IntegerLayer, ...]


def integer_logits(network: IntegerNetwork, images: Images) -> Logits:
    """Return the logits of images.

    Computed with products of integers in float64, which are exact below 2^53.

    Args:
        network: with the shapes that `check_network` requires.
        images: uint8 (n, 28, 28).

    Returns:
        float32 (n, 10).
    """
    parts = [_logits(network, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate(parts or [np.empty((0, CLASSES), np.float32)])


def _logits(network: IntegerNetwork, images: Images) -> Logits:
    first, last = network.layers[0], network.layers[-1]
    values = images.reshape(-1, first.weight.shape[1], first.size, first.size)
    for layer in network.layers[:-1]:
        values = rounded_shift(_sums(layer, values), layer.shift).clip(0, LARGEST).astype(np.uint8)
    sums = _sums(last, values).reshape(len(images), -1)
    return np.ldexp(sums.astype(np.float64), -last.shift).astype(np.float32)


def _sums(layer: IntegerLayer, values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return `t` for the inputs (n, channels, size, size): int64 (n, outputs, output_size, output_size)."""
    outputs, _, kernel, _ = layer.weight.shape
    windows = np.lib.stride_tricks.sliding_window_view(values, (kernel, kernel), (2, 3))
    windows = windows[:, :, :: layer.stride, :: layer.stride]  # (n, channels, side, side, kernel, kernel)
    columns = windows.transpose(0, 2, 3, 1, 4, 5).astype(np.float64)
    products = columns.reshape(-1, layer.weight[0].size) @ layer.weight.reshape(outputs, -1).T.astype(np.float64)
    sums = products.astype(np.int64) * layer.multiplier.astype(np.int64) + layer.bias.astype(np.int64)
    return sums.reshape(*columns.shape[:3], outputs).transpose(0, 3, 1, 2)


def rounded_shift(values: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Return `values / 2^shift`, rounded half to even."""
    if shift == 0:
        return values
    return np.asarray((values + (1 << (shift - 1)) - 1 + ((values >> shift) & 1)) >> shift)


def check_network(network: IntegerNetwork) -> None:
    """Raise unless no sum can overflow, saturate or be rounded, in any order of summation and for any image.

    Raises:
        CheckFailedError: names the layer, the output and the value that is too large, or the shape that does not fit.
    """
    problem = next(_problems(network), "")
    if problem:
        raise CheckFailedError(f"the integer network is not exact everywhere: {problem}", hint="export it again")


def _problems(network: IntegerNetwork) -> Iterator[str]:
    """Yield what is wrong; a check relies on those before it."""
    if not network.layers:
        yield "it has no layers"
    values = PIXELS
    for number, layer in enumerate(network.layers, 1):
        problems = _layer_problems(layer, values, dense=layer.dense)
        yield from (f"layer {number}: {problem}" for problem in problems)
        values = len(layer.bias) * layer.output_size**2
    if values != CLASSES:
        yield f"it has {values} outputs, expected {CLASSES}"


def _layer_problems(layer: IntegerLayer, inputs: int, *, dense: bool) -> Iterator[str]:
    outputs = len(layer.bias)
    if layer.weight.ndim != 4 or layer.weight.shape[2] != layer.weight.shape[3] or layer.weight.shape[0] != outputs:
        yield f"weights {layer.weight.shape}, expected ({outputs}, channels, kernel, kernel)"
    if not 1 <= layer.weight.shape[2] <= layer.size or layer.stride < 1:
        yield f"kernel {layer.weight.shape[2]} with stride {layer.stride} on a map of size {layer.size}"
    if layer.weight.shape[1] * layer.size**2 != inputs:
        yield f"it takes {layer.weight.shape[1]} maps of size {layer.size}, the layer before it returns {inputs} values"
    if layer.multiplier.shape != (outputs,) or layer.multiplier.min(initial=1) < 1:
        yield "multipliers below 1, or not one for each output"
    if not 0 <= layer.shift <= MAX_SHIFT:
        yield f"shift {layer.shift} is not 0 to {MAX_SHIFT}"
    weights = layer.weight.reshape(outputs, -1).astype(np.int64)
    limit = WEIGHT_LIMITS.get(layer.bits, 0)
    if np.abs(weights).max(initial=0) > limit:
        yield f"a weight of {np.abs(weights).max()}, at most {limit} with {layer.bits} bits"
    largest = largest_sums(layer)
    if largest.max(initial=0) >= 2**EXACT_BITS:
        yield f"output {largest.argmax()}: a sum may reach {largest.max()}, which float32 cannot hold exactly"
    if dense and layer.bits == 8 and (worst := largest_pairs(weights)).max(initial=0) > PAIR_LIMIT:
        yield f"output {worst.argmax()}: a pair of products may reach {worst.max()}, at most {PAIR_LIMIT} fit into int16"


def largest_sums(layer: IntegerLayer) -> NDArray[np.int64]:
    """Return the largest absolute value of any partial sum of each output, for any input and order: int64 (outputs,)."""
    totals = np.abs(layer.weight.astype(np.int64)).reshape(len(layer.bias), -1).sum(axis=1)
    return np.asarray(totals * LARGEST * layer.multiplier.astype(np.int64) + np.abs(layer.bias.astype(np.int64)))


def largest_pairs(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest absolute sum of products of inputs 2i and 2i + 1, of each row of (outputs, inputs)."""
    even = np.pad(weights, ((0, 0), (0, weights.shape[1] % 2)))
    pairs = even.reshape(len(weights), -1, 2)
    sums = np.maximum(pairs.clip(min=0).sum(axis=2), -pairs.clip(max=0).sum(axis=2))
    return np.asarray(LARGEST * sums.max(axis=1, initial=0))
