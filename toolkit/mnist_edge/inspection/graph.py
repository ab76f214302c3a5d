"""Layers, parameters and multiplications of a parsed ONNX model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.inspection.products import (
    HELD,
    RULES,
    STANDARD_DOMAINS,
    WEIGHTS,
    Shape,
    multiplications,
    operator_name,
    size,
)
from mnist_edge.inspection.shapes import Value, infer_shapes, known_values
from mnist_edge.records.inspection import InspectReport, LayerInfo, TensorInfo

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto

FLOATS = (1, 10, 11, 16, *range(17, 21), 23)
"""Types of weights, as TensorProto numbers them: floats of 4 to 64 bits. Integers are shapes and indices, unless an
operator of `products.WEIGHTS` takes them."""
SETTINGS = {"DequantizeLinear", "DynamicQuantizeLinear", "Pad", "QuantizeLinear", "Resize", "Upsample"}
"""Operators whose constants are no parameters, but scales, zero points and fill values."""
NAMES = {"float": "float32", "double": "float64", "undefined": "unknown"}
"""What TensorProto's types are called here, where that is not its own name."""


def inspect_model(model: ModelProto, path: Path) -> InspectReport:
    """Return what a model holds.

    Args:
        model: parsed, without its external data; is changed.
        path: of its file.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in constants)
    outputs = tuple(_tensor(value) for value in model.graph.output)
    operators = Counter(operator_name(node) for node in _all_nodes(model))
    opsets = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inferred = infer_shapes(model, path.parent)
    found = _Walk(constants=set(inferred.constants))
    found.enter(inferred.graph)
    return InspectReport(
        model=path,
        inputs=inputs,
        outputs=outputs,
        layers=tuple(found.layers),
        parameters=_total(found.weights.values()),
        multiplications=_total(layer.multiplications for layer in found.layers),
        opset=opsets[0] if opsets else None,
        operators=dict(sorted(operators.items())),
        metadata=metadata,
    )


def _total(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of the graph, its subgraphs and its functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(inner for graph in _subgraphs(node) for inner in graph.node)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def _tensor(value: ValueInfoProto) -> TensorInfo:
    tensor = value.type.sparse_tensor_type if value.type.HasField("sparse_tensor_type") else value.type.tensor_type
    shape = tuple(_side(side) for side in tensor.shape.dim) if tensor.HasField("shape") else None
    return TensorInfo(name=value.name, dtype=_type_name(value.type), shape=shape)


def _side(side: TensorShapeProto.Dimension) -> int | str | None:
    if side.HasField("dim_value"):
        return int(side.dim_value)
    return str(side.dim_param) or None


def _type_name(kind: TypeProto) -> str:
    form = kind.WhichOneof("value")
    if form == "sequence_type":
        return f"seq({_type_name(kind.sequence_type.elem_type)})"
    if form == "optional_type":
        return f"optional({_type_name(kind.optional_type.elem_type)})"
    if form == "map_type":
        return f"map({_element(kind.map_type.key_type)}, {_type_name(kind.map_type.value_type)})"
    if form == "sparse_tensor_type":
        return f"sparse({_element(kind.sparse_tensor_type.elem_type)})"
    return _element(kind.tensor_type.elem_type)


def _element(number: int) -> str:
    """Return numpy's name of a type of TensorProto, where numpy has one."""
    from onnx import TensorProto

    if number not in TensorProto.DataType.values():
        return f"type {number}"
    name = str(TensorProto.DataType.Name(number)).lower()
    return NAMES.get(name, name)


@dataclass
class _Walk:
    """The layers so far.

    Attributes:
        constants: names of constants, and of what is computed from constants alone.
        values: of the graphs that were entered; a name is unique in a graph and its subgraphs.
        weights: number of elements of each weight by its name, so that a shared one counts once.
    """

    constants: set[str]
    values: dict[str, Value] = field(default_factory=dict)
    weights: dict[str, int | None] = field(default_factory=dict)
    layers: list[LayerInfo] = field(default_factory=list)

    def enter(self, graph: GraphProto, *, repeated: bool = False) -> None:
        """Add the layers of a graph; `repeated` for a subgraph, as it may run any number of times."""
        self.values |= known_values(graph)
        self.constants.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            operands = [name for name in node.input if name]
            subgraphs = list(_subgraphs(node))
            for subgraph in subgraphs:
                self.enter(subgraph, repeated=True)
            if node.op_type == "Constant" or (operands and not subgraphs and self.constants.issuperset(operands)):
                self.constants.update(node.output)
            else:
                self._add(node, repeated=repeated, runs_others=bool(subgraphs))

    def _add(self, node: NodeProto, *, repeated: bool, runs_others: bool) -> None:
        count = 0 if runs_others else multiplications(node, self._shape)
        product = operator_name(node) in RULES or count is None
        weights = self._weights(node)
        if not product and not weights:
            return
        self.weights |= weights
        self.layers.append(
            LayerInfo(
                name=node.name or next(filter(None, node.output), ""),
                operator=operator_name(node),
                shape=self._shape(node.output[0]) if node.output else None,
                parameters=_total(weights.values()),
                multiplications=None if repeated and product else count,
            )
        )

    def _shape(self, name: str) -> Shape:
        return self.values[name].shape if name in self.values else None

    def _weights(self, node: NodeProto) -> dict[str, int | None]:
        """Return the number of elements of each weight that a node takes or holds, by its name."""
        operator = operator_name(node)
        if operator in HELD:
            first = next(filter(None, node.output), "")
            return {f"{first}.{key}": count for key, count in HELD[operator](node).items() if count}
        if operator in SETTINGS:
            return {}
        found: dict[str, int | None] = {}
        for index, name in enumerate(node.input):
            value = self.values.get(name)
            if name not in self.constants or index not in WEIGHTS.get(operator, (index,)):
                continue
            # A number without an axis is a setting, such as the limit of a Clip.
            if operator in WEIGHTS or (value is not None and value.kind in FLOATS and value.shape != ()):
                found[name] = None if value is None else size(value.shape)
        return found
