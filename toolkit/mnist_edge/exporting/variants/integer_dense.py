"""Quantise a fully connected ReLU network to integers with scales that are powers of two.

One shift for all units of a layer would waste levels, but a ReLU network may be rescaled unit by unit without changing
what it computes (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.1): each unit takes the factor with which its weights fill their range, and the next layer divides by it. The last
layer has one factor, a power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnist_edge.exporting.variants.dense import Dense
from mnist_edge.exporting.variants.rounding import PAIR, Floats, product_errors, round_with_feedback
from mnist_edge.integer_network import EXACT_BITS, LARGEST, WEIGHT_LIMITS, IntegerLayer, IntegerNetwork, rounded_shift
from mnist_edge.pixels import Images

CLIPPED = (1.0, 0.85, 0.7, 0.55)
"""Parts of a row's largest weight that are tried as the limit of its range: with 4 bits, clipping a few weights costs
less than coarse steps for all."""
HEADROOM = 1.25
"""Range of an activation over its largest value on the calibration images: clipping one beyond costs far more than
coarser steps. Without it the largest logit error of 8 bits on MNIST is 0.32, with it 0.08."""
SHIFTS = range(20)
TINY = 1e-12
"""Least divisor: a unit may have no weights, or never fire."""
SUM_LIMIT = 0.75 * 2**EXACT_BITS
"""Bound on sums before rounding, which may raise them a little; `check_network` is exact."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a layer is fed on the calibration images.

    Attributes:
        values: float64 (N, inputs), integers 0 to 255.
        scales: float64 (inputs,), what one step of each is worth.
        covariance: float64 (inputs, inputs), of `values`.
    """

    values: Floats
    scales: Floats
    covariance: Floats


def integer_dense(layers: Sequence[Dense], divisor: float, images: Images, bits: int) -> IntegerNetwork:
    """Return the integer form of a network.

    Args:
        layers: as `dense_layers` returns them.
        divisor: of the pixels that the first one takes.
        images: uint8 (N, 28, 28), to calibrate on.
        bits: 8 or 4, of a weight.
    """
    pixels = images.reshape(len(images), -1).astype(np.float64)
    exact = pixels / divisor  # the activations of the network itself
    inputs = _inputs(pixels, np.full(pixels.shape[1], 1 / divisor))
    made: list[IntegerLayer] = []
    for layer, after in zip(layers, (*layers[1:], None), strict=True):
        expected = exact @ layer.weight + layer.bias  # (N, outputs)
        weight = _limited(layer.weight.T * inputs.scales, inputs)  # (outputs, inputs), of the integers
        if after is None:
            integers, factors, shift = _last(weight, layer.bias, inputs, bits)
        else:
            importance = (after.weight**2).sum(axis=1)  # (outputs,)
            integers, factors, shift = _hidden(weight, layer.bias, expected, importance, inputs, bits)
        # The mean of each output is kept (Nagel et al. 2019, section 4.2).
        bias = np.rint((expected * factors).mean(axis=0) - integers @ inputs.values.mean(axis=0))
        made.append(_layer(integers, bias, shift, bits))
        sums = (inputs.values @ integers.T + bias).astype(np.int64)
        exact = np.maximum(expected, 0)
        values = rounded_shift(sums, shift).clip(0, LARGEST).astype(np.float64)
        inputs = _inputs(values, 2.0**shift / factors)
    return IntegerNetwork(layers=tuple(made))


def _inputs(values: Floats, scales: Floats) -> _Inputs:
    centred = values - values.mean(axis=0)
    return _Inputs(values=values, scales=scales, covariance=centred.T @ centred / len(values))


def _limited(weight: Floats, inputs: _Inputs) -> Floats:
    """Return the weights, those of inputs that never vary at most as large as the others of their row.

    A unit that never fires may have any weight, which must not take the range of those that matter.
    """
    varies = np.diag(inputs.covariance) > 0
    most = np.abs(weight[:, varies]).max(axis=1, initial=0)[:, None]
    return np.where(varies, weight, np.clip(weight, -most, most))


def _hidden(
    weight: Floats, bias: Floats, expected: Floats, importance: Floats, inputs: _Inputs, bits: int
) -> tuple[Floats, Floats, int]:
    """Return integers, the factor of each unit and the shift of a layer with a ReLU.

    Of all shifts, the one with the least noise is taken: a larger one rounds the activations more coarsely, a smaller
    one leaves some units less than their range of weights, as their activations would exceed 255.
    """
    steps = _steps(weight, bias, bits)
    largest = np.maximum(expected.max(axis=0) * HEADROOM, TINY)  # (outputs,)
    variance = float(np.trace(inputs.covariance))  # of a product with weights that are rounded at random, times 12

    def noise(shift: int) -> float:
        factors = np.minimum(1 / steps, LARGEST * 2.0**shift / largest)
        return float((importance * (variance + 4.0**shift) / factors**2).sum())

    shift = min(SHIFTS, key=noise)
    most = LARGEST * 2.0**shift / largest
    best = np.full(len(weight), np.inf)
    integers, factors = np.zeros_like(weight), np.ones(len(weight))
    for part in CLIPPED:
        tried = np.minimum(1 / (steps * part), most)
        rounded = _rounded(weight, tried, inputs, bits)
        errors = product_errors(weight, rounded / tried[:, None], inputs.covariance)
        better = errors < best
        best[better], integers[better], factors[better] = errors[better], rounded[better], tried[better]
    return integers, factors, shift


def _last(weight: Floats, bias: Floats, inputs: _Inputs, bits: int) -> tuple[Floats, Floats, int]:
    """Return integers, factors and shift of the last layer: the power of two with the least error."""
    first = max(0, int(np.floor(-np.log2(_steps(weight, bias, bits).max()))))
    tried = {
        shift: _rounded(weight, np.full(len(weight), 2.0**shift), inputs, bits) for shift in range(first, first + 3)
    }

    def error(shift: int) -> float:
        return float(product_errors(weight, tried[shift] / 2.0**shift, inputs.covariance).sum())

    shift = min(tried, key=error)
    return tried[shift], np.full(len(weight), 2.0**shift), shift


def _steps(weight: Floats, bias: Floats, bits: int) -> Floats:
    """Return the least step of each row's integers at which nothing has to be clipped: float64 (outputs,)."""
    limits = [np.abs(weight).max(axis=1) / WEIGHT_LIMITS[bits], np.full(len(weight), TINY)]
    limits.append((np.abs(weight).sum(axis=1) * LARGEST + np.abs(bias)) / SUM_LIMIT)
    if bits == 8:
        even = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2))).reshape(len(weight), -1, 2)
        limits += [(sign * even).clip(min=0).sum(axis=2).max(axis=1) / PAIR for sign in (1, -1)]
    return np.asarray(np.max(limits, axis=0))


def _rounded(weight: Floats, factors: Floats, inputs: _Inputs, bits: int) -> Floats:
    return round_with_feedback(weight * factors[:, None], inputs.covariance, WEIGHT_LIMITS[bits], pairs=bits == 8)


def _layer(integers: Floats, bias: Floats, shift: int, bits: int) -> IntegerLayer:
    return IntegerLayer(
        weight=integers.astype(np.int8)[:, :, None, None],
        bits=bits,
        multiplier=np.ones(len(bias), np.int32),
        bias=bias.astype(np.int32),
        shift=shift,
        stride=1,
        size=1,
    )
