"""Broken exports of a student: what a packer, a converter or a copy gets wrong, and the layer that shows it first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from mnist_edge.exporting.variants import student_graph
from mnist_edge.training.qat import QuantisedLayer, QuantisedNetwork

OPSET = 18
"""Weights packed into uint8."""


@dataclass(frozen=True)
class StudentFault:
    """A fault and the layer, from 1, that `verify` names; None where the file itself is refused."""

    name: str
    plant: Callable[[QuantisedNetwork], bytes]
    layer: int | None


def _packed(change: Callable[[bytearray], bytes]) -> Callable[[QuantisedNetwork], bytes]:
    """A fault in the bytes that hold all weights."""

    def plant(network: QuantisedNetwork) -> bytes:
        proto = onnx.load_model_from_string(student_graph.student_graph(network, OPSET))
        weights = max(proto.graph.initializer, key=lambda value: len(value.raw_data))
        weights.raw_data = change(bytearray(weights.raw_data))
        broken: bytes = proto.SerializeToString()
        return broken

    return plant


def _layer(number: int, change: Callable[[QuantisedLayer], QuantisedLayer]) -> Callable[[QuantisedNetwork], bytes]:
    """A fault in one layer before it is packed."""

    def plant(network: QuantisedNetwork) -> bytes:
        layers = list(network.layers)
        layers[number - 1] = change(layers[number - 1])
        return student_graph.student_graph(dataclasses.replace(network, layers=tuple(layers)), OPSET)

    return plant


def swapped_nibbles(data: bytearray) -> bytes:
    """High nibble first, as some packers have it."""
    return bytes((byte & 15) << 4 | byte >> 4 for byte in data)


def _scaled(layer: QuantisedLayer) -> QuantisedLayer:
    return dataclasses.replace(layer, scale=(layer.scale * np.float16(1.05)).astype(np.float16))


def _swapped_windows(layer: QuantisedLayer) -> QuantisedLayer:
    """Pixels of the feature map in another order: rows and columns of every kernel exchanged."""
    return dataclasses.replace(layer, integers=np.ascontiguousarray(layer.integers.transpose(0, 1, 3, 2)))


def _swapped_channels(layer: QuantisedLayer) -> QuantisedLayer:
    """Two input channels exchanged, as where features come out channel-last."""
    integers = layer.integers.copy()
    integers[:, [0, 1]] = integers[:, [1, 0]]
    return dataclasses.replace(layer, integers=integers)


def _unsigned(layer: QuantisedLayer) -> QuantisedLayer:
    """An offset that is subtracted twice."""
    return dataclasses.replace(layer, integers=(layer.integers - 8).astype(np.int8))


def _biases_of_the_next_row(layer: QuantisedLayer) -> QuantisedLayer:
    return dataclasses.replace(layer, bias=np.roll(layer.bias, 1))


def _truncated(network: QuantisedNetwork) -> bytes:
    return student_graph.student_graph(network, OPSET)[:-200]


FAULTS: tuple[StudentFault, ...] = (
    StudentFault("nibbles swapped", _packed(swapped_nibbles), 1),
    StudentFault("weights shifted by a nibble", _packed(lambda data: bytes(data[1:] + data[:1])), 1),
    StudentFault("scale wrong by 5 %", _layer(2, _scaled), 2),
    StudentFault("windows transposed", _layer(2, _swapped_windows), 2),
    StudentFault("channels swapped", _layer(4, _swapped_channels), 4),
    StudentFault("zero point wrong", _layer(3, _unsigned), 3),
    StudentFault("biases of another row", _layer(3, _biases_of_the_next_row), 3),
    StudentFault("table truncated", _packed(lambda data: bytes(data[:-8])), None),
    StudentFault("file truncated", _truncated, None),
)
