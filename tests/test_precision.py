"""The precision of a model, read from its graph: what reaches the output counts, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from faults import CONTROL, Fault, Golden, gemms, get
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.contract import Precision
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification.intermediates import find_layers
from mnist_edge.verification.precision import precision_of


def test_precision_is_read_from_the_graph(bundle_folder: Path, tmp_path: Path) -> None:
    """A missing file and one that is no model are told apart."""
    assert precision_of(bundle_folder / "model.onnx") == "fp32"
    with pytest.raises(UnavailableError, match="does not exist"):
        precision_of(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BadFileError, match="not an ONNX model"):
        precision_of(tmp_path / "text.onnx")


def lossy_beside_the_way(kind: str, bundle_folder: Path) -> onnx.ModelProto:
    """The fp32 model with something that makes a lossy one look so, where no answer comes through it."""
    proto = onnx.load(bundle_folder / "model.onnx")
    node = proto.graph.node
    if kind == "half":
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float16), "spare"))
        return proto
    scale = numpy_helper.from_array(np.float32(1), "scale")
    if kind == "behind the last product":
        gemms(proto)[-1].output[0] = "sums"
        node.append(helper.make_node("QuantizeLinear", ["sums", "scale"], ["integers"]))
        node.append(helper.make_node("DequantizeLinear", ["integers", "scale"], ["logits"]))
    else:
        node.append(helper.make_node("QuantizeLinear", [gemms(proto)[0].output[0], "scale"], ["integers"]))
        if kind == "a dead product":
            node.append(helper.make_node("DequantizeLinear", ["integers", "scale"], ["fed"]))
            node.append(helper.make_node("MatMul", ["fed", "fed"], ["nobody's"]))
    proto.graph.initializer.append(scale)
    return proto


@pytest.mark.parametrize("kind", ["half", "behind the last product", "a dead quantiser", "a dead product"])
def test_what_no_answer_comes_through_makes_no_model_lossy(kind: str, bundle_folder: Path, tmp_path: Path) -> None:
    """One idle node must not buy an fp32 model the tolerance of int8."""
    path = tmp_path / "model.onnx"
    onnx.save(lossy_beside_the_way(kind, bundle_folder), path)
    assert precision_of(path) == "fp32"


@pytest.mark.parametrize("control", CONTROL, ids=lambda control: control.name)
def test_lossy_models_are_known_as_such(control: Fault, bundle_folder: Path, tmp_path: Path) -> None:
    """The control of the test above: what computes in float16 or in integers is still told so."""
    golden = load_bundle(bundle_folder).golden
    planted = control.plant(onnx.load(bundle_folder / "model.onnx"), Golden(golden.images[:64], golden.logits[:64]))
    onnx.save(planted, tmp_path / "model.onnx")
    assert precision_of(tmp_path / "model.onnx") == control.precision


def test_integer_products_are_int8(tmp_path: Path) -> None:
    """Quantised while running, as onnxruntime's dynamic quantisation writes it: no DequantizeLinear anywhere."""
    kinds = TensorProto
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["integers", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["integers", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=kinds.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 784])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.ones((784, 10), np.int8), "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert precision_of(tmp_path / "model.onnx") == "int8"


# Weights alone in few bits: the products run in fp32, their weights were rounded.


def quantised_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights quantised and dequantised in the graph itself."""
    first = gemms(proto)[0]
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
    proto.graph.node.insert(0, helper.make_node("QuantizeLinear", [first.input[1], "scale"], ["integers"]))
    proto.graph.node.insert(1, helper.make_node("DequantizeLinear", ["integers", "scale"], ["rounded"]))
    first.input[1] = "rounded"
    return proto


def replaced(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], **values: NDArray[np.generic]) -> onnx.ModelProto:
    """The model with the first weight matrix computed by these nodes, whose last output is `rounded`."""
    first = gemms(proto)[0]
    for place, node in enumerate(nodes):
        proto.graph.node.insert(place, node)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    first.input[1] = "rounded"
    return proto


def dequantised(kind: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """Integers of a type as an initializer, with DequantizeLinear before the product."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        weight = get(proto, gemms(proto)[0].input[1])
        integers = np.ones(weight.shape, np.int8).ravel()
        proto.graph.initializer.append(helper.make_tensor("integers", kind, weight.shape, integers.tolist()))
        return replaced(
            proto, [helper.make_node("DequantizeLinear", ["integers", "scale"], ["rounded"])], scale=np.float32(0.01)
        )

    return change


def cast_and_scaled(kind: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """Integers of a type, cast to float and multiplied by a scale."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        weight = get(proto, gemms(proto)[0].input[1])
        proto.graph.initializer.append(helper.make_tensor("integers", kind, weight.shape, [1] * weight.size))
        nodes = [
            helper.make_node("Cast", ["integers"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["rounded"]),
        ]
        return replaced(proto, nodes, scale=np.float32(0.01))

    return change


def constant_node(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Integers in a node instead of an initializer."""
    shape = get(proto, gemms(proto)[0].input[1]).shape
    value = numpy_helper.from_array(np.ones(shape, np.int8), "value")
    nodes = [
        helper.make_node("Constant", [], ["integers"], value=value),
        helper.make_node("DequantizeLinear", ["integers", "scale"], ["rounded"]),
    ]
    return replaced(proto, nodes, scale=np.float32(0.01))


def shifted(shift: int, mask: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """Several weights in a byte, taken apart by a shift and a mask."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        shape = get(proto, gemms(proto)[0].input[1]).shape
        nodes = [
            helper.make_node("BitShift", ["packed", "shift"], ["high"], direction="RIGHT"),
            helper.make_node("BitwiseAnd", ["high", "mask"], ["field"]),
            helper.make_node("Cast", ["field"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["rounded"]),
        ]
        values = {"shift": np.uint8(shift), "mask": np.uint8(mask), "scale": np.float32(0.01)}
        return replaced(proto, nodes, packed=np.full(shape, 0x55, np.uint8), **values)

    return change


def n_bits(bits: int | None) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """onnxruntime's product with weights packed in blocks of 16."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        first = gemms(proto)[0]
        units, pixels = get(proto, first.input[1]).shape
        wide = bits or 4
        packed = np.zeros((units, pixels // 16, 16 * wide // 8), np.uint8)
        scales = np.ones(units * pixels // 16, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(packed, "packed"))
        proto.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
        stated = {} if bits is None else {"bits": bits}
        product = helper.make_node(
            "MatMulNBits", [first.input[0], "packed", "scales"], ["product"],
            domain="com.microsoft", K=pixels, N=units, block_size=16, **stated,
        )  # fmt: skip
        bias = helper.make_node("Add", ["product", first.input[2]], [first.output[0]])
        place = list(proto.graph.node).index(first)
        proto.graph.node.remove(first)
        proto.graph.node.insert(place, product)
        proto.graph.node.insert(place + 1, bias)
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return proto

    return change


WEIGHT_ONLY: list[tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto], Precision]] = [
    ("quantised in the graph", quantised_weights, "int8"),
    ("int8 dequantised", dequantised(TensorProto.INT8), "int8"),
    ("uint8 dequantised", dequantised(TensorProto.UINT8), "int8"),
    ("int4 dequantised", dequantised(TensorProto.INT4), "int4"),
    ("uint4 dequantised", dequantised(TensorProto.UINT4), "int4"),
    ("int2 dequantised", dequantised(TensorProto.INT2), "int2"),
    ("int8 cast", cast_and_scaled(TensorProto.INT8), "int8"),
    ("int4 cast", cast_and_scaled(TensorProto.INT4), "int4"),
    ("int2 cast", cast_and_scaled(TensorProto.INT2), "int2"),
    ("a Constant node", constant_node, "int8"),
    ("nibbles", shifted(4, 15), "int4"),
    ("quarters", shifted(6, 3), "int2"),
    ("the low two bits", shifted(0, 3), "int2"),
    ("MatMulNBits", n_bits(None), "int4"),
    ("MatMulNBits of 8 bits", n_bits(8), "int8"),
    ("MatMulNBits of 2 bits", n_bits(2), "int2"),
]


@pytest.mark.parametrize(("change", "precision"), [entry[1:] for entry in WEIGHT_ONLY], ids=[e[0] for e in WEIGHT_ONLY])
def test_a_model_with_rounded_weights_is_not_fp32(
    change: Callable[[onnx.ModelProto], onnx.ModelProto], precision: Precision, bundle_folder: Path, tmp_path: Path
) -> None:
    """Whatever form the integers take; the layers are still found."""
    proto = change(onnx.load(bundle_folder / "model.onnx"))
    onnx.save(proto, tmp_path / "model.onnx")
    assert precision_of(tmp_path / "model.onnx") == precision
    assert len(find_layers(proto)) == 3


@pytest.mark.parametrize("name", ["int8 dequantised", "int4 dequantised", "nibbles", "MatMulNBits"])
def test_the_models_with_rounded_weights_are_models(name: str, bundle_folder: Path) -> None:
    """onnxruntime runs them, so that the test above is about real files."""
    change = next(change for other, change, _ in WEIGHT_ONLY if other == name)
    proto = change(onnx.load(bundle_folder / "model.onnx"))
    for opset in proto.opset_import:
        opset.version = 21 if opset.domain == "" else opset.version  # int4 came with 21
    assert open_classifier(proto.SerializeToString()).logits(np.zeros((2, 28, 28), np.uint8)).shape == (2, 10)


def test_integers_that_shape_a_weight_round_nothing(bundle_folder: Path, tmp_path: Path) -> None:
    """int64 is a shape here, and uint8 an image: neither makes a model lossy."""
    proto = onnx.load(bundle_folder / "model.onnx")
    first = gemms(proto)[0]
    weight = get(proto, first.input[1])
    nodes = [helper.make_node("Reshape", [first.input[1], "sides"], ["rounded"])]
    onnx.save(replaced(proto, nodes, sides=np.array(weight.shape, np.int64)), tmp_path / "model.onnx")
    assert precision_of(tmp_path / "model.onnx") == "fp32"
