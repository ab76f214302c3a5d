"""`inspect`: counts that were computed by hand, files of every kind, and crafted ones that end in bounded time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_cli import in_process, one_line

from mnist_edge.inspection import process
from mnist_edge.inspection.graph import inspect_model
from mnist_edge.records.inspection import InspectReport

FLOAT, INT8, UINT8, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
)
NODE, VALUE = helper.make_node, helper.make_tensor_value_info
IMAGES = VALUE("x", FLOAT, ["batch", 3, 28, 28])
ROWS = VALUE("x", FLOAT, ["batch", 784])
KEYS = ["schema", "model", "inputs", "outputs", "layers", "parameters", "multiplications", "opset", "operators", "metadata"]  # fmt: skip


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def integers(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int8)


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], given: list[Any], *, opset: int = 20, **more: Any
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    outputs = more.pop("outputs", [onnx.ValueInfoProto(name=nodes[-1].output[0])])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("own", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", given, outputs, stored), opset_imports=opsets, **more)


def inspected(*arguments: Any, **more: Any) -> InspectReport:
    return inspect_model(model(*arguments, **more), Path("model.onnx"))


def test_a_perceptron() -> None:
    """784 x 600 + 600 x 10 products, the biases are parameters; a free batch is one image."""
    constants = {"w": floats(600, 784), "b": floats(600), "v": floats(600, 10), "c": floats(10)}
    nodes = [
        NODE("Gemm", ["x", "w", "b"], ["h"], name="first", transB=1),
        NODE("Relu", ["h"], ["r"]),
        NODE("MatMul", ["r", "v"], ["product"]),
        NODE("Add", ["product", "c"], ["y"]),
    ]
    found = inspected(nodes, constants, [ROWS])
    assert (found.parameters, found.multiplications) == (784 * 600 + 600 + 600 * 10 + 10, 784 * 600 + 600 * 10)
    assert [(layer.name, layer.operator, layer.shape, layer.parameters, layer.multiplications) for layer in found.layers] == [
        ("first", "Gemm", (1, 600), 784 * 600 + 600, 784 * 600),
        ("product", "MatMul", (1, 10), 6000, 6000),
        ("y", "Add", (1, 10), 10, 0),
    ]  # fmt: skip
    assert (found.opset, found.operators) == (20, {"Add": 1, "Gemm": 1, "MatMul": 1, "Relu": 1})
    assert found.inputs[0].shape == ("batch", 784)
    assert found.outputs[0].shape is None


COUNTED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], Any, int, int]] = {
    # 16 maps of 13 x 13, each value from 3 x 5 x 5
    "Conv": ([NODE("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])], {"w": floats(16, 3, 5, 5), "b": floats(16)}, IMAGES, 16 * 75 + 16, 16 * 13 * 13 * 75),
    "depthwise": ([NODE("Conv", ["x", "w"], ["y"], group=3)], {"w": floats(3, 1, 3, 3)}, IMAGES, 27, 3 * 26 * 26 * 9),
    # each of 3 x 28 x 28 values times 8 x 2 x 2 weights
    "ConvTranspose": ([NODE("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"w": floats(3, 8, 2, 2)}, IMAGES, 96, 3 * 28 * 28 * 32),
    "fixed batch": ([NODE("Gemm", ["x", "w"], ["y"])], {"w": floats(784, 10)}, VALUE("x", FLOAT, [64, 784]), 7840, 64 * 7840),
    "stacked": ([NODE("MatMul", ["x", "w"], ["y"])], {"w": floats(3, 28, 5)}, IMAGES, 420, 3 * 28 * 28 * 5),
    "vector": ([NODE("MatMul", ["x", "w"], ["y"])], {"w": floats(784)}, ROWS, 784, 784),
    "Einsum": ([NODE("Einsum", ["x", "w"], ["y"], equation="bchw, hk -> bk")], {"w": floats(28, 5)}, IMAGES, 140, 3 * 28 * 28 * 5),
    "LSTM": ([NODE("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=7)], {"w": floats(1, 28, 5), "r": floats(1, 28, 7), "b": floats(1, 56)}, VALUE("x", FLOAT, [9, 2, 5]), 28 * 12 + 56, 9 * 2 * 28 * 12),
    "QDQ": (
        [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["a"]),
         NODE("DequantizeLinear", ["w", "s", "z"], ["d"]), NODE("Gemm", ["a", "d", "b"], ["y"])],
        {"w": integers(784, 10), "s": floats(), "z": np.zeros((), np.int8), "b": floats(10)}, ROWS, 7850, 7840,
    ),
    "MatMulInteger": (
        [NODE("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), NODE("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
         NODE("Cast", ["i"], ["f"], to=FLOAT), NODE("Mul", ["f", "ws"], ["y"])],
        {"w": integers(784, 10), "wz": np.zeros((), np.int8), "ws": floats()}, ROWS, 7840, 7840,
    ),
    "QLinearConv": (
        [NODE("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["y"])],
        {"w": integers(16, 3, 5, 5), "s": floats(), "z": np.zeros((), np.uint8), "ws": floats(16), "wz": np.zeros(16, np.int8), "b": np.ones(16, np.int32)},
        VALUE("x", UINT8, ["batch", 3, 28, 28]), 16 * 75 + 16, 16 * 24 * 24 * 75,
    ),
    "QLinearMatMul": (
        [NODE("QLinearMatMul", ["x", "s", "z", "w", "s", "wz", "s", "z"], ["y"])],
        {"w": integers(784, 10), "s": floats(), "z": np.zeros((), np.uint8), "wz": np.zeros((), np.int8)},
        VALUE("x", UINT8, ["batch", 784]), 7840, 7840,
    ),
    "normalised": (
        [NODE("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"]), NODE("Clip", ["n", "zero", "six"], ["y"])],
        {"g": floats(3), "b": floats(3), "m": floats(3), "v": floats(3), "zero": floats(), "six": floats()}, IMAGES, 12, 0,
    ),
    "folded weights": (
        [NODE("Transpose", ["w"], ["t"]), NODE("Reshape", ["x", "rows"], ["r"]), NODE("MatMul", ["r", "t"], ["y"])],
        {"w": floats(10, 2352), "rows": np.array([-1, 2352])}, IMAGES, 23520, 23520,
    ),
    "shared weights": ([NODE("MatMul", ["x", "w"], ["h"]), NODE("MatMul", ["h", "w"], ["y"])], {"w": floats(784, 784)}, ROWS, 784**2, 2 * 784**2),
    "4 bits": (
        [NODE("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=784, N=10, bits=4, block_size=16)],
        {"w": np.zeros((10, 49, 8), np.uint8), "s": floats(490)}, ROWS, 7840, 7840,
    ),
    "linear model": (
        [NODE("LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", coefficients=[0.5] * 7840, intercepts=[0.0] * 10)],
        {}, ROWS, 7850, 7840,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COUNTED)
def test_counts_are_those_computed_by_hand(kind: str) -> None:
    """Parameters and multiplications of every kind of product."""
    nodes, constants, given, parameters, products = COUNTED[kind]
    found = inspected(nodes, constants, [given])
    assert (found.parameters, found.multiplications) == (parameters, products)


def branch(weight: str) -> onnx.GraphProto:
    return helper.make_graph([NODE("MatMul", ["x", weight], ["y"])], "branch", [], [VALUE("y", FLOAT, None)])


UNKNOWN: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], Any, int | None]] = {
    "free length": ([NODE("MatMul", ["x", "w"], ["y"])], {"w": floats(5, 7)}, VALUE("x", FLOAT, ["batch", "length", 5]), 35),
    "no shape": ([NODE("Conv", ["x", "w"], ["y"])], {"w": floats(16, 3, 5, 5)}, onnx.ValueInfoProto(name="x"), 1200),
    "own operator": ([NODE("Magic", ["x", "w"], ["y"], domain="own")], {"w": floats(5, 7)}, ROWS, 35),
    "branches": ([NODE("If", ["so"], ["y"], then_branch=branch("w"), else_branch=branch("v"))], {"so": np.array(True), "w": floats(784, 10), "v": floats(784, 10)}, ROWS, 15680),
    "not counted": ([NODE("Attention", ["x", "x", "x"], ["y"], q_num_heads=1, kv_num_heads=1)], {}, VALUE("x", FLOAT, [1, 2, 3]), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_does_not_follow_from_the_shapes_is_unknown(kind: str) -> None:
    """A number that was guessed would be worse than none; parameters are still counted."""
    nodes, constants, given, parameters = UNKNOWN[kind]
    found = inspected(nodes, constants, [given], opset=23)
    assert (found.parameters, found.multiplications) == (parameters, None)
    assert any(layer.multiplications is None for layer in found.layers)


def test_stated_shapes_of_another_batch_do_not_count() -> None:
    """Tools that change the batch of a file leave the old shapes of values in it."""
    proto = model([NODE("Conv", ["x", "w"], ["h"]), NODE("Relu", ["h"], ["y"])], {"w": floats(2, 3, 3, 3)}, [IMAGES])
    proto.graph.value_info.append(VALUE("h", FLOAT, [64, 2, 26, 26]))
    assert inspect_model(proto, Path("m.onnx")).multiplications == 2 * 26 * 26 * 27


def test_functions_are_counted_where_they_are_called() -> None:
    """A function of the file that is called twice multiplies twice; its operators are listed once."""
    body = [NODE("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("own", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 20)])
    calls = [NODE("Product", ["x", "w"], ["h"], domain="own"), NODE("Product", ["h", "w"], ["y"], domain="own")]
    found = inspected(calls, {"w": floats(784, 784)}, [ROWS], functions=[function])
    assert (found.parameters, found.multiplications) == (784**2, 2 * 784**2)
    assert found.operators == {"MatMul": 1, "own.Product": 2}


def test_types_of_every_form_are_named() -> None:
    """Sequences, maps, sparse tensors and unnamed axes; weights that old files also list as inputs are none."""
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
    outputs = [helper.make_value_info("maps", maps), VALUE("y", TensorProto.BFLOAT16, [None, 2])]
    given = [ROWS, VALUE("w", FLOAT, [784, 2]), helper.make_sparse_tensor_value_info("s", TensorProto.DOUBLE, ["n", 3])]
    found = inspected([NODE("MatMul", ["x", "w"], ["y"])], {"w": floats(784, 2)}, given, outputs=outputs)
    assert [(value.name, value.dtype, value.shape) for value in (*found.inputs, *found.outputs)] == [
        ("x", "float32", ("batch", 784)),
        ("s", "sparse(float64)", ("n", 3)),
        ("maps", "seq(map(int64, float32))", None),
        ("y", "bfloat16", (None, 2)),
    ]


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no time; a shape that lies in a file is read."""
    nodes = [NODE("Reshape", ["x", "rows"], ["r"]), NODE("MatMul", ["r", "w"], ["y"])]
    proto = model(nodes, {"rows": np.array([-1, 2**19])}, [VALUE("x", FLOAT, ["batch", 2, 2**18])])
    for name, kind, sides, offset in (("w", FLOAT, (2**19, 2**19), 4096), ("rows", INT64, (2,), 0)):
        tensor = proto.graph.initializer.add() if name == "w" else proto.graph.initializer[0]
        tensor.CopyFrom(TensorProto(name=name, data_type=kind, dims=sides, data_location=TensorProto.EXTERNAL))
        for key, text in (("location", "data.bin"), ("offset", str(offset))):
            tensor.external_data.add(key=key, value=text)
        if name == "rows":
            tensor.external_data.add(key="length", value="16")
    with (tmp_path / "data.bin").open("wb") as file:
        file.write(np.array([-1, 2**19]).tobytes())
        file.truncate(4096 + 4 * 2**38)
    onnx.save(proto, tmp_path / "m.onnx")
    found = process.inspect_file(tmp_path / "m.onnx")
    assert (found.parameters, found.multiplications) == (2**38, 2**38)


def test_the_documents_of_a_file_a_variant_and_a_bundle(two_variant_bundle: Path, tmp_path: Path) -> None:
    """The same keys for each; a bundle adds its variants, and shows the first."""
    whole = in_process("inspect", two_variant_bundle, "--json", cwd=tmp_path)
    assert (whole.code, whole.err) == (0, "")
    assert list(whole.json) == [*KEYS, "variant", "variants"]
    assert (whole.json["variant"], list(whole.json["variants"])) == ("fp32", ["fp32", "int8"])
    for name, document in whole.json["variants"].items():
        assert list(document) == KEYS
        assert (document["parameters"], document["multiplications"]) == (39_578, 784 * 48 + 48 * 32 + 32 * 10), name
    named = in_process("inspect", two_variant_bundle, "--variant", "fp32", "--json", cwd=tmp_path)
    assert named.json == whole.json["variants"]["fp32"]
    assert named.json["metadata"]["mnist_edge.dataset"] == "digits"
    assert named.json["inputs"] == [{"name": "image", "dtype": "uint8", "shape": ["batch", 28, 28]}]


def test_the_table_shows_what_is_unknown_and_no_control_characters(tmp_path: Path) -> None:
    """Names come from files that others wrote."""
    proto = model([NODE("Magic\x1b[2J", ["x"], ["y"], domain="own")], {}, [VALUE("x", FLOAT, ["\x1b]0;t\x07", 4])])
    helper.set_model_props(proto, {"key\x9b": "\u202evalue"})
    onnx.save(proto, tmp_path / "m.onnx")
    done = in_process("inspect", "m.onnx", cwd=tmp_path)
    assert done.code == 0, done.err
    assert all(line.isprintable() for line in done.out.splitlines())
    assert "unknown" in done.out
    assert "\\x1b]0;t" in done.out


def recursive() -> bytes:
    """A function that calls itself."""
    body = [NODE("Endless", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "Endless", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    calls = [NODE("Endless", ["x"], ["y"], domain="own")]
    return model(calls, {}, [ROWS], functions=[function]).SerializeToString()


BAD: dict[str, tuple[Any, int, str]] = {
    "cut": (lambda: model([NODE("Relu", ["x"], ["y"])], {}, [ROWS]).SerializeToString()[:-5], 3, "truncated"),
    "text": (lambda: b"<!doctype html>", 3, "web page"),
    "recursion": (recursive, 3, "m.onnx"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(kind: str, tmp_path: Path) -> None:
    """Whatever onnx does with it: an error, or the end of the process that reads it."""
    make, code, said = BAD[kind]
    (tmp_path / "m.onnx").write_bytes(make())
    done = in_process("inspect", "m.onnx", cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in one_line(done.err)


def test_bad_arguments_are_one_line(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there, a FIFO, a folder without a bundle, an unknown variant, a machine without onnx."""
    os.mkfifo(tmp_path / "fifo")
    for words, code, said in (
        (["no.onnx"], 4, "does not exist"),
        (["fifo"], 3, "FIFO"),
        (["."], 4, "holds no bundle"),
        ([bundle_folder, "--variant", "int5"], 2, "has no variant"),
        ([bundle_folder / "model.onnx", "--variant", "fp32"], 2, "--variant names"),
        ([], 4, "exported/"),
    ):
        done = in_process("inspect", *words, cwd=tmp_path)
        assert (done.code, done.out) == (code, ""), words
        assert said in one_line(done.err)
    monkeypatch.setattr(process, "find_spec", lambda _name: None)
    done = in_process("inspect", bundle_folder, cwd=tmp_path)
    assert done.code == 4
    assert "install" in one_line(done.err)


def test_a_graph_that_takes_too_long_is_refused(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is limited, whatever onnx does."""
    monkeypatch.setattr(process, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(process.BadFileError, match="to read"):
        process.inspect_file(bundle_folder / "model.onnx")
