"""Integer networks as ONNX files: onnxruntime computes the reference's bytes, and nothing but such a file is read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import conv_network, dense_network, layer, saturating_network
from onnx import numpy_helper

from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError
from mnist_edge.integer_network import IntegerNetwork, check_network, integer_logits
from mnist_edge.verification.integer_graph import integer_graph, read_integer_network

Level = onnxruntime.GraphOptimizationLevel
LEVELS = (Level.ORT_DISABLE_ALL, Level.ORT_ENABLE_BASIC, Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)


def session(model: bytes, level: Level = Level.ORT_ENABLE_ALL, optimised: Path | None = None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def logits(model: bytes, images: np.ndarray, level: Level, batch: int | None = None) -> np.ndarray:
    opened = session(model, level)
    size = batch or len(images)
    parts = [opened.run(None, {"image": images[i : i + size]})[0] for i in range(0, len(images), size)]
    return np.concatenate(parts)


NETWORKS: dict[str, Callable[[int], IntegerNetwork]] = {
    "int8": dense_network,
    "int4": lambda seed: dense_network(seed, (32, 16), bits=4),
    "conv": conv_network,
    "single": lambda seed: dense_network(seed, ()),
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10**6), st.sampled_from([18, 20, 21, 23]), st.integers(1, 40))
def test_every_level_and_batch_gives_the_bytes_of_the_reference(kind: str, seed: int, opset: int, batch: int) -> None:
    """Fused into integer products or computed in floats, packed or INT4: no byte differs."""
    network = NETWORKS[kind](seed)
    check_network(network)
    model = integer_graph(network, opset).SerializeToString()
    expected = integer_logits(network, IMAGES).tobytes()
    for level in LEVELS:
        assert logits(model, IMAGES, level, batch).tobytes() == expected
    assert integer_logits(read_integer_network(model), IMAGES).tobytes() == expected


def test_random_shapes_round_trip() -> None:
    """Odd widths in 8 bits, other strides, a layer over the whole map that is followed by dense ones."""
    random = np.random.default_rng(5)

    def weights(*shape: int) -> np.ndarray:
        return random.integers(-7, 8, shape).astype(np.int8)

    for layers in (
        [layer(weights(7, 784, 1, 1), 8, np.ones(7), np.arange(7), 6, 1, 1),
         layer(weights(10, 7, 1, 1), 8, np.ones(10), np.arange(10), 0, 1, 1)],
        [layer(weights(6, 1, 8, 8), 4, random.integers(1, 99, 6), np.arange(6), 11, 4, 28),
         layer(weights(8, 6, 6, 6), 4, random.integers(1, 9, 8), np.arange(8), 9, 1, 6),
         layer(weights(10, 8, 1, 1), 4, random.integers(1, 999, 10), np.arange(10), 3, 1, 1)],
    ):  # fmt: skip
        network = IntegerNetwork(layers=tuple(layers))
        check_network(network)
        model = integer_graph(network, 20).SerializeToString()
        expected = integer_logits(network, IMAGES)
        assert logits(model, IMAGES, LEVELS[0]).tobytes() == logits(model, IMAGES, LEVELS[3]).tobytes()
        assert logits(model, IMAGES, LEVELS[0]).tobytes() == expected.tobytes()
        found = read_integer_network(model)
        for one, other in zip(found.layers, network.layers, strict=True):
            assert (one.weight == other.weight).all()
            assert (one.stride, one.size, one.bits) == (other.stride, other.size, other.bits)


def test_onnxruntime_fuses_8_bits_to_integer_products(tmp_path: Path) -> None:
    """The same operators as for int8, so it is as fast; in 4 bits nothing unpacks weights on a call."""
    for name, kinds in (
        ("int8", ["Reshape", "QGemm", "QGemm", "QGemm"]),
        ("int4", ["Cast", "Flatten", "Gemm", "Round", "Clip", "Gemm", "Round", "Clip", "Gemm"]),
    ):
        for opset in (18, 21):
            session(integer_graph(NETWORKS[name](1), opset).SerializeToString(), optimised=tmp_path / "optimised.onnx")
            assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == kinds


def test_what_saturates_elsewhere_is_right_in_floats_and_refused() -> None:
    """Why a CPU's bytes prove nothing about another's: unfused, even this network computes the reference's."""
    network, white = saturating_network(), np.full((1, 28, 28), 255, np.uint8)
    with pytest.raises(CheckFailedError, match="output 0: a pair of products may reach 64770, at most 32767"):
        check_network(network)
    model = integer_graph(network, 20).SerializeToString()
    expected = [float(4 * 127 * 255 + bias) for bias in range(10)]
    assert integer_logits(network, white).tolist() == [expected]
    assert logits(model, white, LEVELS[0]).tolist() == [expected]


def test_a_weight_that_is_off_by_one_is_read_as_it_is(tmp_path: Path) -> None:
    """The reader does not repeat what was written: it reads the file."""
    proto = integer_graph(dense_network(1), 20)
    weight = next(value for value in proto.graph.initializer if list(value.dims) == [784, 32])
    changed = numpy_helper.to_array(weight).copy()
    changed[100, 3] += 1
    weight.raw_data = changed.tobytes()
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    found = read_integer_network(tmp_path / "model.onnx")
    before = dense_network(1).layers[0].weight
    assert np.argwhere(found.layers[0].weight != before).tolist() == [[3, 100, 0, 0]]


def edited(change: Callable[[onnx.GraphProto], None], network: IntegerNetwork | None = None) -> bytes:
    proto = integer_graph(network or dense_network(1), 20)
    change(proto.graph)
    return proto.SerializeToString()


def constant(graph: onnx.GraphProto, kind: int, dims: int) -> onnx.TensorProto:
    return next(value for value in graph.initializer if value.data_type == kind and len(value.dims) == dims)


def set_bytes(graph: onnx.GraphProto, kind: int, dims: int, data: bytes) -> None:
    constant(graph, kind, dims).raw_data = data


EDITS: dict[str, Callable[[], bytes]] = {
    "a scale that is no power of two": lambda: edited(
        lambda graph: set_bytes(graph, onnx.TensorProto.FLOAT, 0, np.float32(1.25).tobytes())
    ),
    "a zero point": lambda: edited(lambda graph: set_bytes(graph, onnx.TensorProto.UINT8, 0, b"\1")),
    "an operator replaced": lambda: edited(
        lambda graph: setattr(next(node for node in graph.node if node.op_type == "Relu"), "op_type", "Abs")
    ),
    "a node removed": lambda: edited(lambda graph: graph.node.pop(3)),
    "cut weights": lambda: edited(lambda graph: set_bytes(graph, onnx.TensorProto.INT8, 2, b"\1" * 99)),
    "an initializer that nothing takes": lambda: edited(
        lambda graph: graph.initializer.append(numpy_helper.from_array(np.zeros(3), "unused"))
    ),
    "weights in another file": lambda: edited(
        lambda graph: setattr(constant(graph, onnx.TensorProto.INT8, 2), "data_location", onnx.TensorProto.EXTERNAL)
    ),
    "a bias that is no whole number": lambda: edited(
        lambda graph: set_bytes(
            graph, onnx.TensorProto.FLOAT, 1, np.full(20, 1e-20, np.float32).tobytes()
        ), conv_network(3),
    ),
    "another stride": lambda: edited(
        lambda graph: graph.node.extend([]) or graph.node[-2].attribute.append(onnx.helper.make_attribute("axis", 1)),
        conv_network(3),
    ),
    "Floor instead of Round": lambda: edited(
        lambda graph: setattr(next(node for node in graph.node if node.op_type == "Round"), "op_type", "Floor"),
        conv_network(3),
    ),
    "another limit of Clip": lambda: edited(
        lambda graph: setattr(
            [value for value in graph.initializer if value.data_type == 1 and not value.dims][-1],
            "raw_data", np.float32(254).tobytes(),
        ),
        conv_network(3),
    ),
    "no layers": lambda: edited(lambda graph: graph.ClearField("node")),
    "an empty graph": lambda: onnx.ModelProto(ir_version=10).SerializeToString(),
}  # fmt: skip


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_any_other_graph_is_refused(edit: str) -> None:
    """C code, hashes and bounds are derived from what was read: a node more or less would make them false."""
    with pytest.raises(BadFileError, match="the model is not the graph of an integer network"):
        read_integer_network(EDITS[edit]())


def test_other_files_are_refused(tmp_path: Path, bundle_folder: Path) -> None:
    """An fp32 export, bytes that are no model, and no file at all."""
    with pytest.raises(BadFileError, match=r"model.onnx is not the graph of an integer network"):
        read_integer_network(bundle_folder / "model.onnx")
    with pytest.raises(BadFileError, match="not an ONNX model"):
        read_integer_network(b"\xff" * 100)
    with pytest.raises(UnavailableError, match="does not exist"):
        read_integer_network(tmp_path / "absent.onnx")
