"""Shapes of all tensors of a graph for one image, by onnx's shape inference on a copy without the weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.inspection.products import STANDARD_DOMAINS, Shape

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

FEW = 4096
"""Elements of a constant that may be a shape, axes or indices: its values are kept."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor: its type as TensorProto numbers them (0 where it is not known), and its shape."""

    kind: int
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class InferredGraph:
    """A graph without functions, in which values have types and shapes as far as they follow from its inputs.

    Attributes:
        constants: names of its constants; the large ones are inputs of `graph`.
    """

    graph: GraphProto
    constants: frozenset[str]


def infer_shapes(model: ModelProto, folder: Path) -> InferredGraph:
    """Infer shapes for one image: a free first axis of an input, the batch, is taken as 1.

    Args:
        model: is changed; its large weights are removed, as only their shapes count.
        folder: of its external data.
    """
    from onnx import inliner, shape_inference

    _fix_batch(model.graph)
    constants = _strip(model.graph, folder)
    # Where onnx refuses a file, as for an undeclared domain, what needs its shapes stays unknown.
    with contextlib.suppress(RuntimeError, ValueError, shape_inference.InferenceError):
        if model.functions:
            model = inliner.inline_local_functions(model)
        _drop_stated_shapes(model.graph)
        model = shape_inference.infer_shapes(model, data_prop=True)
    return InferredGraph(graph=model.graph, constants=constants)


def known_values(graph: GraphProto) -> dict[str, Value]:
    """Return inputs, outputs, constants and values of a graph by name, without those of its subgraphs."""
    found = {value.name: _value(value.type) for value in (*graph.value_info, *graph.output, *graph.input)}
    for tensor in graph.initializer:
        found[tensor.name] = Value(kind=tensor.data_type, shape=tuple(tensor.dims))
    return found


def _value(kind: TypeProto) -> Value:
    tensor = kind.sparse_tensor_type if kind.HasField("sparse_tensor_type") else kind.tensor_type
    known = tuple(
        side.dim_value if side.HasField("dim_value") and side.dim_value >= 0 else None for side in tensor.shape.dim
    )
    return Value(kind=tensor.elem_type, shape=known if tensor.HasField("shape") else None)


def _fix_batch(graph: GraphProto) -> None:
    """Set the free first axis of each input to 1, and every other axis of that name too."""
    constants = {tensor.name for tensor in graph.initializer}
    names = set()
    for value in graph.input:
        sides = value.type.tensor_type.shape.dim
        if value.name not in constants and sides and not sides[0].HasField("dim_value"):
            names.add(sides[0].dim_param)
            sides[0].dim_value = 1
    for value in (*graph.input, *graph.value_info):
        for side in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if side.dim_param and side.dim_param in names:
                side.dim_value = 1


def _strip(graph: GraphProto, folder: Path) -> frozenset[str]:
    """Turn large and sparse constants into inputs, read small external ones, and return the names of all constants."""
    from onnx import external_data_helper, helper

    stated = {value.name for value in graph.input}
    constants = {tensor.name for tensor in graph.initializer}
    large = [(tensor.name, tensor, tuple(tensor.dims)) for tensor in graph.initializer if prod(tensor.dims) > FEW]
    large += [(sparse.values.name, sparse.values, tuple(sparse.dims)) for sparse in graph.sparse_initializer]
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= FEW]
    for tensor in small:
        if external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    nodes = []
    for node in graph.node:
        tensor = _large_constant(node)
        if tensor is None:
            nodes.append(node)
        else:
            large.append((node.output[0], tensor, tuple(tensor.dims)))
    for name, tensor, sides in large:
        if name not in stated:
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, sides))
    del graph.node[:], graph.initializer[:], graph.sparse_initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(small)
    return frozenset(constants.union(name for name, _, _ in large))


def _large_constant(node: NodeProto) -> TensorProto | None:
    """Return the value of a Constant node that is too large to be a shape; None for any other node."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS or not node.output:
        return None
    found = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    return found if found is not None and prod(found.dims) > FEW else None


def _drop_stated_shapes(graph: GraphProto) -> None:
    """Drop shapes that the file states of values that inference finds itself: they may be of another batch."""
    foreign = {name for node in graph.node if node.domain not in STANDARD_DOMAINS for name in node.output}
    kept = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for value in graph.output:
        if value.name not in foreign and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
