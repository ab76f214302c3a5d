"""`mnist-edge predict` and what it is made of: acceptance, records, tables, CSV and the preview."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import in_process, one_line

from mnist_edge.bundle.choice import write_choice
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.data.photo import PreparedPhoto
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.pixels import Images, Logits, softmax
from mnist_edge.records.data import Dataset
from mnist_edge.records.prediction import ClassProbability, Prediction, PredictReport
from mnist_edge.reporting.preview import PreviewRow, draw_row, preview
from mnist_edge.reporting.tables.predict import CSV_COLUMNS, predict_table, predictions_csv
from mnist_edge.runtime.acceptance import judge
from mnist_edge.runtime.familiarity import familiarity
from mnist_edge.verification.calibration import fit_temperature
from mnist_edge.workflow.predict import DigitReader, Source, find_images, open_reader, predict


@pytest.fixture(scope="module")
def reader(bundle_folder: Path) -> DigitReader:
    return open_reader(bundle_folder)


@pytest.fixture(scope="module")
def rows(reader: DigitReader, digits: Dataset) -> list[int]:
    """Test digits of ten classes that the small network of the tests is sure of."""
    logits = reader.model.classifier.logits(digits.test_images)
    sure = softmax(logits, reader.model.variant.temperature).max(axis=1) > 0.97
    found = [
        next(
            i
            for i, label in enumerate(digits.test_labels)
            if label == number and sure[i] and logits[i].argmax() == number
        )
        for number in range(10)
        if (sure & (digits.test_labels == number) & (logits.argmax(axis=1) == number)).any()
    ]
    assert len(found) >= 8
    return found


@pytest.fixture
def folder(digits: Dataset, rows: list[int], tmp_path: Path) -> Path:
    """A folder with three images of digits, a blank one, and a file that is no image."""
    place = tmp_path / "scans"
    place.mkdir()
    for number, row in enumerate(rows[:3]):
        Image.fromarray(digits.test_images[row]).save(place / f"{number}.png")
    Image.new("L", (90, 60), 230).save(place / "blank.JPG", "JPEG")
    (place / "notes.txt").write_text("no image")
    return place


def test_a_prepared_image_predicts_as_the_raw_one(reader: DigitReader, digits: Dataset) -> None:
    """An image of the test set saved as PNG gives the probabilities of its pixels."""
    from mnist_edge.data.photo import prepare_photo

    expected = softmax(reader.model.classifier.logits(digits.test_images[:60]), reader.model.variant.temperature)
    for image, shares in zip(digits.test_images[:60], expected, strict=True):
        found = reader.predict("x", prepare_photo(image))
        assert found.label == str(shares.argmax())
        assert found.probability == pytest.approx(shares.max(), rel=1e-5)


def test_the_document_has_the_keys_that_others_rely_on(
    bundle_folder: Path, digits: Dataset, rows: list[int], tmp_path: Path
) -> None:
    """The top three with probabilities, and exit 0 for a digit that can be relied on."""
    Image.fromarray(digits.test_images[rows[0]]).save(tmp_path / "digit.png")
    done = in_process("predict", "digit.png", "--model", bundle_folder, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert list(done.json) == ["schema", "model", "variant", "predictions"]
    assert (done.json["schema"], done.json["variant"]) == ("mnist-edge/predict/1", "fp32")
    (one,) = done.json["predictions"]
    assert list(one) == ["image", "label", "probability", "top", "accepted", "reason"]
    assert one["image"] == "digit.png"
    assert one["label"] == str(digits.test_labels[rows[0]]) == one["top"][0]["label"]
    assert [set(entry) for entry in one["top"]] == [{"label", "probability"}] * 3
    shares = [entry["probability"] for entry in one["top"]]
    assert one["probability"] == shares[0] == max(shares)
    assert one["accepted"] is True
    assert one["reason"] == ""


def test_a_folder_is_predicted_in_order_with_csv_and_preview(bundle_folder: Path, folder: Path) -> None:
    """Images by name, in any case of their suffix; what is no digit is in the list, and the command ends with 1."""
    done = in_process(
        "predict", "scans", "--model", bundle_folder, "--csv", "out.csv", "--preview", "out.png", cwd=folder.parent
    )
    assert done.code == 1
    assert one_line(done.err.splitlines()[-1]).startswith("mnist-edge: 1 of 4 not accepted; scans/blank.JPG: no digit")
    rows = list(csv.DictReader(io.StringIO((folder.parent / "out.csv").read_text())))
    assert [row["image"] for row in rows] == ["scans/0.png", "scans/1.png", "scans/2.png", "scans/blank.JPG"]
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["accepted"] for row in rows] == ["true", "true", "true", "false"]
    assert (rows[3]["label"], rows[3]["probability"]) == ("", "")
    assert float(rows[0]["probability"]) >= float(rows[0]["probability_2"]) >= float(rows[0]["probability_3"])
    with Image.open(folder.parent / "out.png") as drawn:
        assert drawn.size == (1000, 4 * 296 + 16)
    for row in rows:
        assert row["image"] in done.out


def test_standard_input_is_an_image(bundle_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` in a pipe; a second one has nothing left to read."""
    for words, code in (("-",), 0), (("-", "-"), 2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "0.png").read_bytes())))
        done = in_process("predict", *words, "--model", bundle_folder, "--json", cwd=folder)
        assert done.code == code, done.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    done = in_process("predict", "-", "--model", bundle_folder, cwd=folder)
    assert (done.code, one_line(done.err)) == (3, "mnist-edge: - is empty (give a photo as PNG, JPEG or WebP)")


def test_closed_standard_input_is_one_line(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `<&-`, or from a service without one."""
    monkeypatch.setattr(sys, "stdin", None)
    done = in_process("predict", "-", "--model", bundle_folder, cwd=bundle_folder.parent)
    assert (done.code, "standard input is closed" in one_line(done.err)) == (4, True)


def test_several_digits_are_read_in_order(
    bundle_folder: Path, digits: Dataset, rows: list[int], tmp_path: Path
) -> None:
    """A sheet with four digits gives four predictions, and without --several a doubt."""
    sheet = np.zeros((200, 220), dtype=np.uint8)
    for number, row in enumerate(rows[:4]):
        top, left = 20 + 90 * (number // 2), 20 + 100 * (number % 2)
        large = Image.fromarray(digits.test_images[row]).resize((70, 70), Image.Resampling.BICUBIC)
        sheet[top : top + 70, left : left + 70] = np.asarray(large)
    Image.fromarray(255 - sheet).save(tmp_path / "sheet.png")
    done = in_process("predict", "sheet.png", "--several", "--json", "--model", bundle_folder, cwd=tmp_path)
    found = done.json["predictions"]
    assert [one["image"] for one in found] == [f"sheet.png#{number}" for number in range(1, 5)]
    assert [one["label"] for one in found] == [str(digits.test_labels[row]) for row in rows[:4]]
    alone = in_process("predict", "sheet.png", "--json", "--model", bundle_folder, cwd=tmp_path)
    assert alone.code == 1
    assert "separate objects where one digit was expected" in alone.json["predictions"][0]["reason"]


def test_a_sheet_without_digits_is_no_success(bundle_folder: Path, tmp_path: Path) -> None:
    """Nothing found is said, also with --several."""
    Image.new("L", (90, 60), 230).save(tmp_path / "blank.png")
    done = in_process("predict", "blank.png", "--several", "--json", "--model", bundle_folder, cwd=tmp_path)
    assert done.code == 1
    assert done.json["predictions"][0]["reason"].startswith("no digit")


def test_one_bad_file_among_others_stops_nothing(bundle_folder: Path, folder: Path) -> None:
    """The others are predicted, the bad one is named, and the exit code is that of a bad file."""
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-40])
    done = in_process("predict", folder, "--json", "--model", bundle_folder, cwd=folder.parent)
    assert done.code == 3
    labels = [one["label"] for one in done.json["predictions"]]
    assert [label is None for label in labels] == [False, True, False, True]
    assert "is damaged" in done.json["predictions"][1]["reason"]


@pytest.mark.parametrize(
    ("words", "code", "piece"),
    [
        (["missing.png"], 4, "missing.png does not exist"),
        (["."], 4, "holds no image"),
        (["x.png", "--preview", "x.jpg"], 2, "ends in .png"),
        (["x.png", "--csv", "no/such/folder/x.csv", "--variant", "int3"], 2, "no variant 'int3'"),
        ([], 2, "no image was named"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], code: int, piece: str, bundle_folder: Path, tmp_path: Path) -> None:
    """Each names what is wrong; nothing is written."""
    done = in_process("predict", *words, "--model", bundle_folder, cwd=tmp_path)
    assert done.code == code
    assert piece in one_line(done.err)
    assert list(tmp_path.iterdir()) == []


def test_the_default_is_the_newest_bundle_and_the_choice_of_tune(
    two_variant_bundle: Path, digits: Dataset, rows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As eval: what tune chose is what runs."""
    shutil.copytree(two_variant_bundle, tmp_path / "exported" / "digits")
    write_choice(tmp_path / "exported" / "digits", "int8", {})
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    content = io.BytesIO()
    Image.fromarray(digits.test_images[rows[0]]).save(content, "PNG")
    report = predict([Source(name="x", content=content.getvalue())], notify=lines.append)
    assert (report.model, report.variant) == (Path("exported/digits"), "int8")
    assert "newest bundle" in lines[0]


def test_a_bundle_of_clothes_reads_no_digits(bundle_folder: Path, tmp_path: Path) -> None:
    """A confident shoe would be a wrong answer in silence."""
    from test_bundle import rewrite_bundle

    from mnist_edge.contract import LABELS

    folder = rewrite_bundle(bundle_folder, tmp_path / "b", dataset="fashion-mnist", labels=LABELS["fashion-mnist"])
    with pytest.raises(UsageError, match="classifies fashion-mnist"):
        open_reader(folder)


IMAGE = np.zeros((28, 28), dtype=np.uint8)
IMAGE[4:24, 12:16] = 255


def constant(*rows: list[float]) -> Callable[[Images], Logits]:
    """A model that gives the first row for the image itself, and the last for every other."""
    return lambda images: np.array([rows[0], *[rows[-1]] * (len(images) - 1)], dtype=np.float32)


SURE, OTHER, UNSURE = [0.0] * 9 + [9.0], [9.0] + [0.0] * 9, [0.0] * 8 + [1.0, 1.2]


@pytest.mark.parametrize(
    ("model", "image", "reason"),
    [
        (constant(SURE), IMAGE, ""),
        (constant(UNSURE), IMAGE, "not sure: a probability of 2"),
        (constant(SURE, OTHER), IMAGE, "not sure: 0% once the image is turned"),
        (
            constant(SURE),
            np.kron(np.indices((7, 7)).sum(axis=0) % 2 == 0, np.ones((4, 4))).astype(np.uint8) * 255,
            "holes",
        ),
    ],
    ids=["sure", "unsure", "unsteady", "holes"],
)
def test_what_is_unsure_unsteady_or_full_of_holes_is_not_accepted(
    model: Callable[[Images], Logits], image: Images, reason: str
) -> None:
    """Each rule alone can refuse."""
    found = judge(model, image, None)
    assert reason in found.reason
    assert bool(found.reason) == bool(reason)


def test_the_temperature_divides_the_logits() -> None:
    """A temperature of 9 makes the sure model unsure."""
    assert judge(constant(SURE), IMAGE, 9.0).reason.startswith("not sure: a probability of 23%")


def test_what_resembles_no_known_digit_is_far_away(digits: Dataset) -> None:
    """Digits of other writers are nearer than stripes and static, and than digits of another class."""
    known = familiarity(digits.train_images[:1000], digits.train_labels[:1000], 10)
    assert known is not None
    near = [
        known.distance(image, int(label))
        for image, label in zip(digits.test_images[:100], digits.test_labels, strict=False)
    ]
    confused = [
        known.distance(image, (int(label) + 5) % 10)
        for image, label in zip(digits.test_images[:100], digits.test_labels, strict=False)
    ]
    assert np.mean(np.array(near) < 1.1) > 0.85
    assert np.median(confused) > 1.4 * np.median(near)
    stripes = np.tile((np.arange(28) % 6 < 3).astype(np.uint8) * 255, (28, 1))
    static = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    for image in (stripes, static):
        assert min(known.distance(image, number) for number in range(10)) > 1.3


def test_too_few_known_digits_say_nothing(digits: Dataset) -> None:
    """A user's own test set may have ten images."""
    assert familiarity(digits.test_images[:50], digits.test_labels[:50], 10) is None
    assert familiarity(digits.test_images, np.zeros(360, dtype=np.uint8), 10) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3.0))
def test_the_temperature_is_the_one_that_labels_were_drawn_with(seed: int, true: float) -> None:
    """Labels drawn from softmax(logits / t) give back t."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (4000, 10)).astype(np.float32)
    shares = softmax(logits, true).cumsum(axis=1)
    labels = (random.random((4000, 1)) > shares).sum(axis=1).clip(0, 9).astype(np.uint8)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.12)


def test_a_split_without_errors_fits_no_temperature() -> None:
    """The likelihood grows for ever: every image would get a probability of 1."""
    logits = np.eye(10, dtype=np.float32)
    assert fit_temperature(logits, np.arange(10, dtype=np.uint8)) is None
    assert fit_temperature(logits, (np.arange(10, dtype=np.uint8) + 1) % 10) is None


def test_export_states_the_temperature_of_the_held_out_images(bundle_folder: Path, digits: Dataset) -> None:
    """It is the one of least negative log-likelihood on the split, by a search over a grid."""
    from mnist_edge.exporting.variants.kind import selection_split
    from mnist_edge.training.recipes import find_recipe

    split = selection_split(digits, find_recipe("fast"))
    assert split is not None
    (variant,) = load_bundle(bundle_folder).manifest.variants
    logits = open_reader(bundle_folder).model.classifier.logits(split.images)
    labels = np.asarray(split.labels)

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits, temperature)[np.arange(len(labels)), labels]).mean())

    grid = np.geomspace(0.05, 20, 4000)
    assert variant.temperature == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=0.01)


def one(image: str = "a.png", label: str | None = "3", reason: str = "") -> Prediction:
    top = () if label is None else tuple(ClassProbability(label=str(i), probability=0.5 / (i + 1)) for i in range(3))
    probability = None if label is None else 0.5
    return Prediction(image=image, label=label, probability=probability, top=top, accepted=not reason, reason=reason)


def test_csv_quotes_what_a_name_may_hold() -> None:
    """Commas, quotes and newlines in names come back as they were."""
    report = PredictReport(
        model=Path("m"), variant="fp32", predictions=(one('a, "b"\n.png'), one(label=None, reason="no digit: a, b"))
    )
    rows = list(csv.reader(io.StringIO(predictions_csv(report), newline="")))
    assert rows[1][0] == 'a, "b"\n.png'
    assert rows[2] == ["a.png", "", "", "", "", "", "", "false", "no digit: a, b"]
    json.dumps(report.to_json())
    assert predict_table(report)


@pytest.mark.parametrize("grey", [None, np.zeros((1, 1), np.uint8), np.zeros((3, 2000), np.uint8)])
def test_a_preview_shows_whatever_there_is(grey: Images | None) -> None:
    """No image, no digit, a long name and control characters: still a PNG, and the same bytes twice."""
    rows = [
        PreviewRow(
            prediction=one("x" * 300 + "\x1b[0m.png", None, "no digit " * 40), grey=grey, box=None, prepared=None
        ),
        PreviewRow(prediction=one(), grey=grey, box=(0, 0, 1, 1), prepared=IMAGE),
    ]
    drawn = preview([draw_row(row) for row in rows])
    assert drawn == preview([draw_row(row) for row in rows])
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.size == (1000, 608)
        assert np.ptp(np.asarray(image.convert("L"))) == 255


def test_a_model_with_nan_outputs_is_no_prediction(reader: DigitReader) -> None:
    """A check that fails, and not a class by accident."""
    import dataclasses

    broken = dataclasses.replace(reader.model.classifier)
    object.__setattr__(broken, "class_logits", lambda images, *_rest: np.full((len(images), 10), np.nan, np.float32))
    with pytest.raises(CheckFailedError, match="NaN"):
        dataclasses.replace(reader, model=dataclasses.replace(reader.model, classifier=broken)).predict(
            "x", PreparedPhoto(image=IMAGE, reason="")
        )


def test_subfolders_are_not_searched(folder: Path) -> None:
    """A folder is its own images."""
    (folder / "more.png").mkdir()
    assert [source.name for source in find_images([folder])] == [
        str(folder / name) for name in ("0.png", "1.png", "2.png", "blank.JPG")
    ]


def test_the_figure_of_the_page_is_a_preview() -> None:
    """docs/predict.md shows what the command draws."""
    with Image.open(ROOT / "docs" / "predict-preview.png") as image:
        assert image.width == 1000
