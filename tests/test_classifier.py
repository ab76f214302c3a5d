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
from mnist_edge.runtime.interface import output_kind

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
    with pytest.raises(UsageError, match="does not state how its pixels are normalised") as caught:
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
        [value("x", FLOAT, ())],
        [value("x", FLOAT, (784,))],
        [value("x", FLOAT, ("b", 100_003))],
        [value("x", FLOAT, ("b", 16))],
        [value("x", FLOAT, ("b", 3, 1, 28, 28))],
        [value("x", FLOAT, ("b", 100_000, 100_000))],
        [value("x", FLOAT, (2**40, 784))],
    ],
    ids=["two", "int64", "scalar", "no batch", "no square", "measurements", "video", "huge", "huge batch"],
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
    with pytest.raises(BadFileError, match=r"takes (x|other) |Reshape") as caught:
        open_classifier(model.SerializeToString(), normalization="unit")
    assert "digit classifier" not in caught.value.hint


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Bilinear interpolation between pixel centres, written out: larger images only."""
    at = np.clip((np.arange(side) + 0.5) * 28 / side - 0.5, 0, 27)
    low = np.minimum(at.astype(int), 26)
    weight = at - low
    matrix = np.zeros((side, 28))
    matrix[np.arange(side), low] += 1 - weight
    matrix[np.arange(side), low + 1] += weight
    return np.einsum("ih,nhw,jw->nij", matrix, images.astype(float), matrix)


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "side"),
    [
        (["b", 1, 32, 32], "NCHW", 1, 32),
        (["b", 32, 32, 1], "NHWC", 1, 32),
        (["b", 3, 28, 28], "NCHW", 3, 28),
        (["b", 28, 28, 3], "NHWC", 3, 28),
        (["b", 3, 40, 40], "NCHW", 3, 40),
        (["b", 1024], "flat", 1, 32),
        (["b", 3072], "flat", 3, 32),
        (["b", 1, 784], "flat", 1, 28),
        (["b", 56, 56], "NHW", 1, 56),
        ([2, 3, 32, 32], "NCHW", 3, 32),
        (["b", 1, "height", "width"], "NCHW", 1, 28),
        (["b", "c", 28, 28], "NCHW", 1, 28),
        (["b", "height", "width", 3], "NHWC", 3, 28),
        (["b", "values"], "flat", 1, 28),
    ],
    ids=str,
)
def test_images_are_resized_and_repeated_in_channels(
    shape: list[int | str], layout: str, channels: int, side: int
) -> None:
    """Outputs equal a float64 product over an interpolation of its own; the model's reading of its input is recorded."""
    weight = RANDOM.normal(0, 0.05, (channels * side * side, 10)).astype(np.float32)
    classifier = open_classifier(linear(shape, weight=weight), normalization="unit")
    found = classifier.input
    assert (found.layout, found.channels, found.height, found.width) == (layout, channels, side, side)
    assert ("resized" in found.preparation, "repeated" in found.preparation) == (side != 28, channels == 3)
    images = np.repeat(resized(IMAGES, side)[..., None], channels, axis=3) / 255
    images = images if layout == "NHWC" else images.transpose(0, 3, 1, 2)
    logits = classifier.logits(IMAGES)
    rounding = np.abs(weight).sum(axis=0).max() / 255 if side != 28 else 1e-5  # Pillow rounds pixels to integers
    np.testing.assert_allclose(logits, images.reshape(5, -1) @ weight.astype(float), rtol=1e-4, atol=rounding)
    assert rounding < 0.2 * np.abs(logits).max()


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (["b", 2, 28, 28], "2 channels"),
        (["b", 64, 28, 28], "64 channels"),
        (["b", 1, 2, 2], "2x2"),
        (["b", 1, 2048, 28], "2048x28"),
    ],
)
def test_images_that_no_resizing_fits_are_refused_by_what_was_found(shape: list[int | str], match: str) -> None:
    """Such a model opens, for it can be timed; running digits through it is refused."""
    weight = np.zeros((int(np.prod([side for side in shape if isinstance(side, int)])), 10), np.float32)
    classifier = open_classifier(linear(shape, weight=weight), normalization="unit")
    with pytest.raises(BadFileError, match=match) as caught:
        classifier.logits(IMAGES)
    assert caught.value.hint.startswith("export it for")


def test_int8_pixels_have_no_agreed_scale() -> None:
    """A guess would be wrong in silence; the model can be timed."""
    classifier = open_classifier(linear(["b", 784], TensorProto.INT8))
    with pytest.raises(BadFileError, match="int8 pixels have no agreed scale"):
        classifier.logits(IMAGES)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE], ids=["half", "double"])
def test_half_and_double_precision_are_taken_and_returned(kind: int) -> None:
    """Outputs of any float type become float32; inputs are normalised in float32 and then cast."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=FLOAT),
        helper.make_node("MatMul", ["float", "w"], ["float y"]),
        helper.make_node("Cast", ["float y"], ["y"], to=kind),
    ]
    model = linear(["b", 784], kind, nodes=nodes, outputs=[value("y", kind, ("b", 10))])
    logits = open_classifier(model, normalization="unit").logits(IMAGES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected("unit"), rtol=2e-3, atol=2e-3)


def other_output(nodes: list[onnx.NodeProto], *outputs: onnx.ValueInfoProto) -> bytes:
    first = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return linear(["b", 784], nodes=first + nodes, outputs=list(outputs))


ARGMAX = helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0)
LABEL = value("label", TensorProto.INT64, ("b",))
AXES = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([2, 3])))


@pytest.mark.parametrize(
    "model",
    [
        other_output([ARGMAX], LABEL, value("logits", FLOAT, ("b", 10))),
        other_output([], value("flat", FLOAT, ("b", 784)), value("logits", FLOAT, ("b", 10))),
        other_output(
            [AXES, helper.make_node("Unsqueeze", ["logits", "axes"], ["y"])], value("y", FLOAT, ("b", 10, 1, 1))
        ),
    ],
    ids=["label first", "features first", "rank 4"],
)
def test_the_output_with_a_value_for_each_class_is_read(model: bytes) -> None:
    """Whatever stands before it, and with further axes of length 1."""
    classifier = open_classifier(model, normalization="unit")
    agree(classifier.logits(IMAGES), "unit")
    agree(classifier.class_logits(IMAGES, 10), "unit")
    agree(classifier.logits(IMAGES, 1), "unit")
    assert classifier.output.classes == 10


MAPS = helper.make_value_info(
    "maps",
    helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    ),
)
ZIPMAP = helper.make_node("ZipMap", ["logits"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(10)))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (other_output([ARGMAX], LABEL), ("label",)),
        (other_output([ARGMAX, ZIPMAP], LABEL, MAPS), ("label, maps", "zipmap=False")),
        (
            other_output(
                [helper.make_node("SequenceConstruct", ["logits"], ["y"])],
                helper.make_tensor_sequence_value_info("y", FLOAT, None),
            ),
            ("y",),
        ),
    ],
    ids=["labels", "maps", "sequence"],
)
def test_outputs_without_class_values_are_timed_but_not_evaluated(model: bytes, names: tuple[str, ...]) -> None:
    """The refusal names the outputs and the export option that helps."""
    if b"ZipMap" in model:
        proto = onnx.load_from_string(model)
        proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
        model = proto.SerializeToString()
    classifier = open_classifier(model, normalization="unit")
    assert classifier.run_for([classifier.output.name], classifier.prepare(IMAGES))
    with pytest.raises(BadFileError, match="no float output") as caught:
        classifier.logits(IMAGES)
    text = caught.value.message + caught.value.hint
    assert all(name in text for name in (*names, "it can only be timed"))


@pytest.mark.parametrize(
    "model",
    [
        other_output([helper.make_node("Transpose", ["logits"], ["y"])], value("y", FLOAT, (10, "b"))),
        other_output([helper.make_node("ReduceSum", ["logits"], ["y"])], value("y", FLOAT, (1, 1))),
    ],
    ids=["transposed", "one number"],
)
def test_outputs_of_other_shapes_are_bad_files(model: bytes) -> None:
    """Whatever comes back, it is one row an image, or a refusal."""
    with pytest.raises(BadFileError, match="returns float32"):
        open_classifier(model, normalization="unit").logits(IMAGES)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("classes", [2, 27])
def test_another_number_of_classes_than_the_dataset_is_refused(classes: int, declared: bool) -> None:
    """It can be timed; to evaluate it, its labels would have to mean something else."""
    weight = RANDOM.normal(size=(784, classes)).astype(np.float32)
    output = value("y", FLOAT, ("b", classes if declared else "classes"))
    classifier = open_classifier(linear(["b", 784], weight=weight, outputs=[output]), normalization="unit")
    assert classifier.logits(IMAGES).shape == (5, classes)
    with pytest.raises(BadFileError, match=f"predicts {classes} classes, the dataset has 10"):
        classifier.class_logits(IMAGES, 10)


def test_the_kind_of_the_outputs_is_read_from_their_values() -> None:
    """Softmax, log-softmax, sigmoid and none of them, in single and half precision."""
    logits = RANDOM.normal(0, 4, (300, 10)).astype(np.float32)
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for dtype in (np.float32, np.float16):
        rounded = {
            "logits": logits,
            "probabilities": soft,
            "log-probabilities": np.log(soft),
            "scores": 1 / (1 + np.exp(-logits)),
        }
        for kind, values in rounded.items():
            assert output_kind(values.astype(dtype).astype(np.float32)) == kind
    assert output_kind(np.full((3, 10), np.nan, np.float32)) == "logits"
    assert output_kind(np.abs(logits)) == "logits"


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
    if normalization in {"hard link", "hard link below"}:
        assert f"{folder / location} are a hard link" in caught.value.message


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
