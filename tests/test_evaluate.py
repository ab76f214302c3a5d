"""Evaluating models and images from the field: what looks wrong is named in one line, and never changes the result."""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from test_cli import in_process, one_line

from mnist_edge.contract import LABELS, DatasetName
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.records.data import Dataset, EvaluationSet
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.tables.evaluation import eval_table
from mnist_edge.verification.accuracy import evaluate as compare_with_labels
from mnist_edge.verification.unusual_images import describe_unusual
from mnist_edge.workflow.evaluate import evaluate


@pytest.fixture(autouse=True)
def no_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset of this machine is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.delenv("MNIST_EDGE_DATA", raising=False)


def write_test_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """Write the two IDX files of a test set; nothing else is in the folder."""
    folder.mkdir()
    for file, values in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        (folder / file).write_bytes(header + np.ascontiguousarray(values).tobytes())
    return str(folder)


def nearest_mean(digits: Dataset, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (784, 10) and bias of a linear classifier on pixels of 0 to `largest`: the nearest class mean wins."""
    pixels = digits.train_images.reshape(-1, 784) * (largest / 255)
    means = np.stack([pixels[digits.train_labels == label].mean(axis=0) for label in range(10)])
    return means.T.astype(np.float32), (-0.5 * (means**2).sum(axis=1)).astype(np.float32)


def write_model(
    path: Path, digits: Dataset, last: str = "", *, classes: int = 10, dataset: str = "digits", largest: float = 1
) -> Path:
    """Write a float model on pixels of 0 to `largest` that ends in its logits or in one more operator."""
    weight, bias = nearest_mean(digits, largest)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y" if not last else "logits"]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["logits"], ["y"]))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(weight[:, :classes], "w"), numpy_helper.from_array(bias[:classes], "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"mnist_edge.dataset": dataset})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def model(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "linear.onnx", digits)


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "inverted": (lambda images: 255 - images, "inverted"),
    "transposed": (lambda images: images.transpose(0, 2, 1), "transposed"),
    "binary": (lambda images: (images > 127).astype(np.uint8), "binary"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_odd_images_are_evaluated_and_named(change: str, bundle_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    """A test set alone, inverted, transposed or of zeros and ones: its accuracy, and one line on what looks odd."""
    applied, word = CHANGES[change]
    folder = write_test_set(tmp_path / "own", applied(digits.test_images), digits.test_labels)
    lines: list[str] = []
    report = evaluate(bundle_folder, dataset=folder, notify=lines.append)
    assert report.images == 360
    assert report.accuracy < 0.8
    assert [word in line for line in lines] == [True]
    assert report.warnings == tuple(lines)


def test_nothing_is_said_of_images_as_mnist_has_them(bundle_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    """A well-read test set gives no warning, and training files are not needed."""
    lines: list[str] = []
    folder = write_test_set(tmp_path / "own", digits.test_images, digits.test_labels)
    report = evaluate(bundle_folder, dataset=folder, notify=lines.append)
    assert (report.warnings, lines) == ((), [])
    assert report.accuracy > 0.9


def test_a_wrong_normalization_is_named_with_the_option(digits: Dataset, tmp_path: Path) -> None:
    """Of a model on pixels of 0 to 255 that is evaluated on 0 to 1, one line names the option that fits."""
    model = write_model(tmp_path / "m.onnx", digits, largest=255)
    lines: list[str] = []
    expected = evaluate(model, normalization="raw").accuracy
    report = evaluate(model, normalization="unit", notify=lines.append)
    assert report.accuracy < expected - 0.05
    assert len(lines) == 1
    assert "--normalize raw" in lines[0]


def test_another_dataset_on_this_machine_is_named(digits: Dataset, tmp_path: Path) -> None:
    """A model that is judged on a test set with other labels, and fits a dataset that is there, gets its name."""
    model = write_model(tmp_path / "m.onnx", digits)
    folder = write_test_set(tmp_path / "own", digits.test_images, (digits.test_labels + 1) % 10)
    lines: list[str] = []
    evaluate(model, dataset=folder, normalization="unit", notify=lines.append)
    assert len(lines) == 1
    assert "--dataset digits" in lines[0]


def test_odd_images_do_not_change_the_exit_code(model: Path, digits: Dataset, tmp_path: Path) -> None:
    """The line goes to standard error; standard output holds the report, and the code is 0."""
    folder = write_test_set(tmp_path / "own", 255 - digits.test_images, digits.test_labels)
    done = in_process("eval", model, "--dataset", folder, "--normalize", "unit", "--json", cwd=tmp_path)
    assert done.code == 0
    assert "inverted" in one_line(done.err)
    assert done.json["warnings"] == [one_line(done.err)]


def test_a_suspicion_that_cannot_be_checked_changes_nothing(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other readings cannot be run, the report is the same, without a warning."""

    def fails(*_arguments: object) -> None:
        raise UnavailableError("not enough memory")

    monkeypatch.setattr("mnist_edge.verification.suspicion.find_suspicion", fails)
    report = evaluate(write_model(tmp_path / "m.onnx", digits, largest=255), normalization="unit")
    assert (report.warnings, report.images) == ((), 360)


def test_only_odd_images_look_odd(digits: Dataset) -> None:
    """MNIST-like images, dim ones and noise are not reported; a light background and pixels of 0 and 1 are."""
    noise = np.random.default_rng(1).integers(0, 200, digits.test_images.shape, dtype=np.uint8)
    for usual in (digits.test_images, digits.test_images // 4, noise):
        assert describe_unusual(usual) == ""
    assert "inverted" in describe_unusual(255 - digits.test_images)
    assert "binary" in describe_unusual((digits.test_images > 100).astype(np.uint8))


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_the_last_operator_is_recognised_from_the_outputs(last: str, digits: Dataset, tmp_path: Path) -> None:
    """softmax and log-softmax give the figures of the logits; a sigmoid gives none, with the reason in the table."""
    expected = evaluate(write_model(tmp_path / "a.onnx", digits), normalization="unit")
    found = evaluate(write_model(tmp_path / "b.onnx", digits, last), normalization="unit")
    if last == "Sigmoid":
        assert (found.negative_log_likelihood, found.calibration_error) == (None, None)
        assert "not computed" in rendered(found)
        assert "sum to 1" in rendered(found)
    else:
        assert found.accuracy == expected.accuracy
        assert found.negative_log_likelihood == pytest.approx(expected.negative_log_likelihood, rel=1e-5)
        assert found.calibration_error == pytest.approx(expected.calibration_error, abs=1e-5)


def test_a_model_of_other_classes_is_3(digits: Dataset, tmp_path: Path) -> None:
    """Nine classes cannot be compared with ten labels."""
    with pytest.raises(BadFileError, match="9 classes"):
        evaluate(write_model(tmp_path / "nine.onnx", digits, classes=9), normalization="unit")


def test_a_model_without_its_normalization_is_refused_before_data_are_looked_for(
    digits: Dataset, tmp_path: Path
) -> None:
    """The missing option is named first: a download of the data would be for nothing."""
    model = write_model(tmp_path / "m.onnx", digits, dataset="kmnist")
    with pytest.raises(UsageError) as caught:
        evaluate(model)
    assert "--normalize" in caught.value.hint


def test_a_model_is_recognised_by_its_content(model: Path, tmp_path: Path) -> None:
    """An ONNX file under another name, or none, is evaluated as one; `--variant` is for bundles."""
    copy = tmp_path / "model.bin"
    copy.write_bytes(model.read_bytes())
    assert evaluate(copy, normalization="unit").accuracy == evaluate(model, normalization="unit").accuracy
    with pytest.raises(UsageError, match="--variant"):
        evaluate(copy, variant="fp32", normalization="unit")


def test_the_variant_is_named(bundle_folder: Path) -> None:
    """The variant that was evaluated is in the report and in the table; an unknown one is refused with the names."""
    report = evaluate(bundle_folder)
    assert report.variant == "fp32"
    assert "variant fp32" in rendered(report)
    assert evaluate(bundle_folder, variant="fp32") == report
    with pytest.raises(UsageError, match="fp32"):
        evaluate(bundle_folder, variant="int4")


def test_nan_is_a_failed_check(digits: Dataset) -> None:
    """Outputs that are no numbers have no accuracy."""
    with pytest.raises(CheckFailedError, match="NaN"):
        compare_with_labels(Path("m"), np.full((360, 10), np.nan, np.float32), digits)


def rendered(report: EvalReport, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        console.print(eval_table(report))
    return capture.get()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_the_tables_fit_80_columns(name: DatasetName) -> None:
    """10,000 images, long class names and four-digit counts: no column is cut, wrapped or missing."""
    random = np.random.default_rng(4)
    labels = random.integers(0, 10, 10_000).astype(np.uint8)
    data = EvaluationSet(name=name, source="", test_images=np.zeros((10_000, 28, 28), np.uint8), test_labels=labels)
    # Most of a class is predicted as its successor: four digits beside the diagonal too.
    predicted = np.where(random.random(10_000) < 0.5, labels, (labels + 1) % 10)
    report = compare_with_labels(Path("exported/model"), np.eye(10, dtype=np.float32)[predicted] * 9, data)
    text = rendered(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text == "\n".join(line[:80] for line in rendered(dataclasses.replace(report), 80).split("\n"))
    assert "\u2026" not in text
    for label, row in zip(LABELS[name], report.confusion, strict=True):
        line = next(
            line.split()
            for line in reversed(text.splitlines())
            if line.split()[-10:] == [str(n) if n else "." for n in row]
        )
        assert label.split()[-1] in line
        assert sum(label in line for line in text.splitlines()) >= 2
