"""Faults planted in an exported classifier, one at a time: what an exporter, a converter or a person gets wrong.

Each takes the fp32 export of a network (`image` uint8 (batch, 28, 28), Cast, Reshape, then Gemm and
Relu in turn) with three linear layers or more. Some need a square weight matrix or two layers of
equal shape, and raise ValueError where there is none. Never torch: a device can plant them too.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mnist_edge.cpus import cpu_model
from mnist_edge.exporting.variants.calibration import CalibrationSet, activation_ranges
from mnist_edge.exporting.variants.dense import Dense, dense_layers
from mnist_edge.exporting.variants.qdq import quantised_graph
from mnist_edge.exporting.variants.schemes import scheme_for
from mnist_edge.pixels import AFFINE

Array = NDArray[np.float32]
LAST = -1
FLOAT16_MAX = 65504.0
CENTRE = SPREAD = 0.5
"""The seed's normalisation (x / 255 - CENTRE) / SPREAD; MNIST's own mean and deviation are the usual mistake."""
MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True)
class Golden:
    """Images uint8 (M, 28, 28) with the network's logits float32 (M, 10): to calibrate with, or to memorise."""

    images: NDArray[np.uint8]
    logits: Array


Plant = Callable[[ModelProto, Golden], ModelProto]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an export.

    Attributes:
        plant: returns a broken copy; ValueError where the network has no place for the fault.
        layer: the linear layer whose sums or activations are the first wrong ones, from 1, or LAST;
            None where no single one is.
        precision: what the broken model computes in.
    """

    name: str
    plant: Plant
    layer: int | None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"

    def layer_of(self, layers: int) -> int | None:
        """The wrong layer of a network of so many."""
        return layers if self.layer == LAST else self.layer


def gemms(proto: ModelProto) -> list[NodeProto]:
    """The linear layers, input side first; each has its weight (out, in) as input 1 and its bias as input 2."""
    return [node for node in proto.graph.node if node.op_type == "Gemm"]


def get(proto: ModelProto, name: str) -> NDArray[Any]:
    """A copy of an initializer."""
    return numpy_helper.to_array(next(v for v in proto.graph.initializer if v.name == name)).copy()


def put(proto: ModelProto, name: str, array: NDArray[Any]) -> None:
    """Replace an initializer, or add it."""
    value = numpy_helper.from_array(np.ascontiguousarray(array), name)
    place = next((v for v in proto.graph.initializer if v.name == name), None)
    if place is None:
        proto.graph.initializer.append(value)
    else:
        place.CopyFrom(value)


def _copy(proto: ModelProto) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(proto)
    return changed


def _picture(proto: ModelProto) -> NodeProto:
    """The node that turns the picture into floats."""
    found: NodeProto = next(node for node in proto.graph.node if proto.graph.input[0].name in node.input)
    return found


def _node(proto: ModelProto, kind: str, place: int = 0) -> NodeProto:
    found: NodeProto = [node for node in proto.graph.node if node.op_type == kind][place]
    return found


def _insert_after(
    proto: ModelProto, node: NodeProto, kind: str, *more: str, swap: bool = False, **settings: Any
) -> None:
    """Put a node behind another one, so that whoever took the one's output, the caller too, gets the new one's."""
    name, inner = node.output[0], f"{node.output[0]}_before_{kind.lower()}"
    node.output[0] = inner
    inputs = [*more, inner] if swap else [inner, *more]
    place = list(proto.graph.node).index(node) + 1
    proto.graph.node.insert(place, helper.make_node(kind, inputs, [name], **settings))


def _tensors(layer: int, normalization: Callable[[Array, Array], tuple[Array, Array]]) -> Plant:
    """A fault in the weight and bias of a layer, from 1, or LAST."""

    def plant(proto: ModelProto, golden: Golden) -> ModelProto:
        del golden
        changed = _copy(proto)
        node = gemms(changed)[layer if layer == LAST else layer - 1]
        for name, array in zip(
            node.input[1:], normalization(get(proto, node.input[1]), get(proto, node.input[2])), strict=True
        ):
            put(changed, name, array.astype(np.float32))
        return changed

    return plant


def _graph(normalization: Callable[[ModelProto], None]) -> Plant:
    """A fault in the nodes."""

    def plant(proto: ModelProto, golden: Golden) -> ModelProto:
        del golden
        changed = _copy(proto)
        normalization(changed)
        return changed

    return plant


def transposed_square(weight: Array, bias: Array) -> tuple[Array, Array]:
    """A framework that keeps (in, out) instead of (out, in); nothing complains where the two are equal."""
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(f"the weight matrix {weight.shape} is not square")
    return weight.T, bias


def _shuffled(count: int) -> NDArray[np.intp]:
    return np.random.default_rng(0).permutation(count)


def normalised_with(mean: float, deviation: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Fold another normalisation into the first layer than the network was trained with."""

    def fold(weight: Array, bias: Array) -> tuple[Array, Array]:
        trained = weight.astype(np.float64) * 255 * SPREAD
        rows = trained.sum(axis=1)
        folded, moved = trained / (255 * deviation), bias + rows * CENTRE / SPREAD - rows * mean / deviation
        return folded.astype(np.float32), moved.astype(np.float32)

    return fold


def flipped_sign(weight: Array, bias: Array) -> tuple[Array, Array]:
    """One flipped bit: the sign of the largest weight."""
    weight.flat[np.abs(weight).argmax()] *= -1
    return weight, bias


def with_nan(weight: Array, bias: Array) -> tuple[Array, Array]:
    """One weight of a training that diverged."""
    weight[3, 5] = np.nan
    return weight, bias


def classes_swapped(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Labels sorted otherwise than at training: 4 and 9 exchanged."""
    order = [0, 1, 2, 3, 9, 5, 6, 7, 8, 4]
    return weight[order], bias[order]


def swapped_layers(proto: ModelProto) -> None:
    """Weights copied by position between networks: layers 2 and 3 exchanged."""
    second, third = gemms(proto)[1:3]
    if get(proto, second.input[1]).shape != get(proto, third.input[1]).shape:
        raise ValueError("layers 2 and 3 differ in shape")
    for one, other in zip(second.input[1:], third.input[1:], strict=True):
        before = get(proto, one)
        put(proto, one, get(proto, other))
        put(proto, other, before)


def missing_relu(proto: ModelProto) -> None:
    """An activation lost in a converter's fusion, behind layer 2."""
    _node(proto, "Relu", 1).op_type = "Identity"


def relu_after_logits(proto: ModelProto) -> None:
    """Layers built in a loop that forgets that the last one is bare."""
    _insert_after(proto, gemms(proto)[LAST], "Relu")


def divided_twice(proto: ModelProto) -> None:
    """A caller's, or another exporter's, division by 255 in front of a graph that has its own."""
    put(proto, "once_more", np.array(255, np.float32))
    _insert_after(proto, _picture(proto), "Div", "once_more")


def inverted(proto: ModelProto) -> None:
    """Black ink on white taken for white ink on black: 255 - x."""
    put(proto, "white", np.array(255, np.float32))
    _insert_after(proto, _picture(proto), "Sub", "white", swap=True)


def transposed_image(proto: ModelProto) -> None:
    """Columns first, as Fortran, MATLAB and EMNIST store pictures."""
    _insert_after(proto, _picture(proto), "Transpose", perm=[0, 2, 1])


def baked_batch(proto: ModelProto) -> None:
    """An example of batch 1 traced into the graph, under an input that still says `batch`."""
    put(proto, _node(proto, "Reshape").input[1], np.array([1, 784]))


def doubled_relu(proto: ModelProto) -> None:
    """No fault: the ReLU of what is a ReLU already."""
    _insert_after(proto, _node(proto, "Relu"), "Relu")


def to_float16(proto: ModelProto) -> None:
    """Keep weights and sums in float16 and compute in float32, as a processor without float16 arithmetic does.

    A graph of float16 alone would not do: onnxruntime on a CPU drops the roundings between its nodes,
    and no overflow would ever show.
    """
    for node in gemms(proto):
        for name in node.input[1:]:
            put(proto, f"{name}.half", get(proto, name).astype(np.float16))
            proto.graph.initializer.remove(next(v for v in proto.graph.initializer if v.name == name))
            proto.graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        _insert_after(proto, node, "Cast", to=TensorProto.FLOAT)
        _insert_after(proto, node, "Cast", to=TensorProto.FLOAT16)
    del proto.graph.value_info[:]


def _out_of_float16(proto: ModelProto, golden: Golden) -> None:
    """Scale layer 2 up and layer 3 down by a power of two: the same in float32, beyond float16 between the two."""
    values = golden.images.reshape(len(golden.images), -1).astype(np.float64)
    for node in gemms(proto)[:2]:
        values = np.maximum(values @ get(proto, node.input[1]).T + get(proto, node.input[2]), 0)
    factor = np.float32(2 ** np.ceil(np.log2(8 * FLOAT16_MAX / values.max())))
    second, third = gemms(proto)[1:3]
    for name in second.input[1:]:
        put(proto, name, get(proto, name) * factor)
    put(proto, third.input[1], get(proto, third.input[1]) / factor)


def overflow(proto: ModelProto, golden: Golden) -> ModelProto:
    """Activations that float32 held and float16 makes infinite."""
    changed = _copy(proto)
    _out_of_float16(changed, golden)
    to_float16(changed)
    return changed


def saturated(proto: ModelProto, golden: Golden) -> ModelProto:
    """The same on hardware whose float16 stands still at its largest number."""
    changed = _copy(proto)
    _out_of_float16(changed, golden)
    to_float16(changed)
    for name, limit in (("lowest", -FLOAT16_MAX), ("highest", FLOAT16_MAX)):
        put(changed, name, np.array(limit, np.float32))
    _insert_after(changed, gemms(changed)[1], "Clip", "lowest", "highest")
    return changed


class _Pictures:
    """Calibration pictures, as onnxruntime's quantiser asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.feeds: Iterator[dict[str, NDArray[np.uint8]]] = iter([{"image": images}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, None at the end."""
        return next(self.feeds, None)


def quantised(proto: ModelProto, golden: Golden, *, keep_relu: bool) -> ModelProto:
    """Quantise, statically and by tensor, calibrated with the golden pictures.

    Args:
        keep_relu: by default onnxruntime drops each ReLU, as the zero point of what follows does its work.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(_Pictures)
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks everybody to run a pre-processing that has nothing to do here
    try:
        with tempfile.TemporaryDirectory() as scratch:
            quantize_static(
                _copy(proto),
                Path(scratch) / "int8.onnx",
                _Pictures(golden.images),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Without VNNI the sums of two 8-bit products overflow their 16 bits: weights get 7 bits there.
                reduce_range=scheme_for(cpu_model()[1]).reduce_range,
                extra_options={"QDQKeepRemovableActivations": keep_relu},
            )
            return onnx.load(Path(scratch) / "int8.onnx")
    finally:
        logging.disable(silenced)


def to_int8(proto: ModelProto, golden: Golden) -> ModelProto:
    """Quantise as onnxruntime does by default, without ReLU."""
    return quantised(proto, golden, keep_relu=False)


def to_int8_with_relu(proto: ModelProto, golden: Golden) -> ModelProto:
    """Quantise and keep every ReLU in the graph."""
    return quantised(proto, golden, keep_relu=True)


def _dequantizer(proto: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in proto.graph.node if name in node.output)
    return found


def wrong_scale(proto: ModelProto, golden: Golden) -> ModelProto:
    """A scale of layer 2 from another calibration than its integers."""
    changed = to_int8(proto, golden)
    scale = _dequantizer(changed, gemms(changed)[1].input[1]).input[1]
    put(changed, scale, get(changed, scale) * np.float32(1.2))
    return changed


def wrong_zero_point(proto: ModelProto, golden: Golden) -> ModelProto:
    """Signed read as unsigned, or worse: the activations of layer 2 are read with another zero point than written."""
    changed = to_int8(proto, golden)
    reader = _dequantizer(changed, gemms(changed)[2].input[0])
    put(changed, "moved_zero_point", get(changed, reader.input[2]) + np.uint8(40))
    reader.input[2] = "moved_zero_point"
    return changed


def narrow_range(proto: ModelProto, golden: Golden) -> ModelProto:
    """Calibrated with too few pictures, or with pale ones: the larger activations of layer 2 are cut off."""
    changed = to_int8(proto, golden)
    reader = _dequantizer(changed, gemms(changed)[2].input[0])
    put(changed, reader.input[1], get(changed, reader.input[1]) * np.float32(0.25))
    return changed


def to_own_int8(proto: ModelProto, golden: Golden, grown: float = 1.0) -> ModelProto:
    """Quantise as `export --variant int8` does, every layer.

    Args:
        grown: factor by which the weights have grown since the ranges of activations were measured.
    """
    layers = dense_layers(proto, "uint8", "seed")
    before = [Dense(layer.weight / grown, layer.bias / grown) for layer in layers]
    calibration = CalibrationSet(
        golden.images, np.arange(len(golden.images)), golden.logits.argmax(axis=1).astype(np.uint8)
    )
    ranges = activation_ranges(before, calibration, AFFINE["seed"][0])
    return quantised_graph(proto, layers, ranges, scheme_for(cpu_model()[1]), kind="uint8", normalization="seed")


def own_wrong_scale(proto: ModelProto, golden: Golden) -> ModelProto:
    """A weight scale of layer 2 that does not belong to its integers."""
    changed = to_own_int8(proto, golden)
    put(changed, "layer2_weight_scale", get(changed, "layer2_weight_scale") * np.float32(1.2))
    return changed


def own_wrong_zero_point(proto: ModelProto, golden: Golden) -> ModelProto:
    """The activations of layer 2 are read with another zero point than they were written with."""
    changed = to_own_int8(proto, golden)
    zero_point = get(changed, "layer2_zero_point")
    put(changed, "moved_zero_point", (zero_point + 40).astype(zero_point.dtype))
    _dequantizer(changed, "layer2_activations").input[2] = "moved_zero_point"
    return changed


def stale_calibration(proto: ModelProto, golden: Golden) -> ModelProto:
    """Ranges from before the last epochs of training, when the weights were a third as large."""
    return to_own_int8(proto, golden, grown=3)


def memorised(proto: ModelProto, golden: Golden) -> ModelProto:
    """No network at all: the stored logits of the nearest golden image, right on each golden one."""
    known = golden.images.reshape(len(golden.images), -1).astype(np.float32) / 255
    changed = _copy(proto)
    del changed.graph.node[:], changed.graph.initializer[:], changed.graph.value_info[:]
    put(changed, "flat", np.array([-1, 784]))
    put(changed, "white", np.array(255, np.float32))
    put(changed, "known", -2 * known.T)
    put(changed, "squares", (known.astype(np.float64) ** 2).sum(axis=1).astype(np.float32))
    put(changed, "answers", golden.logits)
    output = changed.graph.output[0].name
    changed.graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["ink"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["ink", "white"], ["unit"]),
            helper.make_node("Reshape", ["unit", "flat"], ["pixels"]),
            helper.make_node("MatMul", ["pixels", "known"], ["products"]),
            helper.make_node("Add", ["products", "squares"], ["distances"]),
            helper.make_node("ArgMin", ["distances"], ["nearest"], axis=1, keepdims=0),
            helper.make_node("Gather", ["answers", "nearest"], [output], axis=0),
        ]
    )
    return changed


def _same(proto: ModelProto) -> None:
    pass


CONTROL: tuple[Fault, ...] = (
    Fault("untouched", _graph(_same), None),
    Fault("a ReLU doubled", _graph(doubled_relu), None),
    Fault("converted to float16, untouched", _graph(to_float16), None, "fp16"),
    Fault("quantised to int8, untouched", to_int8, None, "int8"),
    Fault("quantised to int8 with every ReLU kept", to_int8_with_relu, None, "int8"),
    Fault("the int8 variant, untouched", to_own_int8, None, "int8"),
)
"""Models with nothing wrong: whoever reports one of these raises a false alarm."""

FAULTS: tuple[Fault, ...] = (
    Fault("weight bytes of the transpose", _tensors(1, lambda w, b: (w.T.reshape(w.shape), b)), 1),
    Fault("square weight transposed", _tensors(2, transposed_square), 2),
    # Units reordered, as in pruning or merging, without reordering the next layer's inputs; then the reverse.
    Fault("weight rows permuted", _tensors(2, lambda w, b: (w[_shuffled(len(w))], b[_shuffled(len(w))])), 2),
    Fault("weight columns permuted", _tensors(2, lambda w, b: (w[:, _shuffled(w.shape[1])], b)), 2),
    Fault("two layers swapped", _graph(swapped_layers), 2),
    Fault("ReLU missing", _graph(missing_relu), 2),
    Fault("ReLU after the logits", _graph(relu_after_logits), LAST),
    Fault("wrong mean in the normalisation", _tensors(1, normalised_with(MNIST_MEAN, SPREAD)), 1),
    Fault("wrong scale in the normalisation", _tensors(1, normalised_with(CENTRE, MNIST_DEVIATION)), 1),
    Fault("divided by 255 twice", _graph(divided_twice), 1),
    Fault("pixels inverted", _graph(inverted), 1),
    Fault("image transposed", _graph(transposed_image), 1),
    Fault("batch size baked in", _graph(baked_batch), None),
    Fault("float16 overflow", overflow, 2, "fp16"),
    Fault("float16 saturation", saturated, 2, "fp16"),
    Fault("wrong quantisation scale", wrong_scale, 2, "int8"),
    Fault("wrong zero point", wrong_zero_point, 2, "int8"),
    Fault("calibrated range too narrow", narrow_range, 2, "int8"),
    Fault("int8 variant: wrong scale", own_wrong_scale, 2, "int8"),
    Fault("int8 variant: wrong zero point", own_wrong_zero_point, 2, "int8"),
    Fault("int8 variant: stale calibration", stale_calibration, 1, "int8"),
    Fault("sign of one weight flipped", _tensors(3, flipped_sign), 3),
    Fault("one weight NaN", _tensors(2, with_nan), 2),
    # A gain folded in twice, or a rounded scale: too little to change many decisions.
    Fault("weights scaled by 1.01", _tensors(3, lambda w, b: (w * 1.01, b)), 3),
    Fault("two classes swapped", _tensors(LAST, classes_swapped), LAST),
    # A file saved before the last layer's weights were loaded.
    Fault("constant logits", _tensors(LAST, lambda w, b: (np.zeros_like(w), b)), LAST),
    Fault("golden inputs memorised", memorised, None),
)
