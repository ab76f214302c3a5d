"""The stages inside an ONNX classifier: what each matrix product adds up to, and what the next one is fed.

The stages are found by the shape of the graph, not by names, so that an edited, quantised or foreign
file can be held against the network it claims to be.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization, Precision
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import Images
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Floats = NDArray[np.float64]

PRODUCTS = {"Gemm", "MatMul", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm"}
AFTER = {"Add", "Mul", "Cast", "Identity", "Reshape", "Flatten"}
"""What may follow a product before its sum is whole: bias, rescaling, a change of form. A quantiser ends
it: with a zero point of 0 it is a ReLU too."""
QUANTISED = ("Quantize", "DynamicQuantize", "QLinear", "QGemm")
"""How the names of operators begin that make a model int8."""
BEFORE = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""What stands between an activation and a product that takes integers."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One matrix product: the names of the tensors around it, and its weights where the file holds them as floats.

    Attributes:
        fed: the tensor that it is fed.
        sums: the tensor that holds its result, bias added.
        weight: float64 (fan_in, fan_out), so that `sums = fed @ weight + bias`; None for a
            convolution, or where the weights are not stored as floats.
    """

    fed: str
    sums: str
    weight: Floats | None


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Values of every stage for N images, float64 (N, units).

    `fed[k]` and `sums[k]` are of layer k, input side first; `output` is what the graph answers, and
    `output_name` that tensor. None stands for a stage that the graph holds as quantised integers.
    """

    layers: tuple[Layer, ...]
    fed: tuple[Floats | None, ...]
    sums: tuple[Floats | None, ...]
    output: Floats | None
    output_name: str


def run_stages(model: Path | bytes, images: Images, normalization: Normalization | None = None) -> Stages:
    """Run images (N, 28, 28) through a model on the CPU and keep every stage.

    Raises:
        BadFileError: no ONNX model, or one that onnxruntime refuses.
        ModuleNotFoundError: the package onnx is missing.
    """
    proto = _load(model)
    if not proto.graph.output:
        raise RefusedModelError(f"{str(model)[:200]} has no output", hint="export it again")
    layers = find_layers(proto)
    with_output = {value.name for value in proto.graph.output}
    output = proto.graph.output[0].name
    names = list(dict.fromkeys([name for layer in layers for name in (layer.fed, layer.sums)] + [output]))
    proto.graph.output.extend(_untyped(name) for name in names if name not in with_output)
    classifier = open_classifier(proto.SerializeToString(), name=str(model)[:200], normalization=normalization)
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for feed, count in classifier.batches(classifier.prepare(images)):
        for name, value in zip(names, classifier.run_for(names, feed), strict=True):
            found[name].append(value[:count])
    values = {name: _floats(np.concatenate(parts), len(images)) for name, parts in found.items()}
    return Stages(
        layers=layers,
        fed=tuple(values[layer.fed] for layer in layers),
        sums=tuple(values[layer.sums] for layer in layers),
        output=values[output],
        output_name=output,
    )


def _floats(values: NDArray[Any], count: int) -> Floats | None:
    return values.reshape(count, -1).astype(np.float64) if values.dtype.kind == "f" else None


def find_layers(proto: ModelProto) -> tuple[Layer, ...]:
    """Return the matrix products of a graph in the order in which they run."""
    graph = proto.graph
    users: dict[str, list[NodeProto]] = defaultdict(list)
    makers: dict[str, NodeProto] = {}
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
        for name in node.output:
            makers[name] = node
    constants = {value.name for value in graph.initializer}
    return tuple(
        Layer(
            fed=_walk_back(_data_input(node, constants), makers),
            sums=_walk_on(node.output[0], users),
            weight=_weight(node, graph),
        )
        for node in graph.node
        if node.op_type in PRODUCTS
    )


def precision_of(model: Path) -> Precision:
    """Read from its graph what a model computes in: only what lies between the input and a product counts.

    A quantiser or a float16 constant beside that way, or one whose result nobody takes, changes no answer.

    Raises:
        UnavailableError: there is no such file.
        BadFileError: no ONNX model.
    """
    from onnx import TensorProto

    graph = _load(model).graph
    answering = _behind({value.name for value in graph.output}, graph)
    moved = {value.name for value in graph.input} - {value.name for value in graph.initializer}
    moving = []
    for node in graph.node:  # in the order in which they run
        if moved.intersection(node.input):
            moved.update(filter(None, node.output))  # an output that is not asked for has no name
            moving.append(node)
    products = [node for node in moving if node.op_type in PRODUCTS and answering.intersection(node.output)]
    needed = _behind({name for node in products for name in node.output}, graph)
    if any(node.op_type.startswith(QUANTISED) and needed.intersection(node.output) for node in moving):
        return "int8"
    halves = {value.name for value in graph.initializer if value.data_type == TensorProto.FLOAT16}
    return "fp16" if halves & needed else "fp32"


def _behind(names: set[str], graph: GraphProto) -> set[str]:
    """The tensors named and all that they are computed from."""
    found = set(names)
    for node in reversed(graph.node):
        if found.intersection(node.output):
            found.update(filter(None, node.input))
    return found


def _data_input(node: NodeProto, constants: set[str]) -> str:
    return str(node.input[1 if node.input[0] in constants and len(node.input) > 1 else 0])


def _walk_back(name: str, makers: dict[str, NodeProto]) -> str:
    while name in makers and makers[name].op_type in BEFORE:
        name = makers[name].input[0]
    return name


def _walk_on(name: str, users: dict[str, list[NodeProto]]) -> str:
    while len(users[name]) == 1 and users[name][0].op_type in AFTER:
        name = users[name][0].output[0]
    return name


def _weight(node: NodeProto, graph: GraphProto) -> Floats | None:
    from onnx import TensorProto, numpy_helper

    if node.op_type not in {"Gemm", "MatMul"}:
        return None
    stored = next((value for value in graph.initializer if value.name == node.input[1]), None)
    if stored is None or stored.data_type not in {TensorProto.FLOAT, TensorProto.FLOAT16} or len(stored.dims) != 2:
        return None
    weight = numpy_helper.to_array(stored).astype(np.float64)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return np.ascontiguousarray(weight.T if transposed else weight)


def _load(model: Path | bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, Path) and not model.is_file():
        raise UnavailableError(f"{model} does not exist", hint="check the path")
    try:
        return onnx.load(model) if isinstance(model, Path) else onnx.load_model_from_string(model)
    except DecodeError as error:
        raise BadFileError(
            f"{model if isinstance(model, Path) else 'it'} is not an ONNX model", hint="export it again"
        ) from error


def _untyped(name: str) -> Any:
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)
