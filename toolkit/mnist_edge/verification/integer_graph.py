"""An integer network as an ONNX file: written for an export, and read back from the very file that is deployed.

Two forms. Dense layers of 8 bits are dequantisers, Gemm and quantiser, which onnxruntime fuses into one integer product a
layer (QGemm) and any other runtime computes in floats. All others are float products of integers with a rounding after
them. Scales are powers of two in both, so floats are exact.

Reading takes the integers out, writes the file again and compares: whatever else a graph may hold is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import INPUT_NAMES, OUTPUT_NAME, PIXELS, SIDE
from mnist_edge.errors import BadFileError
from mnist_edge.integer_network import LARGEST, MAX_SHIFT, IntegerLayer, IntegerNetwork
from mnist_edge.onnx_graph import FLOAT, FLOAT16, INT4, INT8, INT32, UINT8, Graph
from mnist_edge.verification.intermediates import load_model

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def integer_graph(network: IntegerNetwork, opset: int) -> ModelProto:
    """Return the ONNX model of a network that `check_network` passes.

    Args:
        network: dense in 8 bits, or convolutions and dense layers in 4 bits, which fill whole bytes.
        opset: ONNX operator set, at least 18.
    """
    graph = Graph()
    if _quantised(network):
        _write_quantised(graph, network)
    else:
        _write_floats(graph, network, opset)
    return graph.model(opset)


def _quantised(network: IntegerNetwork) -> bool:
    return all(layer.dense and layer.bits == 8 for layer in network.layers)


def _write_quantised(graph: Graph, network: IntegerNetwork) -> None:
    """Write dequantisers, Gemm and quantiser for each layer.

    The image has scale 1 and an activation 2^shift. A weight has the inverse, so that the Gemm returns `t` of
    IntegerLayer; in the last layer it has 2^-shift as well, so that it returns the logits.
    """
    byte, signed, wide = (graph.constant(kind, [], bytes(size)) for kind, size in ((UINT8, 1), (INT8, 1), (INT32, 4)))
    scale = _power(graph, 0)
    shape = graph.shape([-1, PIXELS])
    values = graph.node("DequantizeLinear", graph.node("Reshape", INPUT_NAMES["uint8"], shape), scale, byte)
    before = 0  # the exponent of the activations' scale
    for layer in network.layers:
        last = layer is network.layers[-1]
        down = layer.shift if last else 0
        matrix = layer.weight[:, :, 0, 0].T  # (inputs, outputs)
        weight = graph.constant(INT8, matrix.shape, np.ascontiguousarray(matrix).tobytes())
        bias = graph.constant(INT32, layer.bias.shape, layer.bias.astype("<i4").tobytes())
        weight = graph.node("DequantizeLinear", weight, _power(graph, -before - down), signed)
        bias = graph.node("DequantizeLinear", bias, _power(graph, -down), wide)
        product = graph.node("Gemm", values, weight, bias, output=OUTPUT_NAME if last else "")
        if not last:
            before = layer.shift
            scale = _power(graph, before)
            quantised = graph.node("QuantizeLinear", graph.node("Relu", product), scale, byte)
            values = graph.node("DequantizeLinear", quantised, scale, byte)


def _power(graph: Graph, exponent: int) -> str:
    """Add a float32 power of two."""
    return graph.constant(FLOAT, [], np.float32(2.0**exponent).astype("<f4").tobytes())


def _write_floats(graph: Graph, network: IntegerNetwork, opset: int) -> None:
    """Write Conv or Gemm, Round and Clip for each layer; weights and biases are multiples of 2^-shift.

    The multiplier and the shift of each row are one float16, the bias is float32: both are exact.
    """
    layers = network.layers
    rows = [len(layer.bias) for layer in layers]
    integers = graph.integers([(layer.weight, layer.bits) for layer in layers], opset)
    all_scales = np.concatenate([np.ldexp(layer.multiplier.astype(np.float64), -layer.shift) for layer in layers])
    all_biases = np.concatenate([np.ldexp(layer.bias.astype(np.float64), -layer.shift) for layer in layers])
    scales = graph.constant(FLOAT16, [sum(rows), 1, 1, 1], all_scales.astype("<f2").tobytes())
    biases = graph.split(graph.constant(FLOAT, [sum(rows)], all_biases.astype("<f4").tobytes()), rows)
    weights = [graph.node("Mul", *pair) for pair in zip(integers, graph.split(graph.floats(scales), rows), strict=True)]
    limits = [graph.constant(FLOAT, [], np.float32(limit).astype("<f4").tobytes()) for limit in (0, LARGEST)]
    values = graph.floats(INPUT_NAMES["uint8"])
    if layers[0].size > 1:
        values = graph.node("Unsqueeze", values, graph.shape([1]))  # (n, 1, 28, 28)
    flat = False
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        last = layer is layers[-1]
        output = OUTPUT_NAME if last else ""
        if layer.weight.shape[2] == layer.size:  # over the whole map: a matrix product
            features = values if flat else graph.node("Flatten", values)
            flat = True
            values = graph.node("Gemm", features, graph.node("Flatten", weight), bias, output=output, transB=1)
        else:
            strides: dict[str, Any] = {"strides": [layer.stride] * 2} if layer.stride > 1 else {}
            values = graph.node("Conv", values, weight, bias, output=output, **strides)
        if not last:
            values = graph.node("Clip", graph.node("Round", values), *limits)


def read_integer_network(model: Path | bytes) -> IntegerNetwork:
    """Return the integer network that an ONNX file computes.

    A shift is the least one: multipliers and biases that all are even would be those of a network with half of each.

    Args:
        model: path or content of a file whose graph `integer_graph` wrote.

    Raises:
        BadFileError: its graph is another one.
        UnavailableError: there is no such file.
        ModuleNotFoundError: the package onnx is missing.
    """
    found = load_model(model)
    name = str(model)[:200] if isinstance(model, Path) else "the model"
    try:
        network = IntegerNetwork(layers=tuple(_read(found.graph)))
        again = integer_graph(network, found.opset_import[0].version)
    except Exception as error:  # whatever a graph of another form leads to
        raise _not_integer(name) from error
    if (found.graph, list(found.opset_import)) != (again.graph, list(again.opset_import)) or found.functions:
        raise _not_integer(name)
    return network


def _not_integer(name: str) -> BadFileError:
    return BadFileError(
        f"{name} is not the graph of an integer network", hint="export a variant whose name ends in -exact"
    )


def _read(graph: GraphProto) -> Iterator[IntegerLayer]:
    constants = {value.name: value for value in graph.initializer}
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        yield from _read_quantised(graph, constants)
    else:
        yield from _read_floats(graph)


def _read_quantised(graph: GraphProto, constants: dict[str, TensorProto]) -> Iterator[IntegerLayer]:
    makers = {node.output[0]: node for node in graph.node}
    takers = {name: node for node in graph.node for name in node.input}
    for product in (node for node in graph.node if node.op_type == "Gemm"):
        weight, bias = (makers[name].input for name in product.input[1:])
        matrix = _array(constants[weight[0]], np.int8)
        relu = takers.get(product.output[0])
        # The scale of the quantiser after the ReLU, or that of the last bias.
        scale = constants[takers[relu.output[0]].input[1] if relu else bias[1]]
        yield IntegerLayer(
            weight=np.ascontiguousarray(matrix.T)[:, :, None, None],
            bits=8,
            multiplier=np.ones(matrix.shape[1], np.int32),
            bias=_array(constants[bias[0]], np.int32),
            shift=abs(int(np.log2(_array(scale, np.float32)))),
            stride=1,
            size=1,
        )


def _read_floats(graph: GraphProto) -> Iterator[IntegerLayer]:
    """Read the constants in the order in which `_write_floats` adds them."""
    products = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    weights = _read_integers(graph, len(products))
    scales = _array(next(value for value in graph.initializer if value.data_type == FLOAT16), np.float16).ravel()
    biases = _array(
        next(value for value in graph.initializer if value.data_type == FLOAT and len(value.dims)), np.float32
    )
    size = SIDE if products[0].op_type == "Conv" or weights[0].shape[2] > 1 else 1
    row = 0
    for product, weight in zip(products, weights, strict=True):
        rows = slice(row, row + len(weight))
        row = rows.stop
        scale, bias = scales[rows].astype(np.float64), biases[rows].astype(np.float64)
        shift = next(k for k in range(MAX_SHIFT + 1) if _whole(np.ldexp(scale, k)) and _whole(np.ldexp(bias, k)))
        stride = next((attribute.ints[0] for attribute in product.attribute if attribute.name == "strides"), 1)
        layer = IntegerLayer(
            weight=weight,
            bits=4,
            multiplier=np.ldexp(scale, shift).astype(np.int32),
            bias=np.ldexp(bias, shift).astype(np.int32),
            shift=shift,
            stride=stride,
            size=size,
        )
        yield layer
        size = layer.output_size


def _whole(values: NDArray[np.float64]) -> bool:
    """Whether all are integers that int32 holds."""
    return bool((np.abs(values) < 2**31).all() and (values == np.rint(values)).all())


def _read_integers(graph: GraphProto, count: int) -> list[NDArray[np.int8]]:
    """Return the weights of every layer, from INT4 initializers or from all of them packed into one of uint8."""
    stored = [value for value in graph.initializer if value.data_type == INT4]
    shapes: Sequence[Sequence[int]] = [list(value.dims) for value in stored]
    data = [value.raw_data for value in stored]
    if not stored:
        constants = {value.name: value for value in graph.initializer}
        shapes = [list(constants[node.input[1]].int64_data) for node in graph.node if node.op_type == "Reshape"]
        packed = next(value for value in graph.initializer if value.data_type == UINT8 and len(value.dims) == 2)
        ends = np.cumsum([int(np.prod(shape)) // 2 for shape in shapes])
        data = [packed.raw_data[end - int(np.prod(shape)) // 2 : end] for shape, end in zip(shapes, ends, strict=True)]
    if len(shapes) != count:
        raise ValueError
    signed = bool(stored)
    return [_nibbles(part, signed=signed).reshape(shape) for part, shape in zip(data, shapes, strict=True)]


def _nibbles(data: bytes, *, signed: bool) -> NDArray[np.int8]:
    """Return the integers of 4 bits in bytes, the lower one first; with an offset of 8 where they are not signed."""
    fields = np.frombuffer(data, np.uint8)[:, None] >> np.array([0, 4], np.uint8) & 15
    values = fields.astype(np.int8).ravel()
    return (values + 8) % 16 - 8 if signed else values - 8


def _array(value: TensorProto, dtype: type[np.generic]) -> NDArray[Any]:
    """Return an initializer that is stored as raw little-endian bytes."""
    found = np.frombuffer(value.raw_data, np.dtype(dtype).newbyteorder("<"))
    return found.reshape(list(value.dims)).astype(dtype)
