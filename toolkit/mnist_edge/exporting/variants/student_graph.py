"""A student as the smallest ONNX file that stock onnxruntime folds into plain float32 convolutions.

Weights stay packed in the file, see `onnx_graph.Graph.integers`. All scales, and all biases, share one initializer and one
Cast: a name or a node costs as much as a row of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_edge.contract import INPUT_NAMES, OUTPUT_NAME, Precision
from mnist_edge.onnx_graph import FLOAT16, INTEGERS, Graph
from mnist_edge.training.qat import QuantisedLayer, QuantisedNetwork


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
    data: bytes = graph.model(opset).SerializeToString(deterministic=True)
    return data


def _weights(graph: Graph, layers: Sequence[QuantisedLayer], opset: int) -> tuple[list[str], list[str]]:
    """Add the weights (outputs, inputs, kernel, kernel) and biases (outputs,) of every layer, float32."""
    rows = [len(layer.bias) for layer in layers]
    integers = graph.integers([(layer.integers, layer.bits) for layer in layers], opset)
    all_scales = np.concatenate([layer.scale for layer in layers])
    all_biases = np.concatenate([layer.bias for layer in layers])
    # Four axes, so that a scale applies to all weights of its row.
    scales = graph.split(graph.floats(graph.constant(FLOAT16, [sum(rows), 1, 1, 1], all_scales.tobytes())), rows)
    biases = graph.split(graph.floats(graph.constant(FLOAT16, [sum(rows)], all_biases.tobytes())), rows)
    return [graph.node("Mul", *pair) for pair in zip(integers, scales, strict=True)], biases
