"""The number format that an ONNX graph computes in, read from its operators and initializers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.contract import Precision
from mnist_edge.verification.intermediates import PRODUCTS, load_model

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

QUANTISED = ("Quantize", "DynamicQuantize", "QLinear", "QGemm")
"""Prefixes of operators that quantise activations to 8 bits."""
BITS: dict[str, int] = {"INT8": 8, "UINT8": 8, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
"""Bits of the integer types that weights are stored in. int32 and int64 are biases, shapes and axes."""
PACKED: dict[str, int] = {"UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64}
"""Bits of the types that hold several weights each, taken apart by BitShift and BitwiseAnd."""
PACKED_PRODUCTS = {"MatMulNBits": 4, "MatMulBnb4": 4}
"""onnxruntime's products with packed weights, and their bits where the attribute `bits` is missing."""


def precision_of(model: Path) -> Precision:
    """Return the coarsest format of a model's activations and weights: only those that reach its output count.

    A quantiser or an integer constant whose result no matrix product takes changes no output.

    Raises:
        UnavailableError: there is no such file.
        BadFileError: no ONNX model.
        ModuleNotFoundError: the package onnx is missing.
    """
    from onnx import TensorProto

    graph = load_model(model).graph
    reaching_output = _upstream({value.name for value in graph.output}, graph)
    from_input = {value.name for value in graph.input} - {value.name for value in graph.initializer}
    data_nodes = []
    for node in graph.node:  # in the order in which they run
        if from_input.intersection(node.input):
            from_input.update(filter(None, node.output))  # an output that is not used has no name
            data_nodes.append(node)
    products = [node for node in data_nodes if node.op_type in PRODUCTS and reaching_output.intersection(node.output)]
    needed = _upstream({name for node in products for name in node.output}, graph)
    bits = [bits for node in products for bits in _weight_bits(node, from_input, graph)]
    if any(node.op_type.startswith(QUANTISED) and needed.intersection(node.output) for node in data_nodes):
        bits.append(8)
    if bits:
        return "int2" if min(bits) <= 2 else "int4" if min(bits) <= 4 else "int8"
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    half_constants = {value.name for value in _constants(graph) if value.data_type in halves}
    return "fp16" if half_constants & needed else "fp32"


def _upstream(names: set[str], graph: GraphProto) -> set[str]:
    """Return the tensors named and all that they are computed from."""
    found = set(names)
    for node in reversed(graph.node):
        if found.intersection(node.output):
            found.update(filter(None, node.input))
    return found


def _constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield initializers, and the tensors of Constant nodes under the names of their outputs."""
    from onnx import TensorProto

    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                value = TensorProto()
                value.CopyFrom(attribute.t)
                value.name = node.output[0]
                yield value


def _weight_bits(product: NodeProto, from_input: set[str], graph: GraphProto) -> Iterator[int]:
    """Yield the bits of the integers that the constant inputs of a product are computed from."""
    from onnx import TensorProto

    if product.op_type in PACKED_PRODUCTS:
        stated = [int(attribute.i) for attribute in product.attribute if attribute.name == "bits"]
        yield stated[0] if stated else PACKED_PRODUCTS[product.op_type]
        return
    upstream = _upstream({name for name in product.input if name and name not in from_input}, graph)
    nodes = [node for node in graph.node if upstream.intersection(node.output)]
    constants = {value.name: value for value in _constants(graph) if value.name in upstream}
    bitwise = [node for node in nodes if node.op_type in {"BitShift", "BitwiseAnd"}]
    if any(node.op_type.startswith(QUANTISED) for node in nodes):  # quantised by the graph itself
        yield 8
    for value in constants.values():
        kind = TensorProto.DataType.Name(value.data_type)
        if bitwise and kind in PACKED:
            yield min(_field_bits(bitwise, constants, PACKED[kind]), PACKED[kind])
        elif kind in BITS:
            yield BITS[kind]


def _field_bits(bitwise: list[NodeProto], constants: dict[str, TensorProto], width: int) -> int:
    """Return the width of the narrowest field that shifts and masks take out of packed integers of `width` bits."""
    from onnx import numpy_helper

    fields = [width]
    for node in bitwise:
        for name in node.input[1:] if node.op_type == "BitShift" else node.input:
            value = constants.get(name)
            if value is None or int(np.prod(value.dims, dtype=object)) > width:  # the weights themselves
                continue
            largest = int(numpy_helper.to_array(value).max(initial=0))
            fields.append(largest.bit_length() if node.op_type == "BitwiseAnd" else width - largest)
    return max(1, min(fields))
