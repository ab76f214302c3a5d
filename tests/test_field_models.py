"""ONNX files as people publish them: every one can be timed; evaluated where a digit fits, otherwise refused with what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_cli import in_process, one_line

from mnist_edge.benchmarking.feeds import random_feeds
from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.data.digits import load_digits
from mnist_edge.runtime.classifier import open_classifier

FLOAT, DOUBLE, HALF, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64
NODE, VALUE = helper.make_node, helper.make_tensor_value_info
FLAT = [NODE("Flatten", ["x"], ["flat"])]
IMAGES = VALUE("x", FLOAT, ["N", 1, 28, 28])
LABEL = VALUE("label", INT64, ["N"])
ARGMAX = NODE("ArgMax", ["logits"], ["label"], axis=1, keepdims=0)
SOFTMAX = NODE("Softmax", ["logits"], ["probabilities"], axis=1)
MAPS = helper.make_value_info(
    "maps",
    helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))),
)
ZIPMAP = NODE("ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(10)))
CROP = {"st": np.array([0, 0, 2, 2]), "en": np.array([2**31 - 1, 2**31 - 1, 30, 30]), "axes": np.array([2, 3])}


@pytest.fixture(scope="module")
def weights() -> tuple[np.ndarray, np.ndarray, float]:
    """A linear least-squares classifier of the digits, and its accuracy on their test set."""
    data = load_digits()

    def pixels(images: np.ndarray) -> np.ndarray:
        return np.concatenate([images.reshape(len(images), -1) / 255, np.ones((len(images), 1))], axis=1)

    targets = np.eye(10)[data.train_labels]
    inputs = pixels(data.train_images)
    fitted = np.linalg.solve(inputs.T @ inputs + 3 * np.eye(785), inputs.T @ targets)
    accuracy = float(((pixels(data.test_images) @ fitted).argmax(axis=1) == data.test_labels).mean())
    assert accuracy > 0.85
    return fitted[:784].astype(np.float32), fitted[784].astype(np.float32), accuracy


def saved(
    path: Path, weights: tuple[np.ndarray, np.ndarray, float], before: list[Any], after: list[Any], taken: Any, given: list[Any],
    dtype: type = np.float32, classes: int = 10,
) -> Path:  # fmt: skip
    """A linear classifier between `before`, which makes `flat`, and `after`, which takes `logits`."""
    matrix, bias, _ = weights
    constants = {
        "w": np.resize(matrix.T, (classes, 784)).T.astype(dtype),
        "b": np.resize(bias, classes).astype(dtype),
    } | CROP
    nodes = [*before, NODE("MatMul", ["flat", "w"], ["product"]), NODE("Add", ["product", "b"], ["logits"]), *after]
    used = {name for node in nodes for name in node.input}
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = helper.make_graph(nodes, "g", [taken], given, stored)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


LOGITS = [VALUE("logits", FLOAT, ["N", 10])]
GREY = [NODE("ReduceMean", ["x"], ["c"], axes=[1], keepdims=1), NODE("Flatten", ["c"], ["flat"])]
CUT = [NODE("Slice", ["x", "st", "en"], ["c"]), NODE("Flatten", ["c"], ["flat"])]
CAST = [NODE("Cast", ["x"], ["c"], to=FLOAT), NODE("Flatten", ["c"], ["flat"])]
RANK4 = [NODE("Unsqueeze", ["logits", "axes"], ["y"])]
EVALUATED: dict[str, dict[str, Any]] = {
    "rgb": {"before": GREY, "taken": VALUE("x", FLOAT, ["N", 3, 28, 28])},
    "32x32": {"before": CUT, "taken": VALUE("x", FLOAT, ["N", 1, 32, 32])},
    "double": {"before": CAST, "taken": VALUE("x", DOUBLE, ["N", 1, 28, 28])},
    "free sides": {"taken": VALUE("x", FLOAT, ["N", 1, "height", "width"])},
    "half": {
        "taken": VALUE("x", HALF, ["N", 1, 28, 28]),
        "given": [VALUE("logits", HALF, ["N", 10])],
        "dtype": np.float16,
    },
    "label first": {"after": [SOFTMAX, ARGMAX], "given": [LABEL, VALUE("probabilities", FLOAT, ["N", 10])]},
    "rank 4": {"after": RANK4, "given": [VALUE("y", FLOAT, ["N", 10, 1, 1])]},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"after": [ARGMAX], "given": [LABEL]}, "its outputs are label"),
    "maps": ({"after": [SOFTMAX, ARGMAX, ZIPMAP], "given": [LABEL, MAPS]}, "zipmap=False"),
    "2 classes": ({"classes": 2, "given": [VALUE("logits", FLOAT, ["N", 2])]}, "2 classes"),
    "27 classes": ({"classes": 27, "given": [VALUE("logits", FLOAT, ["N", 27])]}, "27 classes"),
}


def make(path: Path, weights: Any, changes: dict[str, Any]) -> Path:
    return saved(path, weights, **({"before": FLAT, "after": [], "taken": IMAGES, "given": LOGITS} | changes))


def require_timeable(path: Path) -> None:
    """Go through what bench does before it starts processes, and run what a process would time."""
    (candidate,) = resolve_plan(Plan(model=path, normalization="unit")).candidates
    classifier = open_classifier(candidate.file, trial=False, normalization="unit")
    feed = random_feeds(classifier.input, 3)[0]
    assert classifier.run_for([classifier.output.name], feed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVALUATED)
def test_a_published_digit_classifier_is_evaluated_and_timed(kind: str, weights: Any, tmp_path: Path) -> None:
    """Its accuracy is that of the arithmetic, whatever the form of its input and output; a resized image costs some."""
    path = make(tmp_path / "model.onnx", weights, EVALUATED[kind])
    done = in_process("eval", path, "--normalize", "unit", "--dataset", "digits", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    if kind == "32x32":  # the net expects the digit in the middle; it gets it enlarged
        assert 0.4 < done.json["accuracy"] <= weights[2]
    else:
        assert abs(done.json["accuracy"] - weights[2]) < 0.006
    assert ("32x32" in done.out, "repeated" in done.out) == (kind == "32x32", kind == "rgb")
    require_timeable(path)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_evaluated_is_refused_and_timed(kind: str, weights: Any, tmp_path: Path) -> None:
    """Exit 3 with what was found and an export that helps; never `give a digit classifier`."""
    changes, expected = REFUSED[kind]
    path = make(tmp_path / "model.onnx", weights, changes)
    done = in_process("eval", path, "--normalize", "unit", "--dataset", "digits", cwd=tmp_path)
    assert done.code == 3, done.err
    assert expected in one_line(done.err)
    assert "give a digit classifier" not in done.err
    require_timeable(path)
