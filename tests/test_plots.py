"""Pictures: they open, have their size, and exist for the smallest inputs too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_edge.contract import LABELS, DatasetName
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.reporting.plots.evaluation import evaluation
from mnist_edge.reporting.plots.loss import loss_curve
from mnist_edge.verification.accuracy import evaluate

DPI = 130
LOSSES = {"one": [2.3], "two": [2.3, 1.1], "many": list(np.geomspace(2.3, 0.01, 400)), "none": []}


def picture(path: Path) -> np.ndarray:
    """The pixels, and the proof that it is a whole PNG with more than one colour."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    return pixels


def run_folder(folder: Path, losses: list[float], held: list[float | None]) -> Path:
    curve = "".join(f"{30 * index},{loss}\n" for index, loss in enumerate(losses))
    (folder / "loss.csv").write_text("step,loss\n" + curve)
    rows = "".join(f"{index + 1},0.5,{'' if value is None else value},1.5\n" for index, value in enumerate(held))
    (folder / "history.csv").write_text("epoch,loss,holdout_accuracy,seconds\n" + rows)
    return folder


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("held", [[], [None], [0.9], [None, 0.9, 0.95]], ids=str)
def test_a_loss_curve_is_drawn_of_any_history(losses: str, held: list[float | None], tmp_path: Path) -> None:
    """One step, one epoch, no held-out split, a run stopped at once: the picture never stops the run."""
    path = loss_curve(run_folder(tmp_path, LOSSES[losses], held), "digits, recipe fast")
    assert path == tmp_path / "loss.png"
    assert picture(path).shape == (round(4.2 * DPI), 8 * DPI, 3)
    assert {entry.name for entry in tmp_path.iterdir()} == {"loss.csv", "history.csv", "loss.png"}


def test_another_history_gives_another_picture(tmp_path: Path) -> None:
    """The curve is drawn from the files, and the same files give the same bytes."""
    first = loss_curve(run_folder(tmp_path, LOSSES["many"], [0.5, 0.9]), "t").read_bytes()
    assert loss_curve(tmp_path, "t").read_bytes() == first
    assert loss_curve(run_folder(tmp_path, LOSSES["many"][::-1], [0.5, 0.9]), "t").read_bytes() != first
    assert loss_curve(run_folder(tmp_path, LOSSES["many"], [0.5, 0.7]), "t").read_bytes() != first


def judged(confusion: np.ndarray, name: DatasetName = "digits") -> EvalReport:
    """A report with this confusion matrix."""
    from mnist_edge.data.digits import load_digits

    truth, predicted = np.nonzero(np.ones_like(confusion))
    truth, predicted = np.repeat(truth, confusion.ravel()), np.repeat(predicted, confusion.ravel())
    dataset = dataclasses.replace(load_digits(), name=name, test_labels=truth.astype(np.uint8))
    report = evaluate(Path("m.onnx"), np.eye(len(LABELS[name]), dtype=np.float32)[predicted], dataset)
    assert np.array_equal(report.confusion, confusion)
    return report


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
@pytest.mark.parametrize("kind", ["right", "wrong", "one image"])
def test_an_evaluation_is_drawn_of_any_counts(name: DatasetName, kind: str, tmp_path: Path) -> None:
    """No errors, only errors, classes without images, long labels: always one picture of the same size."""
    confusion = {
        "right": 30 * np.eye(10, dtype=int),
        "wrong": np.arange(100).reshape(10, 10),
        "one image": np.eye(10, dtype=int) * (np.arange(10) == 3),
    }[kind]
    path = evaluation(judged(confusion, name), tmp_path / "confusion.png")
    assert picture(path).shape == (round(5.6 * DPI), round(11.2 * DPI), 3)


def test_errors_are_seen_in_the_picture(tmp_path: Path) -> None:
    """A confusion of two classes colours its cell."""
    plain = 30 * np.eye(10, dtype=int)
    confused = plain.copy()
    confused[4, 9] = 25
    pictures = [
        picture(evaluation(judged(counts), tmp_path / f"{index}.png")).astype(int)
        for index, counts in enumerate((plain, confused))
    ]
    red_minus_blue = [pixels[:, :, 0] - pixels[:, :, 2] for pixels in pictures]
    # One of a hundred cells, of about a quarter of the picture, turns orange.
    assert (red_minus_blue[1] > 60).sum() - (red_minus_blue[0] > 60).sum() > 500
