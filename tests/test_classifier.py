"""Any classifier from anywhere: fed in the form that it takes, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mnist_edge.contract import NORMALIZATIONS, Normalization
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError, UsageError
from mnist_edge.runtime.classifier import open_classifier

RANDOM = np.random.default_rng(5)
WEIGHT = RANDOM.normal(0, 0.05, (784, 10)).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (5, 28, 28), dtype=np.uint8)
# Each written out from its definition, apart from the toolkit's own.
NORMALIZED = {
    "raw": IMAGES.astype(float),
    "unit": IMAGES / 255,
    "seed": IMAGES / 127.5 - 1,
    "mnist": (IMAGES / 255 - 0.1307) / 0.3081,
}
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def linear(shape: list[int | str], kind: int = FLOAT, *, metadata: str = "", **changes: Any) -> bytes:
    """A foreign model: one matrix product over the flattened picture."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        changes.get("nodes", nodes),
        "foreign",
        changes.get("inputs", [helper.make_tensor_value_info("x", kind, shape)]),
        changes.get("outputs", [helper.make_tensor_value_info("y", FLOAT, [shape[0], 10])]),
        [numpy_helper.from_array(changes.get("weight", WEIGHT), "w")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("somewhere.else", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if metadata:
        helper.set_model_props(model, {"mnist_edge.normalization": metadata})
    return model.SerializeToString()


def expected(normalization: str) -> NDArray[np.float64]:
    return NORMALIZED[normalization].reshape(5, 784) @ WEIGHT.astype(float)


def agree(found: NDArray[np.float32], normalization: str) -> None:
    assert (found.shape, found.dtype) == ((5, 10), np.float32)
    np.testing.assert_allclose(
        found, expected(normalization), rtol=1e-4, atol=2e-6 * np.abs(NORMALIZED[normalization]).max() * 50
    )


@pytest.mark.parametrize("shape", [["b", 784], ["b", 28, 28], ["b", 1, 28, 28], ["b", 28, 28, 1], [-1, 784]], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_float_models_of_every_shape_and_normalisation(shape: list[int | str], normalization: Normalization) -> None:
    """Logits equal a float64 product over pixels normalised by the textbook, at any batch size."""
    classifier = open_classifier(linear(shape), normalization=normalization)
    assert classifier.fixed_batch is None
    for batch in (None, 1, 2, 5, 64):
        agree(classifier.logits(IMAGES, batch), normalization)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_fixed_batch_is_filled_up_and_its_surplus_dropped(batch: int) -> None:
    """A graph for one batch size answers any number of pictures, each once and in order."""
    classifier = open_classifier(linear([batch, 1, 28, 28]), normalization="unit")
    assert classifier.fixed_batch == batch
    agree(classifier.logits(IMAGES, 64), "unit")


@pytest.mark.parametrize("shape", [["b", 1, 28, 28], ["b", 28, 28], ["b", 784]], ids=str)
def test_uint8_models_get_the_bytes_as_they_are(shape: list[int | str]) -> None:
    """No normalisation is put upon a model that brings its own, not even one that was asked for."""
    classifier = open_classifier(linear(shape, UINT8))
    agree(classifier.logits(IMAGES), "raw")


def test_a_float_model_that_does_not_say_asks_for_its_normalisation() -> None:
    """A guess would give wrong answers in silence; the hint names the option and its values."""
    with pytest.raises(UsageError, match="does not say") as caught:
        open_classifier(linear(["b", 784])).logits(IMAGES)
    assert "--normalize raw|unit|seed|mnist" in caught.value.hint
    with pytest.raises(UsageError):
        open_classifier(linear(["b", 784], metadata="nonsense")).logits(IMAGES)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_float_model_that_says_is_believed(normalization: Normalization) -> None:
    """The file's own metadata decides, unless the user does."""
    classifier = open_classifier(linear(["b", 784], metadata=normalization))
    agree(classifier.logits(IMAGES), normalization)
    agree(open_classifier(linear(["b", 784], metadata=normalization), normalization="unit").logits(IMAGES), "unit")


def value(name: str, kind: int = FLOAT, shape: tuple[int | str, ...] = ("b", 784)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    "inputs",
    [
        [value("x"), value("other")],
        [value("x", TensorProto.INT64)],
        [value("x", TensorProto.DOUBLE)],
        [value("x", FLOAT, ("b", "c", 28, 28))],
        [value("x", FLOAT, ())],
    ],
    ids=["two", "int64", "double", "free sides", "scalar"],
)
def test_models_with_unexpected_inputs_are_bad_files(inputs: list[onnx.ValueInfoProto]) -> None:
    """What is found and what was expected are both in the line."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    model = onnx.load_from_string(linear(["b", 784], nodes=nodes, inputs=inputs))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 784]), "shape"))
    with pytest.raises(BadFileError, match=r"takes x|takes other|only the batch may be free|Reshape"):
        open_classifier(model.SerializeToString(), normalization="unit").logits(IMAGES)


def test_a_model_for_other_pictures_is_a_bad_file() -> None:
    """A classifier of 32x32 pictures is refused, not fed with something of another shape."""
    weight = np.zeros((1024, 10), np.float32)
    with pytest.raises(BadFileError, match="28x28"):
        open_classifier(linear(["b", 1, 32, 32], weight=weight), normalization="unit").logits(IMAGES)


def other_output(nodes: list[onnx.NodeProto], output: onnx.ValueInfoProto) -> bytes:
    first = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return linear(["b", 784], nodes=first + nodes, outputs=[output])


SEQUENCE = helper.make_tensor_sequence_value_info("y", FLOAT, None)


@pytest.mark.parametrize(
    "model",
    [
        other_output([helper.make_node("ArgMax", ["logits"], ["y"], axis=1)], value("y", TensorProto.INT64, ("b", 1))),
        other_output([helper.make_node("Cast", ["logits"], ["y"], to=11)], value("y", TensorProto.DOUBLE, ("b", 10))),
        other_output([helper.make_node("Transpose", ["logits"], ["y"])], value("y", FLOAT, (10, "b"))),
        other_output([helper.make_node("ReduceSum", ["logits"], ["y"])], value("y", FLOAT, (1, 1))),
        other_output([helper.make_node("SequenceConstruct", ["logits"], ["y"])], SEQUENCE),
    ],
    ids=["labels", "double", "turned", "one number", "sequence"],
)
def test_models_with_other_outputs_are_bad_files(model: bytes) -> None:
    """Whatever comes back, it is logits of the pictures given, or a refusal."""
    with pytest.raises(BadFileError, match="answers"):
        open_classifier(model, normalization="unit").logits(IMAGES)


def test_a_node_of_a_foreign_domain_is_a_bad_file() -> None:
    """A custom operator that is not installed is named; nothing is loaded for it."""
    node = helper.make_node("Mystery", ["x"], ["y"], domain="somewhere.else")
    with pytest.raises(BadFileError, match="Mystery"):
        open_classifier(linear(["b", 784], nodes=[node]))


@pytest.mark.parametrize("content", [b"", b"this is text\n", b"\x89PNG\r\n\x1a\n", b"\x00" * 1000, b"PK\x03\x04"])
def test_other_files_named_onnx_are_bad_files(content: bytes, tmp_path: Path) -> None:
    """The line names the file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        open_classifier(path)
    assert str(path) in caught.value.message


def test_a_cut_model_is_a_bad_file_wherever_it_was_cut(tmp_path: Path) -> None:
    """A download that broke off never runs, and never ends the process."""
    whole = linear(["b", 784])
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 200, 7), *range(200, len(whole), 1999), *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:length])
        try:
            found = open_classifier(path, normalization="unit").logits(IMAGES)
        except BadFileError:
            continue
        agree(found, "unit")  # cut after everything that matters


def test_a_folder_or_nothing_named_onnx_is_refused(tmp_path: Path) -> None:
    """A wrong path is named, whatever lies there."""
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(MnistEdgeError, match=r"folder\.onnx"):
        open_classifier(tmp_path / "folder.onnx")
    with pytest.raises(UnavailableError, match=r"nothing\.onnx does not exist"):
        open_classifier(tmp_path / "nothing.onnx")


def outsourced(path: Path, location: str) -> None:
    """A model whose weights lie in another file."""
    model = onnx.load_from_string(linear(["b", 784]))
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "normalization", ["missing", "parent", "absolute", "symlink", "hard link", "hard link below", "hard link linked"]
)
def test_external_data_from_elsewhere_is_a_bad_file(normalization: str, tmp_path: Path) -> None:
    """A model file cannot make the process read another file of the machine."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHT.tobytes())
    location = {
        "missing": "gone.bin", "parent": "../secret.bin", "absolute": str(secret), "hard link below": "sub/w.bin",
        "hard link linked": "link/w.bin",
    }.get(normalization, "w.bin")  # fmt: skip
    if normalization == "symlink":
        (folder / "w.bin").symlink_to(secret)
    if normalization == "hard link linked":
        (folder / "deep").mkdir()
        (folder / "link").symlink_to("deep")
    if normalization.startswith("hard link"):
        (folder / location).hardlink_to(secret)
    outsourced(folder / "m.onnx", location)
    with pytest.raises(BadFileError, match=r"m\.onnx") as caught:
        open_classifier(folder / "m.onnx")
    assert not normalization.startswith("hard link") or f"{folder / location} are a hard link" in caught.value.message


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin"])
def test_external_data_of_its_own_are_read(location: str, tmp_path: Path) -> None:
    """The control of the test above. The model itself may have two names, and so may what it does not read."""
    (tmp_path / "sub").mkdir()
    (tmp_path / location).write_bytes(WEIGHT.tobytes())
    outsourced(tmp_path / "m.onnx", location)
    (tmp_path / "also m.onnx").hardlink_to(tmp_path / "m.onnx")
    (tmp_path / "other.bin").write_bytes(b"")
    (tmp_path / "another.bin").hardlink_to(tmp_path / "other.bin")
    agree(open_classifier(tmp_path / "m.onnx", normalization="unit").logits(IMAGES), "unit")
