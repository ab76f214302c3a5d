"""A student as the smallest ONNX file that stock onnxruntime folds into plain float32 convolutions.

Weights stay packed in the file. Everything that unpacks them depends on constants alone, so onnxruntime runs it once, when
the session is created; DequantizeLinear would run on every call (onnxruntime 1.32). Two forms:

- From opset 21 on, INT4 initializers (INT2 from 25 on), each followed by a Cast.
- Before that, all weights of a width in one uint8 initializer, taken apart by BitShift and BitwiseAnd.

Names have one letter, and all scales, and all biases, share one initializer and one Cast: a name or a node costs as much
as a row of weights.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from mnist_edge.contract import BATCH_AXIS, CLASSES, INPUT_NAMES, OUTPUT_NAME, SIDE, Precision
from mnist_edge.training.qat import QuantisedLayer, QuantisedNetwork

INTEGERS: dict[int, tuple[int, int]] = {8: (TensorProto.INT8, 1), 4: (TensorProto.INT4, 21), 2: (TensorProto.INT2, 25)}
"""By bits: the type of an initializer, and the first opset whose Cast takes it."""


def _names() -> Iterator[str]:
    """Yield short names that no graph has twice: letters first."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))


@dataclass
class Graph:
    """Nodes and initializers in the making; each function returns the name of what it adds."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    names: Iterator[str] = field(default_factory=_names)

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = output or next(self.names)
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def split(self, values: str, sizes: Sequence[int]) -> list[str]:
        """Split a tensor along its first axis."""
        outputs = [next(self.names) for _ in sizes]
        self.nodes.append(helper.make_node("Split", [values, self.shape(sizes)], outputs))
        return outputs

    def floats(self, values: str) -> str:
        """Cast a tensor to float32."""
        return self.node("Cast", values, to=TensorProto.FLOAT)

    def constant(self, kind: int, shape: Sequence[int], data: bytes) -> str:
        """Add an initializer of little-endian bytes."""
        name = next(self.names)
        self.initializers.append(TensorProto(name=name, data_type=kind, dims=shape, raw_data=data))
        return name

    def shape(self, values: Sequence[int]) -> str:
        """Return an int64 initializer, one byte for each small value; equal ones are shared."""
        for known in self.initializers:
            if known.data_type == TensorProto.INT64 and list(known.int64_data) == list(values):
                return str(known.name)
        name = next(self.names)
        self.initializers.append(
            TensorProto(name=name, data_type=TensorProto.INT64, dims=[len(values)], int64_data=values)
        )
        return name


def student_precision(network: QuantisedNetwork) -> Precision:
    """Return the coarsest number format of a student's weights."""
    names: dict[int, Precision] = {8: "int8", 4: "int4", 2: "int2"}
    return names[min(layer.bits for layer in network.layers)]


def encoding(network: QuantisedNetwork, opset: int) -> str:
    """Return how the weights are stored, in one phrase."""
    stored = {
        f"INT{bits} initializers" if opset >= INTEGERS[bits][1] else f"{bits} bits, packed into uint8"
        for bits in (layer.bits for layer in network.layers)
    }
    return " and ".join(sorted(stored))


def student_graph(network: QuantisedNetwork, opset: int) -> bytes:
    """Return the ONNX file of a student: `image` uint8 (batch, 28, 28) to `logits` float32 (batch, 10).

    Args:
        network: as it is deployed.
        opset: ONNX operator set, at least 18.
    """
    graph = Graph()
    weights, biases = _weights(graph, network.layers, opset)
    values = graph.node("Unsqueeze", graph.floats(INPUT_NAMES["uint8"]), graph.shape([1]))  # (n, 1, 28, 28)
    for layer, weight, bias in zip(network.layers[:-1], weights, biases, strict=False):
        strides: dict[str, Any] = {"strides": [layer.stride] * 2} if layer.stride > 1 else {}
        values = graph.node("Relu", graph.node("Conv", values, weight, bias, **strides))
    # The last layer covers the whole feature map. As a Conv it takes 32 bytes less, and `fast` a third more time at batch 64.
    features, matrix = graph.node("Flatten", values), graph.node("Flatten", weights[-1])
    graph.node("Gemm", features, matrix, biases[-1], output=OUTPUT_NAME, transB=1)
    image = helper.make_tensor_value_info(INPUT_NAMES["uint8"], TensorProto.UINT8, [BATCH_AXIS, SIDE, SIDE])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [BATCH_AXIS, CLASSES])
    operators = onnx.OperatorSetIdProto(version=opset)
    proto = ModelProto(
        ir_version=helper.find_min_ir_version_for([operators]),
        opset_import=[operators],
        graph=helper.make_graph(graph.nodes, "s", [image], [logits], graph.initializers),
    )
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _weights(graph: Graph, layers: Sequence[QuantisedLayer], opset: int) -> tuple[list[str], list[str]]:
    """Add the weights (outputs, inputs, kernel, kernel) and biases (outputs,) of every layer, float32."""
    rows = [len(layer.bias) for layer in layers]
    integers = _integers(graph, layers, opset)
    all_scales = np.concatenate([layer.scale for layer in layers])
    all_biases = np.concatenate([layer.bias for layer in layers])
    half = TensorProto.FLOAT16
    # Four axes, so that a scale applies to all weights of its row.
    scales = graph.split(graph.floats(graph.constant(half, [sum(rows), 1, 1, 1], all_scales.tobytes())), rows)
    biases = graph.split(graph.floats(graph.constant(half, [sum(rows)], all_biases.tobytes())), rows)
    return [graph.node("Mul", *pair) for pair in zip(integers, scales, strict=True)], biases


def _integers(graph: Graph, layers: Sequence[QuantisedLayer], opset: int) -> list[str]:
    """Add the integers of every layer as float32 (outputs, inputs, kernel, kernel)."""
    names: dict[int, str] = {}
    packed: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        kind, first = INTEGERS[layer.bits]
        if opset >= first:
            data = pack(layer.integers, layer.bits)
            names[index] = graph.floats(graph.constant(kind, layer.integers.shape, data))
        else:
            packed.setdefault(layer.bits, []).append(index)
    for bits, indices in packed.items():
        names |= zip(indices, _unpacked(graph, [layers[index].integers for index in indices], bits), strict=True)
    return [names[index] for index in range(len(layers))]


def _unpacked(graph: Graph, layers: Sequence[NDArray[np.int8]], bits: int) -> list[str]:
    """Add the integers of some layers in one uint8 initializer, and the nodes that take it apart."""
    per_byte = 8 // bits
    offset = 2 ** (bits - 1)  # stored as unsigned integers: the bit operators know no others
    data = b"".join(pack(integers + offset, bits) for integers in layers)
    shifts = graph.constant(TensorProto.UINT8, [per_byte], bytes(range(0, 8, bits)))
    mask = graph.constant(TensorProto.UINT8, [], bytes([2**bits - 1]))
    zero = graph.constant(TensorProto.FLOAT, [], np.float32(offset).tobytes())
    parts = graph.node(  # (bytes, 1) and (per_byte,) to (bytes, per_byte), in the order of the weights
        "BitShift", graph.constant(TensorProto.UINT8, [len(data), 1], data), shifts, direction="RIGHT"
    )
    values = graph.node("Sub", graph.floats(graph.node("BitwiseAnd", parts, mask)), zero)
    by_layer = graph.split(values, [integers.size // per_byte for integers in layers])
    return [
        graph.node("Reshape", part, graph.shape(integers.shape))
        for part, integers in zip(by_layer, layers, strict=True)
    ]


def pack(integers: NDArray[np.int8], bits: int) -> bytes:
    """Pack integers into bytes, the first into the lowest bits, as ONNX stores INT4 and INT2.

    Args:
        integers: as many as fill whole bytes; only their lowest `bits` bits count.
        bits: 2, 4 or 8.
    """
    fields = integers.reshape(-1, 8 // bits).astype(np.uint8) & (2**bits - 1)
    shifted = fields << np.arange(0, 8, bits, dtype=np.uint8)
    data: bytes = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8).tobytes()
    return data
