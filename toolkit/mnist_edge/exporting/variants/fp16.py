"""fp16: weights stored in half precision, computed in fp32: half the file, and no time saved on a CPU.

onnxruntime's CPU provider has no float16 products: it would convert each tensor back on every run. Here each weight
matrix is converted once, when the session is created and its constants are folded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

HIGHEST_EXPONENT = 15
"""Weights are scaled by a power of two so that the largest is below 2 ** 15: float16 keeps its 11 bits down to 2 ** -14,
and the first layer's weights, which contain the factor 1 / 127.5, lie below that."""


def build(context: VariantContext) -> Built:
    """Return the fp32 graph with its weight matrices in float16, each followed by the exact factor that restores it."""
    import onnx

    proto = onnx.load_model_from_string(context.fp32)
    weights = [value for value in proto.graph.initializer if _is_matrix(value)]
    for value in weights:
        _store_in_half(proto.graph, value)
    onnx.checker.check_model(proto, full_check=True)
    made = {"stored": "float16", "computed": "float32", "matrices": len(weights)}
    return Built(model=proto.SerializeToString(deterministic=True), spec=KIND.spec(context), made=made)


def _is_matrix(value: TensorProto) -> bool:
    from onnx import TensorProto

    return bool(value.data_type == TensorProto.FLOAT and len(value.dims) == 2)


def _store_in_half(graph: GraphProto, value: TensorProto) -> None:
    """Replace a float32 initializer by a float16 one, a Cast and a Mul by a power of two."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    name, weight = value.name, numpy_helper.to_array(value)
    largest = float(np.abs(weight).max(initial=0))
    exponent = HIGHEST_EXPONENT - math.frexp(largest)[1] if largest > 0 else 0
    stored = np.ldexp(weight, exponent).astype(np.float16)
    factor = np.float32(math.ldexp(1, -exponent))
    value.CopyFrom(numpy_helper.from_array(stored, f"{name}.half"))
    graph.initializer.append(numpy_helper.from_array(np.array(factor), f"{name}.factor"))
    graph.node.insert(0, helper.make_node("Mul", [f"{name}.single", f"{name}.factor"], [name]))
    graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [f"{name}.single"], to=TensorProto.FLOAT))


KIND = VariantKind(
    name="fp16",
    precision="fp16",
    requirement="lossy",
    advice="saves size, not time, on the CPU",
    build=build,
)
