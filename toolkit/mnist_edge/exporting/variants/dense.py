"""The fully connected network in an fp32 export, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import InputKind, Normalization
from mnist_edge.errors import UsageError
from mnist_edge.pixels import AFFINE, Images

if TYPE_CHECKING:
    from onnx import ModelProto

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dense:
    """One linear layer: `x @ weight + bias`, followed by a ReLU in every layer but the last.

    Attributes:
        weight: float64 (fan_in, fan_out).
        bias: float64 (fan_out,).
    """

    weight: Floats
    bias: Floats


def dense_layers(fp32: ModelProto, kind: InputKind, normalization: Normalization) -> tuple[Dense, ...]:
    """Return the layers of an fp32 export, input side first; the first one takes pixels q / divisor of 0 to 255.

    `W (q / d + s) + b = W (q / d) + (b + s W 1)`: the image is then its own quantised form, with the scale 1 / d and
    the zero point 0, and the shift of the normalisation is part of the first bias.

    Args:
        fp32: as `graph.export_graph` makes it.
        kind: how it takes an image; the shift is in the bias already where that is uint8.
        normalization: of the pixels that the network was trained on; d and s are its AFFINE.

    Raises:
        UsageError: the graph is no chain of linear layers with a ReLU after each but the last.
    """
    from mnist_edge.verification.linear_chain import linear_chain_of

    chain = linear_chain_of(fp32)
    if [layer.relu for layer in chain.layers] != [True] * (len(chain.layers) - 1) + [False]:
        raise UsageError("the fp32 variant lacks a ReLU between two layers", hint="export it again with mnist-edge")
    layers = [Dense(layer.weight.T.astype(np.float64), layer.bias.astype(np.float64)) for layer in chain.layers]
    divisor, shift = AFFINE[normalization]
    weight, bias = layers[0].weight, layers[0].bias
    first = Dense(weight * divisor, bias) if kind == "uint8" else Dense(weight, bias + shift * weight.sum(axis=0))
    return (first, *layers[1:])


def hidden_activations(layers: Sequence[Dense], images: Images, divisor: float) -> list[NDArray[np.float32]]:
    """Return the outputs of every ReLU for uint8 images (N, 28, 28): float32 (N, width) each, computed in float32."""
    values = images.reshape(len(images), -1).astype(np.float32) / np.float32(divisor)
    found = []
    for layer in layers[:-1]:
        values = np.maximum(values @ layer.weight.astype(np.float32) + layer.bias.astype(np.float32), 0)
        found.append(values)
    return found
