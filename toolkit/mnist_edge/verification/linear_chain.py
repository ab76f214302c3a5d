"""Read an ONNX graph that is a chain of linear layers with ReLUs, and nothing else.

A chain is what the portability certificate bounds and what plain C can be generated from. Anything that would compute
something else, or in another number format, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_edge.errors import UsageError
from mnist_edge.verification.intermediates import load_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPERATORS = ("Gemm", "MatMul", "Add", "Relu", "Flatten", "Cast", "Reshape")
FOLDED = ("Cast", "Identity", "Reshape", "Transpose")
"""Operators on constants alone that are computed here: none of them rounds more than once, and none makes a tensor larger."""
Floats = NDArray[np.float32]
Constants = dict[str, NDArray[Any]]
Attributes = dict[str, Any]
"""AttributeProto by name."""
InputDtype = Literal["uint8", "float32"]


class NotLinearChainError(UsageError):
    """The graph is no chain of linear layers in float32; the message names the operator."""


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """`weight @ x + bias`, then a ReLU or nothing.

    Attributes:
        weight: float32 (out, in), as stored.
        bias: float32 (out,); zeros where the graph adds none.
    """

    weight: Floats
    bias: Floats
    relu: bool


@dataclass(frozen=True, kw_only=True)
class LinearChain:
    """A network of linear layers, input side first; at least one.

    Attributes:
        input_dtype: of the graph's input, whose values are taken row by row as (n, in) of the first layer.
    """

    layers: tuple[LinearLayer, ...]
    input_dtype: InputDtype

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of inputs, then number of outputs of each layer."""
        return (self.layers[0].weight.shape[1], *(len(layer.bias) for layer in self.layers))

    @property
    def form(self) -> tuple[tuple[tuple[int, ...], bool], ...]:
        """Shape of the weights, and whether a ReLU follows, for each layer."""
        return tuple((layer.weight.shape, layer.relu) for layer in self.layers)


def read_linear_chain(model: Path | bytes) -> LinearChain:
    """Read an ONNX file, or its content, as a chain of linear layers.

    Constants may be stored in another format, if a Cast turns them into float32.

    Raises:
        NotLinearChainError: it has another operator, computes in another format than float32, or branches.
        BadFileError: no ONNX model.
        UnavailableError: there is no such file.
        ModuleNotFoundError: the package onnx is missing.
    """
    return linear_chain_of(load_model(model))


def linear_chain_of(proto: ModelProto) -> LinearChain:
    """Return the chain in a parsed model; raises NotLinearChainError as `read_linear_chain`."""
    constants = _stored(proto)
    walk = _start(proto, constants)
    for node in proto.graph.node:
        operands = [constants.get(name) for name in node.input if name]
        if node.op_type == "Constant" or (operands and all(operand is not None for operand in operands)):
            constants[node.output[0]] = _folded(node, [value for value in operands if value is not None])
        else:
            walk.step(node, constants)
    outputs = [value.name for value in proto.graph.output]
    if not walk.layers or walk.head not in outputs or len(outputs) != 1:
        raise NotLinearChainError("the output of the graph is not that of a linear layer", hint=_HINT)
    return LinearChain(layers=tuple(walk.layers), input_dtype=walk.input_dtype)


_HINT = f"a graph of {', '.join(OPERATORS)} in float32 is read"


def _refuse(node: NodeProto, why: str) -> NotLinearChainError:
    return NotLinearChainError(f"{node.op_type}{f' ({node.name[:80]})' if node.name else ''} {why}", hint=_HINT)


@dataclass(kw_only=True)
class _Walk:
    """The layers so far; `head` is the tensor that the next node takes, with `features` values an image."""

    head: str
    features: int
    batch: int | None
    input_dtype: InputDtype
    dtype: str
    layers: list[LinearLayer] = field(default_factory=list)
    bias_open: bool = False
    """Whether the last layer came from a MatMul, so that an Add may be its bias."""

    def step(self, node: NodeProto, constants: Constants) -> None:
        """Take one node on the path of the images."""
        if node.op_type not in OPERATORS or node.domain not in {"", "ai.onnx"}:
            raise _refuse(node, "is no operator of a linear chain")
        if [name for name in node.input if name not in constants and name] != [self.head] or len(node.output) != 1:
            raise _refuse(node, "takes something else than the output of the node before it: the graph branches")
        if node.op_type not in {"Cast", "Flatten", "Reshape"} and self.dtype != "float32":
            raise _refuse(node, f"in {self.dtype}")
        steps: dict[str, Callable[[NodeProto, Attributes, Constants], None]] = {
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "Add": self._add,
            "Relu": self._relu,
            "Flatten": self._flatten,
            "Cast": self._cast,
            "Reshape": self._reshape,
        }
        steps[node.op_type](node, {attribute.name: attribute for attribute in node.attribute}, constants)
        self.head = node.output[0]

    def _gemm(self, node: NodeProto, attributes: Attributes, constants: Constants) -> None:
        for name in ("alpha", "beta"):
            if name in attributes and attributes[name].f != 1:
                raise _refuse(node, f"with {name} {attributes[name].f:g}")
        if node.input[0] != self.head or ("transA" in attributes and attributes["transA"].i):
            raise _refuse(node, "takes the images transposed, or as its second factor")
        weight = constants[node.input[1]]
        transposed = "transB" in attributes and attributes["transB"].i
        self._product(node, weight if transposed else weight.T)
        if len(node.input) > 2 and node.input[2]:
            self._bias(node, constants[node.input[2]])
        self.bias_open = False

    def _matmul(self, node: NodeProto, _: Attributes, constants: Constants) -> None:
        if node.input[0] != self.head:
            raise _refuse(node, "takes the images as its second factor")
        self._product(node, constants[node.input[1]].T)
        self.bias_open = True

    def _product(self, node: NodeProto, weight: NDArray[Any]) -> None:
        if weight.dtype != np.float32:
            raise _refuse(node, f"in {weight.dtype}")
        if weight.ndim != 2 or weight.shape[1] != self.features or 0 in weight.shape:
            raise _refuse(node, f"multiplies {self.features} values by weights {weight.T.shape}")
        _require_finite(node, weight)
        outputs = len(weight)
        # Contiguous, so that equal weights give equal sums whichever way they are stored.
        layer = LinearLayer(weight=np.ascontiguousarray(weight), bias=np.zeros(outputs, np.float32), relu=False)
        self.layers.append(layer)
        self.features = outputs

    def _add(self, node: NodeProto, _: Attributes, constants: Constants) -> None:
        if not self.bias_open:
            raise _refuse(node, "does not follow a MatMul")
        self._bias(node, constants[node.input[1 if node.input[0] == self.head else 0]])
        self.bias_open = False

    def _bias(self, node: NodeProto, bias: NDArray[Any]) -> None:
        if bias.dtype != np.float32:
            raise _refuse(node, f"in {bias.dtype}")
        if bias.size not in {1, self.features} or (bias.size > 1 and bias.shape[-1] != self.features):
            raise _refuse(node, f"adds {bias.shape} to {self.features} values")
        _require_finite(node, bias)
        last = self.layers[-1]
        values = np.broadcast_to(bias.reshape(-1), self.features).copy()
        self.layers[-1] = LinearLayer(weight=last.weight, bias=values, relu=False)

    def _relu(self, node: NodeProto, _: Attributes, __: Constants) -> None:
        if not self.layers:
            raise _refuse(node, "comes before the first product")
        self.layers[-1] = LinearLayer(weight=self.layers[-1].weight, bias=self.layers[-1].bias, relu=True)
        self.bias_open = False

    def _flatten(self, node: NodeProto, attributes: Attributes, _: Constants) -> None:
        if "axis" in attributes and attributes["axis"].i != 1:
            raise _refuse(node, f"of axis {attributes['axis'].i} mixes images")

    def _cast(self, node: NodeProto, attributes: Attributes, _: Constants) -> None:
        target = _dtype_name(attributes["to"].i)
        if target != "float32":
            raise _refuse(node, f"to {target}")
        self.dtype = target

    def _reshape(self, node: NodeProto, attributes: Attributes, constants: Constants) -> None:
        if node.input[0] != self.head:
            raise _refuse(node, "takes its shape from the images")
        shape = constants[node.input[1]].reshape(-1).tolist()
        zero_copies = not ("allowzero" in attributes and attributes["allowzero"].i)
        if not _keeps_images(shape, self.features, self.batch, zero_copies=zero_copies):
            raise _refuse(node, f"to {shape} mixes images of {self.features} values")


def _keeps_images(shape: Sequence[int], features: int, batch: int | None, *, zero_copies: bool) -> bool:
    """Whether a Reshape keeps each image a row of its own, with all its values in their order."""
    if len(shape) < 2 or any(side == 0 or side < -1 for side in shape[1:]) or list(shape).count(-1) > 1:
        return False
    first, rest = shape[0], shape[1:]
    if first == -1:
        return prod(rest) == features
    if (first == 0 and zero_copies) or (batch is not None and first == batch):
        known = prod(side for side in rest if side > 0)
        return known == features if -1 not in rest else features % known == 0
    return False


def _start(proto: ModelProto, constants: Constants) -> _Walk:
    """Return the walk at the one input of the graph."""
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise NotLinearChainError(f"the graph has {len(inputs)} inputs, expected one", hint=_HINT)
    tensor = inputs[0].type.tensor_type
    dtype = _dtype_name(tensor.elem_type)
    if dtype not in {"uint8", "float32"}:
        raise NotLinearChainError(f"the graph takes {dtype}, expected uint8 or float32", hint=_HINT)
    sides = [dimension.dim_value for dimension in tensor.shape.dim]
    if len(sides) < 2 or min(sides[1:]) < 1:
        raise NotLinearChainError(f"the graph takes {len(sides)} axes of unknown length", hint=_HINT)
    input_dtype: InputDtype = "uint8" if dtype == "uint8" else "float32"
    return _Walk(
        head=inputs[0].name, features=prod(sides[1:]), batch=sides[0] or None, input_dtype=input_dtype, dtype=dtype
    )


def _stored(proto: ModelProto) -> Constants:
    """Return the initializers by name."""
    from onnx import numpy_helper

    if proto.graph.sparse_initializer:
        raise NotLinearChainError("the graph stores sparse tensors", hint=_HINT)
    try:
        return {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    except (ValueError, TypeError, KeyError) as error:
        raise NotLinearChainError("a stored tensor cannot be read", hint=_HINT) from error


def _folded(node: NodeProto, operands: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the value of a node whose inputs are all constants."""
    from onnx import helper, numpy_helper

    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant" and "value" in attributes:
        return numpy_helper.to_array(attributes["value"].t)
    if node.op_type == "Constant" and "value_ints" in attributes:
        return np.array(attributes["value_ints"].ints, np.int64)
    if node.op_type not in FOLDED or node.domain not in {"", "ai.onnx"}:
        raise _refuse(node, "is no operator of a linear chain")
    values = operands[0]
    if node.op_type == "Cast":
        with np.errstate(over="ignore"):  # an infinite weight is refused where it is used
            return np.asarray(values.astype(helper.tensor_dtype_to_np_dtype(attributes["to"].i)))
    if node.op_type == "Transpose":
        return np.transpose(values, list(attributes["perm"].ints) if "perm" in attributes else None)
    if node.op_type == "Reshape":
        shape = operands[1].reshape(-1).tolist()
        if 0 in shape or prod(side for side in shape if side > 0) > values.size:
            raise _refuse(node, f"of constants to {shape}")
        return values.reshape(shape)
    return values


def _require_finite(node: NodeProto, values: Floats) -> None:
    if not np.isfinite(values).all():
        raise _refuse(node, "has weights that are NaN or infinite")


def _dtype_name(code: int) -> str:
    from onnx import helper

    try:
        return str(helper.tensor_dtype_to_np_dtype(code))
    except KeyError:
        return f"type {code}"
