"""Turn a trained student into integers: its 4-bit weights stay, and the scale of each row becomes a multiplier."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from mnist_edge.contract import SIDE
from mnist_edge.integer_network import EXACT_BITS, LARGEST, MAX_SHIFT, IntegerLayer, IntegerNetwork, rounded_shift
from mnist_edge.pixels import Images
from mnist_edge.training.qat import QuantisedLayer, QuantisedNetwork

Floats = NDArray[np.float64]

MAX_MULTIPLIER = 255
"""With a weight of 4 bits, a product of 11 bits: TF32 and fp16 hold it exactly."""
HEADROOM = 1.05
"""Range of an activation over its largest value on the calibration images. With 1.25 the largest logit error is twice as
large, as steps are coarser; choosing it so that multipliers come close to whole numbers gained nothing."""
SUM_LIMIT = 0.95 * 2**EXACT_BITS
"""Bound on sums before the bias is rounded; `check_network` is exact."""
TINY = 1e-12


def integer_student(network: QuantisedNetwork, images: Images) -> IntegerNetwork:
    """Return the integer form of a student.

    Args:
        network: as it is deployed, with weights of 4 bits.
        images: uint8 (N, 28, 28), to calibrate on.
    """
    values = images.reshape(-1, 1, SIDE, SIDE).astype(np.float64)
    exact, step = values, 1.0  # activations of the student itself, and what 1 of `values` is worth
    made: list[IntegerLayer] = []
    for number, layer in enumerate(map(_positive, network.layers), 1):
        scale, bias = layer.scale.astype(np.float64), layer.bias.astype(np.float64)
        expected = _convolve(layer, exact, scale, bias)
        products = _convolve(layer, values, np.ones(len(bias)), np.zeros(len(bias)))
        largest = max(float(expected.max()) * HEADROOM, TINY)
        after = 1.0 if number == len(network.layers) else largest / LARGEST  # what 1 of the output is worth
        multiplier, shift = _multipliers(layer, scale * step / after, bias / after)
        # The mean of each output is kept (Nagel et al. 2019, "Data-Free Quantization ...", section 4.2).
        means = expected.mean(axis=(0, 2, 3)) / after * 2.0**shift - multiplier * products.mean(axis=(0, 2, 3))
        integer = IntegerLayer(
            weight=layer.integers,
            bits=layer.bits,
            multiplier=multiplier.astype(np.int32),
            bias=np.rint(means).astype(np.int32),
            shift=shift,
            stride=layer.stride,
            size=exact.shape[2],
        )
        made.append(integer)
        sums = products.astype(np.int64) * _rows(integer.multiplier) + _rows(integer.bias)
        exact, step = np.maximum(expected, 0), after
        values = rounded_shift(sums, shift).clip(0, LARGEST).astype(np.float64)
    return IntegerNetwork(layers=tuple(made))


def _positive(layer: QuantisedLayer) -> QuantisedLayer:
    """Return the same layer without negative scales, which batch normalisation may give: their weights are negated."""
    sign = np.where(layer.scale < 0, -1, 1)
    integers = (layer.integers * sign[:, None, None, None]).astype(np.int8)
    return dataclasses.replace(layer, integers=integers, scale=np.abs(layer.scale))


def _rows(values: NDArray[np.int32]) -> NDArray[np.int64]:
    return values.astype(np.int64)[:, None, None]


def _convolve(layer: QuantisedLayer, values: Floats, scale: Floats, bias: Floats) -> Floats:
    """Return `scale * (integers conv values) + bias`: float64 (N, outputs, side, side)."""
    weight = torch.from_numpy(layer.integers * scale[:, None, None, None])
    convolved = torch.nn.functional.conv2d(torch.from_numpy(values), weight, torch.from_numpy(bias), layer.stride)
    return np.asarray(convolved.numpy())


def _multipliers(layer: QuantisedLayer, scale: Floats, bias: Floats) -> tuple[Floats, int]:
    """Return whole multipliers and the largest shift for `scale = multiplier / 2^shift` that no sum forbids."""
    sums = np.abs(layer.integers.astype(np.float64)).sum(axis=(1, 2, 3)) * LARGEST * scale + np.abs(bias)
    room = min(SUM_LIMIT / max(sums.max(), TINY), MAX_MULTIPLIER / max(scale.max(), TINY))
    shift = int(np.clip(np.floor(np.log2(room)), 0, MAX_SHIFT))
    return np.clip(np.rint(scale * 2.0**shift), 1, MAX_MULTIPLIER), shift
