"""Layer inputs and pre-activations of an ONNX classifier, for every matrix product in its graph.

The layers are found by the structure of the graph, not by names, so that an edited, quantised or foreign file can be
compared with the network that it claims to be.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import Images
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Floats = NDArray[np.float64]

PRODUCTS = {
    "Gemm", "MatMul", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm",
    "MatMulNBits", "MatMulBnb4",
}  # fmt: skip
AFTER = {"Add", "Mul", "Cast", "Identity", "Reshape", "Flatten"}
"""Operators that may follow a product before its pre-activation is complete: bias, rescaling, a change of form. Not a
quantiser: with a zero point of 0 it is also a ReLU."""
BEFORE = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""Operators between an activation and a product that takes integers."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One matrix product of a graph.

    Attributes:
        input: name of the tensor that it takes.
        pre_activation: name of the tensor that holds its result, bias added.
        weight: float64 (fan_in, fan_out), so that `pre_activation = input @ weight + bias`; None for a convolution, or
            where the weights are not stored as floats.
    """

    input: str
    pre_activation: str
    weight: Floats | None


@dataclass(frozen=True, kw_only=True)
class Intermediates:
    """Values of the tensors around every layer for N images, float64 (N, units), input side first.

    Attributes:
        layers: L of them.
        inputs, pre_activations: of each layer; None for a tensor of quantised integers.
        output: of the graph; `output_name` is that tensor.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[Floats | None, ...]
    pre_activations: tuple[Floats | None, ...]
    output: Floats | None
    output_name: str


def run_intermediates(
    model: Path | bytes,
    images: Images,
    settings: SessionSettings = DEFAULT_SETTINGS,
    normalization: Normalization | None = None,
) -> Intermediates:
    """Run images (N, 28, 28) through a model and return the values around every layer.

    Raises:
        BadFileError: no ONNX model, or one that onnxruntime refuses.
        UnavailableError: the provider is not available.
        ModuleNotFoundError: the package onnx is missing.
    """
    proto = load_model(model)
    if not proto.graph.output:
        raise RefusedModelError(f"{str(model)[:200]} has no output", hint="export it again")
    layers = find_layers(proto)
    with_output = {value.name for value in proto.graph.output}
    output = proto.graph.output[0].name
    names = list(dict.fromkeys([name for layer in layers for name in (layer.input, layer.pre_activation)] + [output]))
    proto.graph.output.extend(_untyped(name) for name in names if name not in with_output)
    classifier = open_classifier(
        proto.SerializeToString(), settings, name=str(model)[:200], normalization=normalization
    )
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for feed, count in classifier.batches(classifier.prepare(images)):
        for name, value in zip(names, classifier.run_for(names, feed), strict=True):
            found[name].append(value[:count])
    values = {name: _floats(np.concatenate(parts), len(images)) for name, parts in found.items()}
    return Intermediates(
        layers=layers,
        inputs=tuple(values[layer.input] for layer in layers),
        pre_activations=tuple(values[layer.pre_activation] for layer in layers),
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
            input=_walk_back(_data_input(node, constants), makers),
            pre_activation=_walk_on(node.output[0], users),
            weight=_weight(node, graph),
        )
        for node in graph.node
        if node.op_type in PRODUCTS
    )


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


def load_model(model: Path | bytes) -> ModelProto:
    """Parse an ONNX file or its bytes.

    Raises:
        UnavailableError: there is no such file.
        BadFileError: no ONNX model.
        ModuleNotFoundError: the package onnx is missing.
    """
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
