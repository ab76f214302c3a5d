"""Write a quantised network as standard operators, in the form that onnxruntime fuses into integer products.

`DequantizeLinear, Gemm, Relu, QuantizeLinear` becomes one `QGemm` when the session is created, and a runtime that does
not fuse it still computes the same values. Writing QGemm itself gave the same latency and ties the file to
onnxruntime. One scale for each weight matrix: one for each of its columns was 1.3 times slower at batch 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from mnist_edge.contract import INPUT_NAMES, OUTPUT_NAME, PIXELS, InputKind, Normalization
from mnist_edge.exporting.variants.dense import Dense
from mnist_edge.exporting.variants.schemes import Scheme
from mnist_edge.pixels import AFFINE


def quantised_graph(
    fp32: ModelProto,
    layers: Sequence[Dense],
    ranges: Sequence[float],
    scheme: Scheme,
    *,
    kind: InputKind,
    normalization: Normalization,
    float_layers: Collection[int] = (),
) -> ModelProto:
    """Return the quantised form of an fp32 export, with its input, output and metadata.

    Args:
        fp32: the export.
        layers: its L layers, as `dense_layers` returns them.
        ranges: largest output of each of the L - 1 ReLUs.
        scheme: integer types.
        kind: how the graph takes an image.
        normalization: of the pixels that the network was trained on.
        float_layers: numbers, from 1, of layers that stay in fp32.
    """
    writer = _Writer(scheme)
    divisor, shift = AFFINE[normalization]
    writer.image(kind, divisor, shift)
    for number, layer in enumerate(layers, 1):
        last = number == len(layers)
        product = writer.product(number, layer, exact=number in float_layers, name=OUTPUT_NAME if last else "")
        if not last:
            # Between two layers in fp32 nothing is rounded.
            rounded = not {number, number + 1} <= set(float_layers)
            writer.activation(number, product, ranges[number - 1] if rounded else None)
    proto = ModelProto()
    proto.CopyFrom(fp32)
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(writer.nodes)
    proto.graph.initializer.extend(writer.constants)
    checker.check_model(proto, full_check=True)
    return proto


class _Writer:
    """Nodes and constants so far; `values` is the float tensor that the next layer takes, `scale` its quantised step."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.values = ""
        self.scale: np.float32 | None = None

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def image(self, kind: InputKind, divisor: float, shift: float) -> None:
        """Take the image as the quantised activation; a float image, which has lost its shift, is quantised first."""
        self.scale = np.float32(1 / divisor)
        scale, zero = self.constant("image_scale", self.scale), self.constant("image_zero_point", np.uint8(0))
        if kind == "uint8":
            shape = self.constant("flat", np.array([-1, PIXELS]))
            quantised = self.node("Reshape", [INPUT_NAMES[kind], shape], "image_quantised")
        else:
            unshifted = self.node("Sub", [INPUT_NAMES[kind], self.constant("shift", np.float32(shift))], "unshifted")
            quantised = self.node("QuantizeLinear", [unshifted, scale, zero], "image_quantised")
        self.values = self.node("DequantizeLinear", [quantised, scale, zero], "image_pixels")

    def product(self, number: int, layer: Dense, *, exact: bool, name: str) -> str:
        """Write a linear layer, and return its pre-activations (batch, fan_out)."""
        prefix = f"layer{number}"
        if exact or self.scale is None:
            weight = self.constant(f"{prefix}_weight", layer.weight.astype(np.float32))
            # As a row: onnxruntime quantises a Gemm between a dequantiser and a quantiser, whatever its weights, unless
            # its bias has two axes (WeightBiasQuantization, seen in 1.32).
            bias = self.constant(f"{prefix}_bias", layer.bias.astype(np.float32)[None])
        else:
            weight, bias = self._quantised(prefix, layer, self.scale)
        return self.node("Gemm", [self.values, weight, bias], name or f"{prefix}_pre_activations")

    def _quantised(self, prefix: str, layer: Dense, input_scale: np.float32) -> tuple[str, str]:
        """Write weight and bias as integers; the bias in steps of the products, so that it is added to their sum."""
        limit = self.scheme.weight_limit
        scale = np.float32(max(float(np.abs(layer.weight).max()), 1e-12) / limit)
        stored = np.clip(np.rint(layer.weight / scale), -limit, limit).astype(np.int8)
        step = np.float32(input_scale * scale)
        wide = np.iinfo(np.int32)
        bias = np.clip(np.rint(layer.bias / step), wide.min, wide.max).astype(np.int32)
        names = []
        for part, value, unit, zero in (("weight", stored, scale, np.int8(0)), ("bias", bias, step, np.int32(0))):
            inputs = [
                self.constant(f"{prefix}_{part}_quantised", value),
                self.constant(f"{prefix}_{part}_scale", unit),
                self.constant(f"{prefix}_{part}_zero_point", zero),
            ]
            names.append(self.node("DequantizeLinear", inputs, f"{prefix}_{part}"))
        return names[0], names[1]

    def activation(self, number: int, product: str, largest: float | None) -> None:
        """Write a ReLU, and the rounding of its output to 255 steps up to `largest`; None rounds nothing."""
        prefix = f"layer{number}"
        self.values = self.node("Relu", [product], f"{prefix}_relu")
        self.scale = None
        if largest is not None:
            self.scale = np.float32(largest / 255)
            constants = [
                self.constant(f"{prefix}_scale", self.scale),
                self.constant(f"{prefix}_zero_point", self.scheme.zero_point),
            ]
            quantised = self.node("QuantizeLinear", [self.values, *constants], f"{prefix}_quantised")
            self.values = self.node("DequantizeLinear", [quantised, *constants], f"{prefix}_activations")
