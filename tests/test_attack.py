"""Models made to harm whoever opens them: exit 3, or 1 for one that never returns; one line, bounded time and memory."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_cli import in_process

from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.model_file import check_model, is_small_dense_network
from mnist_edge.runtime.reasons import plain_text
from mnist_edge.runtime.session import RefusedModelError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
WEIGHT = np.random.default_rng(3).normal(0, 0.05, (784, 10)).astype(np.float32)
DENSE = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
ESCAPES = "\x1b]0;title\x07\x1b[31mred"


def value(name: str, shape: tuple[int | str, ...], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(more: list[onnx.NodeProto] | None = None, **changes: Any) -> onnx.ModelProto:
    """A linear classifier of 28x28 images, with further nodes."""
    extra = [numpy_helper.from_array(array, name) for name, array in changes.get("extra", {}).items()]
    graph = helper.make_graph(
        [*DENSE, *(more or [])],
        "attack",
        changes.get("inputs", [value("x", ("b", 1, 28, 28))]),
        changes.get("outputs", [value("logits", ("b", 10))]),
        [numpy_helper.from_array(WEIGHT, "w"), *extra],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def replaced(proto: onnx.ModelProto, old: bytes, new: bytes) -> bytes:
    data = proto.SerializeToString()
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


def fill(elements: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["top"], keepdims=0),
    ]
    nodes += [helper.make_node("Add", ["logits", "top"], ["y"])]
    return model(nodes, outputs=[value("y", ("b", 10))], extra={"n": np.array([elements])})


def tile(times: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Tile", ["logits", "times"], ["y"])]
    return model(nodes, outputs=[value("y", ("b", "many"))], extra={"times": np.array([1, times])})


def outer_product(side: int) -> onnx.ModelProto:
    """A file of a few kilobytes whose product of two constants takes `side` x `side` values."""
    nodes = [
        helper.make_node("MatMul", ["column", "row"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["top"], keepdims=0),
    ]
    nodes += [helper.make_node("Add", ["logits", "top"], ["y"])]
    extra = {"column": np.ones((side, 1), np.float32), "row": np.ones((1, side), np.float32)}
    return model(nodes, outputs=[value("y", ("b", 10))], extra=extra)


def loop(times: int) -> onnx.ModelProto:
    """The logits through a loop that adds 0 so many times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Mul", ["state", "one"], ["next"])],
        "body",
        [value("i", (), INT64), value("go", (), TensorProto.BOOL), value("state", ("b", 10))],
        [value("go_on", (), TensorProto.BOOL), value("next", ("b", 10))],
    )
    nodes = [helper.make_node("Loop", ["times", "true", "logits"], ["y"], body=body)]
    extra = {"times": np.array(times), "true": np.array(True), "one": np.ones((), np.float32)}
    return model(nodes, outputs=[value("y", ("b", 10))], extra=extra)


def sparse() -> onnx.ModelProto:
    proto = model()
    values = helper.make_tensor("s", FLOAT, [1], [1.0])
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", INT64, [1], [0]), [10**6, 10**6])
    )
    return proto


def huge_tensor() -> onnx.ModelProto:
    proto = model()
    proto.graph.initializer[0].dims[:] = [2**40, 10]
    return proto


def nested(depth: int) -> onnx.ModelProto:
    """If within If within If."""
    branch = helper.make_graph([helper.make_node("Identity", ["logits"], ["y"])], "leaf", [], [value("y", ("b", 10))])
    for level in range(depth):
        node = helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch if level == 0 else LEAF)
        branch = helper.make_graph([node], f"level {level}", [], [value("y", ("b", 10))])
    return model(list(branch.node), outputs=[value("y", ("b", 10))], extra={"true": np.array(True)})


LEAF = helper.make_graph([helper.make_node("Identity", ["logits"], ["y"])], "leaf", [], [value("y", ("b", 10))])

REFUSED_AT_ONCE: dict[str, tuple[Any, str]] = {
    "input name not UTF-8": (lambda: replaced(model(), b"\x01x", b"\x01\xff"), "not UTF-8"),
    "output name not UTF-8": (lambda: replaced(model(), b"logits", b"logi\xff\xfe"), "not UTF-8"),
    "escapes in an operator": (lambda: replaced(model(), b"Flatten", b"\x1b[2J\x07aa"), "aa is not known"),
    "no output": (lambda: model(outputs=[]).SerializeToString(), "has no output"),
    "no input": (lambda: model(inputs=[]).SerializeToString(), "has no input"),
    "no graph": (lambda: helper.make_model(helper.make_graph([], "", [], [])).SerializeToString(), "no output"),
    "sparse": (lambda: sparse().SerializeToString(), "sparse tensors"),
    "huge tensor": (lambda: huge_tensor().SerializeToString(), "declares 10,995,116,277,760 values"),
    "huge input": (lambda: model(inputs=[value("x", (2**40, 1, 28, 28))]).SerializeToString(), "values an image"),
    "deeply nested": (lambda: nested(25).SerializeToString(), "subgraphs"),
}


@pytest.mark.parametrize("kind", REFUSED_AT_ONCE)
def test_a_crafted_model_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """Exit 3, no control characters on the terminal, no `unexpected`."""
    make, expected = REFUSED_AT_ONCE[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(make())
    done = in_process("eval", path, "--normalize", "unit", "--dataset", "digits", cwd=tmp_path)
    assert done.code == 3, done.err
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable()


def test_escapes_in_names_are_shown_escaped_by_every_command(tmp_path: Path) -> None:
    """An input name that would set a window's title and its colour."""
    proto = model(inputs=[value("x", ("b", "p", "q", "r", "s"))])
    for node in proto.graph.node:
        node.input[:] = [ESCAPES if name == "x" else name for name in node.input]
    proto.graph.input[0].name = ESCAPES
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    for command in (("eval", path), ("bench", path), ("verify", path, "--against", path)):
        done = in_process(*command, cwd=tmp_path)
        assert (done.code, done.err.count("\n")) == (3, 1), done.err
        assert done.err.rstrip("\n").isprintable()
        assert "\\x1b[31mred" in done.err


@pytest.mark.parametrize(
    "make",
    [lambda: fill(2**34), lambda: tile(2**31), lambda: outer_product(100_000)],
    ids=["ConstantOfShape 64 GB", "Tile", "outer product"],
)
def test_a_small_file_cannot_take_all_memory(make: Any, tmp_path: Path) -> None:
    """It is run in a process with a limit, and refused as a bad file; this process takes nothing."""
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    with pytest.raises(RefusedModelError, match="memory for one image") as caught:
        open_classifier(path, normalization="unit")
    assert "onnxruntime_src" not in caught.value.message


def test_a_model_that_never_returns_ends_at_the_timeout(tmp_path: Path) -> None:
    """Exit 1, whether it is tried first or already running here; one that is only slow returns."""
    path = tmp_path / "model.onnx"
    onnx.save(loop(2**62), path)
    with pytest.raises(CheckFailedError, match=r"did not return within 1\.5 s"):
        open_classifier(path, normalization="unit", timeout=1.5)
    running = open_classifier(path, normalization="unit", timeout=0.2, trial=False)
    began = time.monotonic()
    with pytest.raises(CheckFailedError, match=r"did not return within 0\.2 s"):
        running.logits(np.zeros((2, 28, 28), np.uint8))
    assert time.monotonic() - began < 60
    onnx.save(loop(1000), path)
    assert open_classifier(path, normalization="unit").logits(np.zeros((2, 28, 28), np.uint8)).shape == (2, 10)


def test_the_timeout_is_an_option_of_eval_and_verify(tmp_path: Path) -> None:
    """The default of 60 seconds is long for a test."""
    path = tmp_path / "model.onnx"
    onnx.save(loop(2**62), path)
    for command in (("eval", path), ("verify", path, "--against", path)):
        done = in_process(*command, "--timeout", "0.5", "--normalize", "unit", "--dataset", "digits", cwd=tmp_path)
        assert (done.code, done.err.count("\n")) == (1, 1), done.err
        assert "did not return within 0.5 s" in done.err


def test_dense_networks_need_no_trial_and_others_do() -> None:
    """The rule that decides it: a chain of products with constants cannot grow."""
    plain = model([helper.make_node("Softmax", ["logits"], ["y"])], outputs=[value("y", ("b", 10))])
    assert is_small_dense_network(check_model(plain.SerializeToString(), "plain"))
    for proto in (fill(2), tile(2), outer_product(3), loop(3), nested(1)):
        assert not is_small_dense_network(check_model(proto.SerializeToString(), "other"))
    wide = [helper.make_node("Reshape", ["logits", "column"], ["tall"])]
    for number in range(3):
        wide.append(helper.make_node("MatMul", ["tall" if number == 0 else f"c{number}", "row"], [f"w{number}"]))
        wide.append(helper.make_node("Reshape", [f"w{number}", "column"], [f"c{number + 1}"]))
    extra = {"column": np.array([-1, 1]), "row": np.ones((1, 10_000), np.float32)}
    proto = model(wide, outputs=[value("c3", ("b", 1))], extra=extra)
    assert not is_small_dense_network(check_model(proto.SerializeToString(), "wide"))


def with_external(path: Path, location: str, **entries: str) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": "0", "length": str(WEIGHT.nbytes), **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("location", "entries", "expected"),
    [
        ("../outside.bin", {}, "plain path"),
        ("sub/../w.bin", {}, "plain path"),
        ("./w.bin", {}, "plain path"),
        ("ABSOLUTE", {}, "plain path"),
        ("link.bin", {}, "symbolic link"),
        ("linked/w.bin", {}, "symbolic link"),
        ("hard.bin", {}, "hard link"),
        ("sub", {}, "no regular file"),
        ("fifo", {}, "no regular file"),
        ("gone.bin", {}, "are missing"),
        ("w.bin", {"offset": "8"}, "expected 31,368"),
        ("w.bin", {"length": "8"}, "31,360 bytes, its external data have 8"),
        ("w.bin", {"offset": "-1"}, "no number"),
        ("w.bin", {"length": "9" * 30}, "no number"),
        ("", {}, "plain path"),
    ],
    ids=str,
)
def test_external_data_are_an_ordinary_file_below_the_model(
    location: str, entries: dict[str, str], expected: str, tmp_path: Path
) -> None:
    """Links inside the folder are refused too: whoever writes to the other name changes the model."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "w.bin", folder / "sub" / "w.bin", folder / "other.bin", tmp_path / "outside.bin"):
        path.write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to("w.bin")
    (folder / "linked").symlink_to("sub")
    (folder / "hard.bin").hardlink_to(folder / "other.bin")
    os.mkfifo(folder / "fifo")
    with_external(folder / "m.onnx", str(folder / "w.bin") if location == "ABSOLUTE" else location, **entries)
    with pytest.raises(BadFileError, match=expected):
        open_classifier(folder / "m.onnx")
    with_external(folder / "m.onnx", "sub/w.bin")
    assert open_classifier(folder / "m.onnx", normalization="unit").output.classes == 10


def test_cut_and_mutated_models_are_walked_in_order() -> None:
    """The walk over the bytes ends with a result or a BadFileError on any bytes."""
    whole = model([helper.make_node("Softmax", ["logits"], ["y"])], outputs=[value("y", ("b", 10))]).SerializeToString()
    random = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(int(random.integers(1, 8))):
            at = int(random.integers(0, len(data))) if random.random() < 0.5 else int(random.integers(0, 120))
            data[at] = int(random.integers(0, 256))
        try:
            check_model(bytes(data[: int(random.integers(1, len(data)))]), "mutated")
        except BadFileError:
            continue


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:/onnxruntime_src/core/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, bool) Unsupported thing",
            "Unsupported thing",
        ),
        (
            "Non-zero status code returned while running Reshape node. Name:'n' Status Message: /onnxruntime_src/a_helper.h:84 onnxruntime::Helper::Helper(const onnxruntime::TensorShape&, bool) size != 0 && (a % size) == 0 was false. The input tensor cannot be reshaped",
            "Reshape: The input tensor cannot be reshaped",
        ),
        ("tensorprotoutils.cc:619 ValidateExternalDataPath External data path", "External data path"),
        ("libcudnn.so.9 is missing\nmore", "libcudnn.so.9 is missing"),
        ("", "no reason given"),
    ],
)
def test_reasons_carry_no_signatures_and_source_paths(message: str, plain: str) -> None:
    """What is left is the sentence for the user."""
    assert plain_text(message) == plain


@pytest.mark.parametrize(
    ("change", "expected", "hint"),
    [
        (lambda proto: setattr(proto, "ir_version", 50), "IR version 50", "install --upgrade onnxruntime"),
        (lambda proto: setattr(proto.opset_import[0], "version", 99), "opset 99", "install --upgrade onnxruntime"),
        (lambda proto: setattr(proto.graph.node[0], "op_type", "Levitate"), "operator Levitate", "--opset"),
    ],
    ids=["IR version", "opset", "operator"],
)
def test_a_newer_model_is_named_by_what_is_new(change: Any, expected: str, hint: str, tmp_path: Path) -> None:
    """With the versions found and supported, and a command that helps."""
    proto = model()
    change(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RefusedModelError, match=expected) as caught:
        open_classifier(tmp_path / "m.onnx")
    assert hint in caught.value.hint
    assert not any(trace in caught.value.message for trace in ("onnxruntime_src", "::", "ONNXRuntimeError"))


def test_a_number_of_bits_is_known_for_every_type() -> None:
    """The declared size of other types is not checked: strings, and 6-bit floats, which onnxruntime does not read."""
    from mnist_edge.runtime.model_file import BITS

    known = {
        number
        for name, number in TensorProto.DataType.items()
        if name not in {"UNDEFINED", "STRING", "FLOAT6E2M3", "FLOAT6E3M2"}
    }
    assert known == set(BITS)
    for number in known - {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        width = helper.tensor_dtype_to_np_dtype(number).itemsize * 8
        assert BITS[number] <= width
        assert math.log2(BITS[number]).is_integer()


def test_a_dimension_whose_name_is_no_text_is_a_bad_file(tmp_path: Path) -> None:
    """onnxruntime hands out the bytes as they are; found by the fuzz suite."""
    path = tmp_path / "m.onnx"
    path.write_bytes(replaced(model(outputs=[value("logits", ("batch", 10))]), b"batch", b"\x99\xff\xfe\xfdx"))
    with pytest.raises(BadFileError, match="UTF-8"):
        open_classifier(path, normalization="unit")
