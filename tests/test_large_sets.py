"""`verify --dataset` and `predict --dataset`: sets of any size, part by part, with the figures of the whole set."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from test_cli import in_process, one_line
from test_score import write_set

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.data.layout import TEST_FILES
from mnist_edge.pixels import ImageFile
from mnist_edge.records.data import Dataset
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification import reference
from mnist_edge.workflow import predict_set


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of 100 images; the largest number of images that was read at once."""
    monkeypatch.setattr(reference, "PART", 100)
    monkeypatch.setattr(predict_set, "PART", 100)
    monkeypatch.setattr("mnist_edge.bundle.golden.HASHED", 100)
    largest = [0]
    read = ImageFile.__getitem__

    def watched(images: ImageFile, rows: slice) -> np.ndarray:
        found = read(images, rows)
        largest[0] = max(largest[0], len(found))
        return found

    monkeypatch.setattr(ImageFile, "__getitem__", watched)
    return largest


def test_a_stored_test_set_is_verified_as_one_in_memory(
    two_variant_bundle: Path, digits: Dataset, tmp_path: Path, small_parts: list[int]
) -> None:
    """The bundle's own test set gives the same report from a file, a hundred images at a time, as from memory."""
    own = write_set(tmp_path / "own", digits.test_images, digits.test_labels)
    drop = ("--max-accuracy-drop", "5", "--json")
    stored = in_process("verify", two_variant_bundle, "--dataset", own, *drop, cwd=tmp_path)
    whole = in_process("verify", two_variant_bundle, *drop, cwd=tmp_path)
    assert (stored.code, whole.code) == (0, 0), stored.err
    assert stored.json["own_test_set"]
    assert small_parts == [100]
    for one, other in zip(stored.json["variants"], whole.json["variants"], strict=True):
        assert one == pytest.approx(other) if isinstance(one, float) else one == other


def test_any_other_set_is_compared_with_the_first_variant(
    two_variant_bundle: Path, digits: Dataset, tmp_path: Path, small_parts: list[int]
) -> None:
    """Images that the bundle has no outputs for: the counts are those of both models run on all images at once."""
    images, labels = digits.train_images[:][:1037], digits.train_labels[:1037]
    other = write_set(tmp_path / "other", images, labels)
    done = in_process("verify", two_variant_bundle, "--dataset", other, "--max-accuracy-drop", "5", "--json", cwd=tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    assert str(other) in one_line(done.err)
    assert (done.json["test_set"], done.json["own_test_set"]) == (True, False)
    bundle = load_bundle(two_variant_bundle)
    fp32, int8 = (open_classifier(bundle.file(variant)).logits(images) for variant in bundle.manifest.variants)
    first, second = done.json["variants"]
    assert (first["flips"], first["images"]) == (0, 1037)
    assert second["flips"] == int((fp32.argmax(axis=1) != int8.argmax(axis=1)).sum())
    assert second["max_abs_error"] >= np.abs(fp32.astype(float) - int8).max() > 0
    assert second["accuracy"]["reference"] == (fp32.argmax(axis=1) == labels).mean()
    assert second["accuracy"]["variant"] == (int8.argmax(axis=1) == labels).mean()
    assert small_parts[0] <= 1024  # the golden inputs of a bundle are the most


def test_a_broken_variant_fails_on_any_set(bundle_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    """The variant would be compared with itself; the golden inputs still are compared with PyTorch's outputs."""
    from test_bundle import rewrite_bundle

    other = write_set(tmp_path / "other", digits.train_images[:][:300], digits.train_labels[:300])
    import onnx

    proto = onnx.load(bundle_folder / "model.onnx")
    bias = next(tensor for tensor in proto.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(bias), 1), bias.name))
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", model=proto.SerializeToString())
    done = in_process("verify", folder, "--dataset", other, "--json", cwd=tmp_path)
    assert (done.code, done.json["passed"]) == (1, False)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("to_file", [True, False])
def test_a_set_is_predicted_to_csv(
    labelled: bool, to_file: bool, bundle_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    """Each image once, in order, in a file or on standard output."""
    folder = write_set(tmp_path / "set", digits.test_images, digits.test_labels if labelled else None)
    output = ("--csv", "p.csv") if to_file else ()
    done = in_process("predict", "--dataset", folder, "--model", bundle_folder, *output, cwd=tmp_path)
    assert done.code == 0, done.err
    text = (tmp_path / "p.csv").read_text() if to_file else done.out
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["image", "label", "probability", *(["label_true"] if labelled else [])]
    bundle = load_bundle(bundle_folder)
    expected = open_classifier(bundle.file(bundle.manifest.variants[0])).logits(digits.test_images).argmax(axis=1)
    assert [row[0] for row in rows] == [str(number) for number in range(360)]
    assert [int(row[1]) for row in rows] == expected.tolist()
    assert all(0.1 <= float(row[2]) <= 1 for row in rows)
    if labelled:
        assert [int(row[3]) for row in rows] == digits.test_labels.tolist()


def test_a_compressed_set_is_predicted_too(bundle_folder: Path, digits: Dataset, tmp_path: Path) -> None:
    """It is unpacked into memory; a cut file is 3, and leaves no CSV."""
    folder = write_set(tmp_path / "set", digits.test_images, None)
    file = folder / TEST_FILES[0]
    packed = gzip.compress(file.read_bytes())
    file.unlink()
    (folder / f"{file.name}.gz").write_bytes(packed)
    command = ("predict", "--dataset", folder, "--model", bundle_folder, "--csv", "p.csv")
    assert in_process(*command, cwd=tmp_path).code == 0
    (tmp_path / "p.csv").unlink()
    (folder / f"{file.name}.gz").write_bytes(packed[:-20])
    assert in_process(*command, cwd=tmp_path).code == 3
    assert not list(tmp_path.glob("*.csv")) + list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--dataset", "none"), 4, "there is no IDX file of images"),
        (("--dataset", "."), 4, "there is no IDX file of images"),
        (("--dataset", "set", "photo.png"), 2, "--dataset cannot be combined with an image"),
        (("--dataset", "set", "--json"), 2, "--dataset cannot be combined with --json"),
        (("--dataset", "set", "--several"), 2, "--dataset cannot be combined with --several"),
        ((), 2, "no image was named"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], code: int, said: str, bundle_folder: Path, digits: Dataset, tmp_path: Path
) -> None:
    """One line that says what to leave out, or where the set should be."""
    write_set(tmp_path / "set", digits.test_images[:5], None)
    done = in_process("predict", *words, "--model", bundle_folder, cwd=tmp_path)
    assert (done.code, said in one_line(done.err)) == (code, True), done.err
