"""The reader of linear chains: what it returns computes what the graph computes, and everything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.verification.linear_chain import LinearChain, NotLinearChainError, linear_chain_of, read_linear_chain

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 28, 28), dtype=np.uint8)


def computed(chain: LinearChain, images: np.ndarray) -> np.ndarray:
    """The chain by its definition, float64 (n, out)."""
    values = images.reshape(len(images), -1).astype(np.float64)
    for layer in chain.layers:
        values = values @ layer.weight.T.astype(np.float64) + layer.bias
        values = np.maximum(values, 0) if layer.relu else values
    return values


def graph(*nodes: onnx.NodeProto, shape: tuple[object, ...] = ("n", 28, 28), dtype: int = TensorProto.UINT8,
          half: bool = False, **constants: np.ndarray) -> ModelProto:  # fmt: skip
    """A model from nodes between `image` and `logits`, with constants of a 784-16-10 net among others."""
    known = {
        "w1": RANDOM.normal(0, 0.001, (784, 16)), "b1": RANDOM.normal(0, 1, 16),
        "w2": RANDOM.normal(0, 1, (16, 10)), "b2": RANDOM.normal(0, 1, 10),
    }  # fmt: skip
    stored = {name: value.astype(np.float16 if half else np.float32) for name, value in known.items()}
    stored |= {"flat": np.array([-1, 784]), **constants}
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "net",
            [helper.make_tensor_value_info("image", dtype, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("n", 10))],
            [numpy_helper.from_array(value, name) for name, value in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def node(operator: str, *names: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, names[:-1], names[-1:], **attributes)


START = (node("Cast", "image", "x", to=1), node("Reshape", "x", "flat", "a"))
GEMMS = (node("Gemm", "a", "w1", "b1", "h"), node("Relu", "h", "r"), node("Gemm", "r", "w2", "b2", "logits"))

READ: dict[str, Callable[[], ModelProto]] = {
    "gemm": lambda: graph(*START, *GEMMS),
    "matmul and add, either way round": lambda: graph(
        *START, node("MatMul", "a", "w1", "m"), node("Add", "b1", "m", "h"), node("Relu", "h", "r"),
        node("MatMul", "r", "w2", "n"), node("Add", "n", "b2", "logits"),
    ),
    "no bias, a ReLU twice, flatten before the cast": lambda: graph(
        node("Flatten", "image", "f"), node("Cast", "f", "a", to=1), node("Gemm", "a", "w1", "h"),
        node("Relu", "h", "s"), node("Relu", "s", "r"), node("MatMul", "r", "w2", "logits"),
    ),
    "a ReLU at the end": lambda: graph(
        *START, *GEMMS[:2], node("Gemm", "r", "w2", "b2", "z"), node("Relu", "z", "logits")
    ),
    "two layers without a ReLU": lambda: graph(
        *START, node("Gemm", "a", "w1", "b1", "h"), node("Gemm", "h", "w2", "b2", "logits")
    ),
    "weights stored in half, turned, a shape that is a node": lambda: graph(
        node("Constant", "turned", value_ints=[0, -1]), node("Cast", "image", "x", to=1),
        node("Reshape", "x", "turned", "a"), node("Cast", "w1", "full", to=1), node("Transpose", "full", "t", perm=[1, 0]),
        node("Gemm", "a", "t", "c1", "h", transB=1), node("Relu", "h", "r"), node("Cast", "w2", "e", to=1),
        node("Gemm", "r", "e", "one", "logits"), half=True, c1=np.ones((1, 16), np.float32), one=np.float32([3]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_chain_computes_what_the_graph_computes(name: str) -> None:
    """Against onnxruntime; a transposed weight or a dropped bias would show."""
    proto = READ[name]()
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": IMAGES})
    chain = read_linear_chain(proto.SerializeToString())
    np.testing.assert_allclose(computed(chain, IMAGES), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert chain.widths == (784, 16, 10)
    assert {layer.weight.dtype.name for layer in chain.layers} == {"float32"}
    assert all(layer.weight.flags.c_contiguous for layer in chain.layers)


def test_an_export_is_read_with_its_relus(bundle_folder: Path) -> None:
    chain = read_linear_chain(bundle_folder / "model.onnx")
    assert (chain.widths, chain.input_dtype) == ((784, 48, 32, 10), "uint8")
    assert [layer.relu for layer in chain.layers] == [True, True, False]


REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "another activation": (
        lambda: graph(*START, GEMMS[0], node("Tanh", "h", "r"), GEMMS[2]), "Tanh is no operator of a linear chain"
    ),
    "softmax": (
        lambda: graph(*START, *GEMMS[:2], node("Gemm", "r", "w2", "b2", "z"), node("Softmax", "z", "logits")),
        "Softmax is no operator",
    ),
    "another domain": (
        lambda: graph(*START, GEMMS[0], node("Relu", "h", "r", domain="other"), GEMMS[2]), "Relu is no operator"
    ),
    "alpha": (
        lambda: graph(*START, node("Gemm", "a", "w1", "b1", "h", alpha=0.5), *GEMMS[1:]), r"Gemm with alpha 0\.5"
    ),
    "a branch": (
        lambda: graph(*START, *GEMMS[:2], node("Add", "h", "r", "s"), node("Gemm", "s", "w2", "b2", "logits")),
        "Add takes something else than the output of the node before it",
    ),
    "half precision": (
        lambda: graph(node("Cast", "image", "x", to=10), START[1], *GEMMS, half=True), "Cast to float16"
    ),
    "half precision from the input on": (
        lambda: graph(START[1], *GEMMS, half=True, dtype=TensorProto.FLOAT16), "the graph takes float16"
    ),
    "weights in half precision": (lambda: graph(*START, *GEMMS, half=True), "Gemm in float16"),
    "images mixed": (
        lambda: graph(START[0], node("Reshape", "x", "flat", "a"), *GEMMS, flat=np.array([784, -1])),
        r"Reshape to \[784, -1\] mixes images",
    ),
    "flattened as one": (
        lambda: graph(START[0], node("Flatten", "x", "a", axis=0), *GEMMS), "Flatten of axis 0 mixes images"
    ),
    "a second bias": (
        lambda: graph(*START, *GEMMS[:2], node("Gemm", "r", "w2", "b2", "z"), node("Add", "z", "b2", "logits")),
        "Add does not follow a MatMul",
    ),
    "an infinite weight": (
        lambda: graph(*START, *GEMMS, b2=np.float32([np.inf] * 10)), "Gemm has weights that are NaN or infinite"
    ),
    "a constant that is computed": (
        lambda: graph(node("Mul", "w1", "w1", "v"), *START, node("Gemm", "a", "v", "b1", "h"), *GEMMS[1:]),
        "Mul is no operator",
    ),
    "free sides": (lambda: graph(*START, *GEMMS, shape=("n", "h", "w")), "axes of unknown length"),
    "an output before the end": (
        lambda: graph(*START, *GEMMS, node("Relu", "logits", "more")), "output of the graph is not"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_name(name: str) -> None:
    """A bound on something else than what is computed would be worse than none."""
    make, message = REFUSED[name]
    with pytest.raises(NotLinearChainError, match=message) as caught:
        linear_chain_of(make())
    assert isinstance(caught.value, UsageError)
    assert "Gemm, MatMul, Add, Relu, Flatten, Cast, Reshape" in caught.value.hint


def test_a_file_that_is_no_model_is_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07broken")
    with pytest.raises(BadFileError):
        read_linear_chain(tmp_path / "x.onnx")
