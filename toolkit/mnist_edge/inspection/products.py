"""Multiplications of matrix products and convolutions, counted from shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

Shape = tuple[int | None, ...] | None
"""None for an unknown dimension, or for an unknown number of them."""
ShapeOf = Callable[[str], Shape]

STANDARD_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft."
UNCOUNTED = {
    "Attention", "CausalConvWithState", "DFT", "DeformConv", "FlexAttention", "LinearAttention", "STFT",
    "ai.onnx.ml.SVMClassifier", "ai.onnx.ml.SVMRegressor",
}  # fmt: skip
"""Operators with products inside that no rule counts."""
ELEMENTWISE = {
    MICROSOFT + name
    for name in (
        "BiasGelu", "BiasSplitGelu", "BiasSoftmax", "DequantizeLinear", "FastGelu", "Gelu",
        "LayerNormalization", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu",
        "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    )
}  # fmt: skip
"""Operators of onnxruntime's own domain that hold no matrix product."""


def operator_name(node: NodeProto) -> str:
    """Return the operator of a node, with its domain unless that is ONNX's own."""
    return str(node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}")


def multiplications(node: NodeProto, shape_of: ShapeOf) -> int | None:
    """Return the multiplications of one call of a node, without elementwise ones; None where they are not known.

    Args:
        node: without subgraphs.
        shape_of: the shape of a tensor by its name.
    """
    from onnx import defs

    name = operator_name(node)
    if name in RULES:
        return RULES[name](node, shape_of)
    if name in ELEMENTWISE:
        return 0
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    known = domain in {"", "ai.onnx.ml"} and defs.has(node.op_type, domain)
    return 0 if known and name not in UNCOUNTED else None


def size(shape: Shape) -> int | None:
    """Return the number of elements; None where a dimension is not known."""
    if shape is None:
        return None
    known = [side for side in shape if side is not None]
    return prod(known) if len(known) == len(shape) else None


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute, or `default` where the node has none of that name."""
    from onnx import helper

    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def _times(*factors: int | None) -> int | None:
    known = [factor for factor in factors if factor is not None]
    return prod(known) if len(known) == len(factors) else None


def _operand(node: NodeProto, index: int, shape_of: ShapeOf) -> Shape:
    return shape_of(node.input[index]) if len(node.input) > index and node.input[index] else None


def _broadcast(one: int | None, other: int | None) -> int | None:
    if one == 1:
        return other
    return one if one is not None else (other if other != 1 else None)


def _matrix_product(first: int, second: int) -> Callable[[NodeProto, ShapeOf], int | None]:
    """Return the rule of a product of two operands, by their positions, as numpy's matmul defines it."""

    def count(node: NodeProto, shape_of: ShapeOf) -> int | None:
        a, b = _operand(node, first, shape_of), _operand(node, second, shape_of)
        if not a or not b:
            return None
        a, b = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
        rows, inner = a[:-3:-1] if attribute(node, "transA", 0) else a[-2:]
        same, columns = b[:-3:-1] if attribute(node, "transB", 0) else b[-2:]
        stacked = itertools.zip_longest(reversed(a[:-2]), reversed(b[:-2]), fillvalue=1)
        batch = size(tuple(_broadcast(one, other) for one, other in stacked))
        return _times(batch, rows, same if inner is None else inner, columns)

    return count


def _convolution(weight: int) -> Callable[[NodeProto, ShapeOf], int | None]:
    """Return the rule of a convolution whose weights (outputs, inputs / groups, *kernel) are at this position."""

    def count(node: NodeProto, shape_of: ShapeOf) -> int | None:
        kernel = _operand(node, weight, shape_of)
        return None if kernel is None else _times(size(shape_of(node.output[0])), size(kernel[1:]))

    return count


def _transposed_convolution(node: NodeProto, shape_of: ShapeOf) -> int | None:
    kernel = _operand(node, 1, shape_of)  # (inputs, outputs / groups, *kernel), for each input value
    return None if kernel is None else _times(size(_operand(node, 0, shape_of)), size(kernel[1:]))


def _recurrent(node: NodeProto, shape_of: ShapeOf) -> int | None:
    steps, weights, recurrence = (_operand(node, index, shape_of) for index in range(3))
    once = (size(weights), size(recurrence))
    if steps is None or once[0] is None or once[1] is None:
        return None
    return _times(size(steps[:2]), once[0] + once[1])  # length and batch, in either layout


def _einsum(node: NodeProto, shape_of: ShapeOf) -> int | None:
    """Count a product of two operands in one step: each combination of all indices once."""
    equation = bytes(attribute(node, "equation", b"")).decode(errors="replace").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) == 1:
        return 0
    if len(terms) != 2 or "." in equation:
        return None
    sides: dict[str, int | None] = {}
    for index, term in enumerate(terms):
        shape = _operand(node, index, shape_of)
        if shape is None or len(shape) != len(term):
            return None
        for letter, side in zip(term, shape, strict=True):
            sides[letter] = _broadcast(sides.get(letter, 1), side)
    return size(tuple(sides.values()))


def _packed_product(node: NodeProto, shape_of: ShapeOf) -> int | None:
    """Count a product with weights of a few bits, whose sides are the attributes K and N."""
    rows = _operand(node, 0, shape_of)
    return None if rows is None else _times(size(rows[:-1]), attribute(node, "K", None), attribute(node, "N", None))


def _linear_model(node: NodeProto, shape_of: ShapeOf) -> int | None:
    rows = _operand(node, 0, shape_of)
    return None if rows is None else _times(size(rows[:-1]), len(attribute(node, "coefficients", ())))


RULES: dict[str, Callable[[NodeProto, ShapeOf], int | None]] = {
    "Gemm": _matrix_product(0, 1),
    "MatMul": _matrix_product(0, 1),
    "MatMulInteger": _matrix_product(0, 1),
    "QLinearMatMul": _matrix_product(0, 3),
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Einsum": _einsum,
    "ai.onnx.ml.LinearClassifier": _linear_model,
    "ai.onnx.ml.LinearRegressor": _linear_model,
    MICROSOFT + "FusedGemm": _matrix_product(0, 1),
    MICROSOFT + "FusedMatMul": _matrix_product(0, 1),
    MICROSOFT + "MatMulIntegerToFloat": _matrix_product(0, 1),
    MICROSOFT + "DynamicQuantizeMatMul": _matrix_product(0, 1),
    MICROSOFT + "QGemm": _matrix_product(0, 3),
    MICROSOFT + "FusedConv": _convolution(1),
    MICROSOFT + "QLinearConv": _convolution(3),
    MICROSOFT + "MatMulNBits": _packed_product,
    MICROSOFT + "MatMulBnb4": _packed_product,
}
"""Operators that hold a matrix product or a convolution."""
WEIGHTS: dict[str, tuple[int, ...]] = {
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "RNN": (1, 2, 3),
    "GRU": (1, 2, 3),
    "LSTM": (1, 2, 3, 7),
    MICROSOFT + "MatMulIntegerToFloat": (0, 1, 6),
    MICROSOFT + "DynamicQuantizeMatMul": (1, 4),
    MICROSOFT + "QGemm": (3, 6),
    MICROSOFT + "QLinearConv": (3, 8),
}
"""Positions of weights and biases among the operands of operators that also take scales and zero points."""


def _packed_weights(node: NodeProto) -> dict[str, int | None]:
    return {"weight": _times(attribute(node, "K", None), attribute(node, "N", None))}


def _coefficients(node: NodeProto) -> dict[str, int | None]:
    return {name: len(attribute(node, name, ())) for name in ("coefficients", "intercepts")}


HELD: dict[str, Callable[[NodeProto], dict[str, int | None]]] = {
    MICROSOFT + "MatMulNBits": _packed_weights,
    MICROSOFT + "MatMulBnb4": _packed_weights,
    "ai.onnx.ml.LinearClassifier": _coefficients,
    "ai.onnx.ml.LinearRegressor": _coefficients,
}
"""Number of weights of operators whose attributes state it."""
