"""`mnist-edge eval`: the same figures for every form of a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line

from mnist_edge.records.data import Dataset
from mnist_edge.training.model import reference_logits
from mnist_edge.training.state_dict import read_model


@pytest.mark.parametrize("model", ["exported/digits/model.onnx", "exported/digits", "runs/digits"])
def test_every_form_of_a_model_gets_the_same_figures(
    model: str, workplace: Path, digits: Dataset, tmp_path: Path
) -> None:
    """ONNX file, bundle and checkpoint are judged alike, and as numpy counts PyTorch's decisions."""
    done = in_process("eval", workplace / model, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    assert set(report) == {
        "schema", "model", "variant", "dataset", "images", "normalization", "preparation", "outputs", "accuracy",
        "temperature", "negative_log_likelihood", "calibration_error", "withheld", "reliability", "per_class", "confusion", "test_sha256",
        "mistakes", "warnings",
    }  # fmt: skip
    assert (report["schema"], report["dataset"], report["images"]) == ("mnist-edge/eval/4", "digits", 360)
    predicted = reference_logits(read_model(workplace / "runs" / "digits").network, digits.test_images).argmax(axis=1)
    truth = digits.test_labels
    assert report["accuracy"] == (predicted == truth).mean()
    confusion = np.array(report["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.sum() == report["images"]
    assert np.trace(confusion) / confusion.sum() == report["accuracy"]
    for label, row in enumerate(report["per_class"]):
        assert row["label"] == str(label)
        assert row["images"] == (truth == label).sum()
        assert row["recall"] == pytest.approx((predicted[truth == label] == label).mean())
        assert row["precision"] == pytest.approx((truth[predicted == label] == label).mean())
        assert confusion[label].tolist() == [
            int(((truth == label) & (predicted == other)).sum()) for other in range(10)
        ]


def test_the_table_and_the_plot_are_for_people(bundle_folder: Path, tmp_path: Path) -> None:
    """The table shows the accuracy, and the picture opens."""
    done = in_process("eval", bundle_folder, "--plot", "plots/confusion.png", cwd=tmp_path)
    assert done.code == 0, done.err
    accuracy = in_process("eval", bundle_folder, "--json", cwd=tmp_path).json["accuracy"]
    assert f"{accuracy:.2%}" in done.out
    with Image.open(tmp_path / "plots" / "confusion.png") as picture:
        assert picture.format == "PNG"
        picture.load()


def test_a_plot_of_an_unknown_format_is_wrong_usage(bundle_folder: Path, tmp_path: Path) -> None:
    """A wrong file ending is the user's slip, not a bug of ours."""
    done = in_process("eval", bundle_folder, "--plot", "confusion.nonsense", cwd=tmp_path)
    assert done.code == 2
    assert "nonsense" in one_line(done.err)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "file", ["exported/digits/model.onnx", "exported/digits/golden.npz", "exported/digits/manifest.json",
             "runs/digits/last.safetensors"]
)  # fmt: skip
def test_damaged_files_are_3(file: str, workplace: Path, tmp_path: Path) -> None:
    """A half file is never judged, whichever form it has."""
    model = shutil.copytree((workplace / file).parent, tmp_path / "model")
    path = model / Path(file).name
    path.write_bytes(path.read_bytes()[:-10])
    done = in_process("eval", model, "--json", cwd=tmp_path)
    assert (done.code, done.json["error"]["kind"]) == (3, "bad-file")
    assert path.name in one_line(done.err)


@pytest.mark.parametrize("name", ["text.onnx", "text.pth", "text.safetensors"])
def test_text_under_any_name_is_3(name: str, tmp_path: Path) -> None:
    """What a file is called is not believed."""
    (tmp_path / name).write_text("not a model\n")
    done = in_process("eval", name, "--dataset", "digits", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert name in one_line(done.err)


def test_a_bundle_without_variants_is_3(bundle_folder: Path, tmp_path: Path) -> None:
    """A bundle that holds no model is a bad one, not a bug of ours."""
    rewrite_bundle(bundle_folder, tmp_path / "b", variants=())
    done = in_process("eval", "b", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "unexpected" not in one_line(done.err)


def test_wrong_paths_and_options_are_told(workplace: Path, tmp_path: Path) -> None:
    """4 for what is not there, 2 for an option that makes no sense."""
    assert in_process("eval", "nowhere", cwd=tmp_path).code == 4
    (tmp_path / "empty").mkdir()
    assert in_process("eval", "empty", cwd=tmp_path).code == 4
    done = in_process("eval", workplace / "runs" / "digits", "--normalize", "unit", cwd=tmp_path)
    assert (done.code, "--normalize" in one_line(done.err)) == (2, True)


@pytest.mark.parametrize(
    "options", [("eval", "--plot"), ("verify", "--plot"), ("bench", "--plot"), ("bench", "--output")]
)
def test_nothing_is_written_into_a_bundle(options: tuple[str, str], bundle_folder: Path, tmp_path: Path) -> None:
    """A file that the manifest does not name would make the bundle refused: the command refuses first, with 2."""
    copy = shutil.copytree(bundle_folder, tmp_path / "b")
    command, option = options
    done = in_process(command, copy, option, copy / "x.png", cwd=tmp_path)
    assert done.code == 2
    assert "is a bundle" in one_line(done.err)
    assert not (copy / "x.png").exists()
