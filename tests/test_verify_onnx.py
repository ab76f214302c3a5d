"""`mnist-edge verify MODEL.onnx --against OTHER`: any two classifiers, from anywhere, held against each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line

from mnist_edge.bundle.folder import load_bundle

FLOAT = TensorProto.FLOAT
AGAINST = ("--dataset", "digits", "--normalize", "mnist")


def weights(seed: int = 0, classes: int = 10) -> dict[str, NDArray[np.float32]]:
    """Of a convolution of 8 filters and a linear layer on its 8 x 8 x 8 values."""
    random = np.random.default_rng(seed)
    shapes = {"kernel": (8, 1, 5, 5), "offset": (8,), "matrix": (classes, 512), "bias": (classes,)}
    return {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def cnn(values: dict[str, NDArray[np.float32]], *, batch: int | str = 1, relu: str = "Relu") -> ModelProto:
    """A float CNN as anybody may export it: input (1, 1, 28, 28), no word about its pixels."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "offset"], ["maps"], strides=[3, 3]),
        helper.make_node(relu, ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 1, 28, 28])],
        [helper.make_tensor_value_info("y", FLOAT, [batch, len(values["bias"])])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("somewhere.else", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def saved(folder: Path, name: str, model: ModelProto | bytes) -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def with_values(**changes: Any) -> ModelProto:
    values = weights()
    return cnn(values | {name: normalization(values[name]) for name, normalization in changes.items()})


def test_a_fixed_batch_cnn_passes_against_itself(tmp_path: Path) -> None:
    """A model that takes one image at a time and does not state how its pixels are normalised."""
    saved(tmp_path, "cnn.onnx", cnn(weights()))
    done = in_process("verify", "cnn.onnx", "--against", "cnn.onnx", *AGAINST, "--layers", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    assert (report["passed"], report["model"], report["reference"]) == (True, "cnn.onnx", "cnn.onnx")
    assert (report["dataset"], report["test_set"]) == ("digits", True)
    (row,) = report["variants"]
    assert (row["name"], row["precision"], row["images"], row["flips"], row["batches"]) == ("cnn", "fp32", 360, 0, [1])
    assert row["max_abs_error"] == 0
    assert (row["layers"]["first"], row["layers"]["symptom"], row["layers"]["images"]) == (None, "", 48)
    assert [(tensor["layer"], tensor["kind"], tensor["tensor"]) for tensor in row["layers"]["tensors"]] == [
        (1, "pre-activations", "maps"), (1, "activations", "flat"), (2, "pre-activations", "y"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_same_cnn_with_a_free_batch_passes_at_every_size(tmp_path: Path) -> None:
    """One picture at a time or many, the reference the other way round."""
    saved(tmp_path, "one.onnx", cnn(weights()))
    saved(tmp_path, "many.onnx", cnn(weights(), batch="n"))
    done = in_process(
        "verify", "many.onnx", "--against", "one.onnx", *AGAINST, "--batch", "5,64", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert done.json["variants"][0]["batches"] == [1, 2, 3, 7, 64, 5, 376]
    done = in_process("verify", "one.onnx", "--against", "many.onnx", *AGAINST, "--json", cwd=tmp_path)
    assert (done.code, done.json["variants"][0]["batches"]) == (0, [1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer", "symptom"),
    [
        (cnn(weights() | {"matrix": weights(1)["matrix"]}), 2, "other weights"),
        (with_values(matrix=lambda matrix: np.float32(1.01) * matrix), 2, "scale"),
        (with_values(matrix=lambda matrix: np.roll(matrix, 1, 0), bias=lambda bias: np.roll(bias, 1)), 2, "permutation"),
        (cnn(weights(), relu="Identity"), 1, "missing activation"),
        (with_values(bias=lambda bias: bias + np.float32(np.nan)), 2, "not a number"),
    ],
    ids=["other weights", "scaled weights", "classes moved", "no ReLU", "NaN"],
)  # fmt: skip
def test_another_cnn_fails_and_its_layer_is_named(model: ModelProto, layer: int, symptom: str, tmp_path: Path) -> None:
    """Convolutions are layers too; the line and the report say the same."""
    saved(tmp_path, "other.onnx", model)
    saved(tmp_path, "cnn.onnx", cnn(weights()))
    done = in_process("verify", "other.onnx", "--against", "cnn.onnx", *AGAINST, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (1, False)
    assert f"layer {layer} is the first to drift, {symptom}" in one_line(done.err)
    layers = done.json["variants"][0]["layers"]
    assert (layers["first"], layers["symptom"]) == (layer, symptom)


def other_output() -> ModelProto:
    model = cnn(weights())
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, [1, 1]))
    return model


def unknown_operator() -> ModelProto:
    model = cnn(weights())
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mystery", "somewhere.else"
    return model


def small_pictures() -> ModelProto:
    model = cnn(weights() | {"matrix": np.zeros((10, 392), np.float32)})
    for side in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[side].dim_value = 24
    return model


@pytest.mark.parametrize(
    ("make", "against", "options", "code", "said"),
    [
        (lambda: cnn(weights()), "cnn.onnx", ("--dataset", "digits"), 2, "--normalize raw|unit|seed|mnist"),
        (lambda: cnn(weights()), None, AGAINST, 2, "--against"),
        (lambda: cnn(weights(classes=9)), "cnn.onnx", AGAINST, 1, "it returns (376, 9)"),
        (other_output, "cnn.onnx", AGAINST, 3, "its outputs are label"),
        (small_pictures, "cnn.onnx", AGAINST, 1, "it has 392 units"),
        (unknown_operator, "cnn.onnx", AGAINST, 3, "Mystery"),
        (lambda: b"no model", "cnn.onnx", AGAINST, 3, "model.onnx"),
        (None, "cnn.onnx", AGAINST, 4, "model.onnx does not exist"),
        (lambda: cnn(weights()), "gone.onnx", AGAINST, 4, "gone.onnx does not exist"),
        (lambda: cnn(weights()), "gone.pth", AGAINST, 4, "gone.pth"),
        (lambda: cnn(weights()), "gone", AGAINST, 4, "gone"),
        (lambda: cnn(weights()), "text.onnx", AGAINST, 3, "text.onnx"),
        (lambda: cnn(weights()), "nan.onnx", AGAINST, 1, "nothing to compare with"),
        (lambda: with_values(bias=lambda bias: bias * np.nan), "cnn.onnx", AGAINST, 1, "NaN or infinite"),
    ],
    ids=[
        "no --normalize", "no --against", "nine classes", "labels", "24x24", "unknown operator", "no model", "missing",
        "OTHER missing", "OTHER.pth missing", "OTHER run missing", "OTHER no model", "OTHER NaN", "NaN",
    ],
)  # fmt: skip
def test_what_is_wrong_with_either_file_is_told_in_one_line(
    make: Any, against: str | None, options: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    """Usage 2, a bad file 3, something missing 4, a failed comparison 1; one line, one document, no traceback."""
    if make is not None:
        saved(tmp_path, "model.onnx", make())
    saved(tmp_path, "cnn.onnx", cnn(weights()))
    saved(tmp_path, "nan.onnx", with_values(matrix=lambda matrix: matrix * np.nan))
    saved(tmp_path, "text.onnx", b"no model")
    more = () if against is None else ("--against", against)
    done = in_process("verify", "model.onnx", *more, *options, "--json", cwd=tmp_path)
    assert done.code == code, done.err
    assert said in one_line(done.err)
    document = json.loads(done.out)
    if code == 1:
        assert document["passed"] is False
    else:
        assert set(document) == {"schema", "error"}


@pytest.mark.parametrize("option", [("--normalize", "seed"), ("--dataset", "digits")])
def test_options_for_files_are_refused_for_bundles(
    option: tuple[str, str], bundle_folder: Path, tmp_path: Path
) -> None:
    """A bundle knows its own; an option that would do nothing is a mistake."""
    done = in_process("verify", bundle_folder, *option, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert option[0] in one_line(done.err)


def test_an_exported_file_is_verified_against_its_run(workplace: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """Its own metadata name the dataset, it brings its normalisation, and PyTorch is asked live."""
    run = workplace / "runs" / "digits"
    done = in_process(
        "verify",
        bundle_folder / "model.onnx",
        "--against",
        run,
        "--layers",
        "--json",
        "--optimization",
        "none",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert (done.json["dataset"], done.json["test_set"], done.json["settings"]["optimization"]) == (
        "digits",
        True,
        "none",
    )
    assert done.json["variants"][0]["layers"]["images"] == 48


def test_layers_of_a_bundle_in_json_and_in_the_table(bundle_folder: Path, tmp_path: Path) -> None:
    """--layers tells every stage of a model that is right; without it there is none."""
    done = in_process("verify", bundle_folder, "--layers", "--batch", "3,5", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = done.json["variants"]
    assert row["batches"] == [1, 2, 3, 7, 64, 5, 376]
    layers = row["layers"]
    assert set(layers) == {"images", "tensors", "first", "symptom", "detail"}
    assert [(tensor["layer"], tensor["kind"]) for tensor in layers["tensors"]] == [
        (1, "pre-activations"), (1, "activations"), (2, "pre-activations"), (2, "activations"), (3, "pre-activations"),
    ]  # fmt: skip
    assert all(0 <= tensor["drift"] < tensor["allowed"] == 1e-4 for tensor in layers["tensors"])
    table = in_process("verify", bundle_folder, "--layers", cwd=tmp_path)
    assert table.code == 0
    assert "layer by layer on 48 images" in table.out
    assert in_process("verify", bundle_folder, "--json", cwd=tmp_path).json["variants"][0]["layers"] is None


def test_more_images_than_there_are_make_no_batch(bundle_folder: Path, tmp_path: Path) -> None:
    """2 with the number there is, which is taken; the table names every size that was run."""
    done = in_process("verify", bundle_folder, "--batch", "377", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "batch 377 cannot be run: there are 376 golden images" in one_line(done.err)
    done = in_process("verify", bundle_folder, "--batch", "376,100", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "run at batch 1, 2, 3, 7, 64, 376, 100" in " ".join(done.out.split())


@pytest.mark.parametrize("batch", ["0", "-1", "3,x", "", "1.5"])
def test_a_batch_that_is_no_number_is_2(batch: str, bundle_folder: Path, tmp_path: Path) -> None:
    """The option is named, before anything is run."""
    done = in_process("verify", bundle_folder, f"--batch={batch}", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--batch" in one_line(done.err)


def test_a_plot_is_drawn_and_another_ending_is_refused_first(bundle_folder: Path, tmp_path: Path) -> None:
    """A picture that opens; x.txt costs nobody any work, not even on a bundle that is not there."""
    done = in_process("verify", bundle_folder, "--plot", "sheet.png", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == "wrote sheet.png"
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    done = in_process("verify", "nowhere", "--plot", "x.txt", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "--plot x.txt" in one_line(done.err)
    assert not (tmp_path / "x.txt").exists()


def int8_bundle(bundle_folder: Path, target: Path) -> Path:
    """A model that quantises its pixels, which are whole numbers already: lossy, and every answer is the same."""
    proto = onnx.load(bundle_folder / "model.onnx")
    place, cast = next((i, node) for i, node in enumerate(proto.graph.node) if node.op_type == "Cast")
    pixels, cast.output[0] = cast.output[0], "floats"
    names = ["pixel scale", "pixel zero point"]
    proto.graph.node.insert(place + 1, helper.make_node("QuantizeLinear", ["floats", *names], ["integers"]))
    proto.graph.node.insert(place + 2, helper.make_node("DequantizeLinear", ["integers", *names], [pixels]))
    values = (np.float32(1), np.uint8(0))
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for v, n in zip(values, names, strict=True))
    return rewrite_bundle(bundle_folder, target, model=proto.SerializeToString(), precision="int8")


@pytest.mark.slow
def test_the_accuracy_drop_allowed_is_in_percentage_points(bundle_folder: Path, tmp_path: Path) -> None:
    """360 images without a change bound the loss at 0.829 %: 0.82 fails, 0.83 passes, and nothing at all fails."""
    folder = int8_bundle(bundle_folder, tmp_path / "b")
    bound = 100 * (1 - 0.05 ** (1 / 360))
    assert 0.82 < bound < 0.83
    for drop, code in (("0.83", 0), ("0.82", 1), ("0", 1), ("100", 0)):
        done = in_process("verify", folder, "--max-accuracy-drop", drop, "--json", cwd=tmp_path)
        assert done.code == code, done.err
        accuracy = done.json["variants"][0]["accuracy"]
        assert accuracy["max_drop"] == pytest.approx(float(drop) / 100)
        assert accuracy["drop_upper95"] == pytest.approx(bound / 100, rel=1e-6)
        assert accuracy["non_inferior"] == (code == 0)
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["variants"][0]["accuracy"]["max_drop"]) == (1, 0.001)
    assert "360 images cannot show that it loses at most 0.10% accuracy" in one_line(done.err)
    for drop in ("-1", "101", "nan", "x"):
        assert in_process("verify", folder, f"--max-accuracy-drop={drop}", cwd=tmp_path).code == 2


def test_int8_without_the_test_set_fails_closed(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that has only the golden inputs the reason names what would prove it."""
    folder = int8_bundle(bundle_folder, tmp_path / "b")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"], done.json["test_set"]) == (1, False, False)
    assert "images cannot show" in done.json["variants"][0]["reason"]
    assert "give the test set" in done.json["variants"][0]["reason"]


def test_a_device_without_onnx_compares_no_layers_and_says_so(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 is verified all the same, a wrong one too; --layers there is 4 with the command that fixes it."""
    proto = onnx.load(bundle_folder / "model.onnx")
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Identity"
    broken = rewrite_bundle(bundle_folder, tmp_path / "broken", model=proto.SerializeToString())
    assert load_bundle(broken).manifest.variants[0].precision == "fp32"
    for name in ("onnx", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    done = in_process("verify", bundle_folder, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (0, True), done.err
    done = in_process("verify", bundle_folder, "--layers", "--json", cwd=tmp_path)
    assert (done.code, set(done.json)) == (4, {"schema", "error"})
    assert "onnx is not installed (" in one_line(done.err)
    done = in_process("verify", broken, "--json", cwd=tmp_path)
    (row,) = done.json["variants"]
    assert (done.code, row["passed"], row["layers"]) == (1, False, None)
    assert "logits differ" in row["reason"]
