"""Low-bit weights: rounding with a straight-through gradient in training, and the integers that are deployed.

Each row (output channel) of a weight has a scale of its own. A batch normalisation after the layer becomes a part of
that scale and of the bias, so it costs nothing on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_edge.contract import SIDE, StudentName

TINY = 1e-12
"""Least scale: a row of zeros has to be divided by something."""
SPREAD = 16.0
"""The factor 1/255 of the pixels is shared by the first two layers, 16/255 and 1/16: in one, scales would fall below
float16's smallest normal number. A ReLU lets a positive factor pass."""


def quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round the rows of a weight to integers.

    Args:
        weight: float32 (rows, ...).
        bits: 2, 4 or 8.

    Returns:
        Integers as float32, shape of `weight`, from -m to m with m = 2^(bits-1) - 1; scales, float32 (rows, 1, ...).
    """
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).div(most).clamp_min(TINY)
    return (weight / scale).round().clamp(-most, most), scale


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return a weight as it will be deployed; its gradient is passed on unchanged.

    Straight-through estimator: Bengio, Leonard and Courville (2013), "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation".
    """
    with torch.no_grad():
        integers, scale = quantise(weight, bits)
        change = integers.mul_(scale).sub_(weight)
    return weight + change


@dataclass(frozen=True, kw_only=True)
class QuantisedLayer:
    """A convolution as it is deployed: `output = (integers * scale) conv input + bias`, all computed in float32.

    Attributes:
        integers: int8 (outputs, inputs, kernel, kernel).
        bits: that each of them needs.
        scale, bias: float16 (outputs,).
    """

    integers: NDArray[np.int8]
    bits: int
    scale: NDArray[np.float16]
    bias: NDArray[np.float16]
    stride: int


@dataclass(frozen=True, kw_only=True)
class QuantisedNetwork:
    """A student as it is deployed: raw pixels 0 to 255 through its layers, with a ReLU after each but the last."""

    name: StudentName
    layers: tuple[QuantisedLayer, ...]


def quantised_layer(
    weight: Tensor, bits: int, *, gain: Tensor, bias: Tensor, stride: int, factors: tuple[float, float]
) -> QuantisedLayer:
    """Return a layer as it is deployed.

    Args:
        weight: float32 (outputs, inputs, kernel, kernel).
        bits: of a weight.
        gain: float32 (outputs,), what batch normalisation multiplies each output by.
        bias: float32 (outputs,), what it adds.
        stride: of the convolution.
        factors: by which weight and bias are multiplied as well.
    """
    integers, scale = (value.double().cpu() for value in quantise(weight.detach(), bits))
    row_scale = scale.flatten() * gain.detach().double().cpu() * factors[0]  # one rounding, from float64 to float16
    return QuantisedLayer(
        integers=integers.numpy().astype(np.int8),
        bits=bits,
        scale=row_scale.half().numpy(),
        bias=(bias.detach().double().cpu() * factors[1]).half().numpy(),
        stride=stride,
    )


def layer_factors(index: int) -> tuple[float, float]:
    """Return what weight and bias of layer `index` are multiplied by, so that the network takes raw pixels."""
    if index == 0:
        return SPREAD / 255, SPREAD
    return (1 / SPREAD, 1.0) if index == 1 else (1.0, 1.0)


def deployed_network(network: QuantisedNetwork) -> nn.Sequential:
    """Return plain PyTorch layers that take pixels 0 to 255, float32 (n, 784), and return logits (n, 10)."""
    modules: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    for layer in network.layers:
        outputs, inputs, kernel, _ = layer.integers.shape
        conv = nn.Conv2d(inputs, outputs, kernel, layer.stride)
        scale = torch.from_numpy(layer.scale.astype(np.float32)).reshape(-1, 1, 1, 1)
        conv.weight.data = torch.from_numpy(layer.integers.astype(np.float32)) * scale
        conv.bias = nn.Parameter(torch.from_numpy(layer.bias.astype(np.float32)))
        modules += [conv, nn.ReLU()]
    modules[-1] = nn.Flatten()  # (n, 10, 1, 1) to (n, 10)
    return nn.Sequential(*modules).eval()
