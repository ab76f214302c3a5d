"""Pictures: they open, have their size, and exist for the smallest inputs too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_edge.contract import LABELS, DatasetName
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.records.sweep import SweepReport, SweepTrial
from mnist_edge.reporting.plots.evaluation import evaluation
from mnist_edge.reporting.plots.loss import loss_curve
from mnist_edge.reporting.plots.sweep import sweep_plot
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


@pytest.mark.slow
@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("held", [[], [None], [0.9], [None, 0.9, 0.95]], ids=str)
def test_a_loss_curve_is_drawn_of_any_history(losses: str, held: list[float | None], tmp_path: Path) -> None:
    """One step, one epoch, no held-out split, a run stopped at once: the picture never stops the run."""
    path = loss_curve(run_folder(tmp_path, LOSSES[losses], held), "digits, recipe fast")
    assert path == tmp_path / "loss.png"
    assert picture(path).shape == (round(4.4 * DPI), 8 * DPI, 3)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def sweep_report(*rates: float, failed: float | None = None) -> SweepReport:
    """A sweep with a trial at each learning rate."""
    trials = [
        SweepTrial(
            rank=rank, lr=lr, batch_size=64, widths=(8,), seconds=1.0,
            holdout_accuracy=None if lr == failed else 0.9, accuracies=() if lr == failed else (0.89, 0.91),
            failure="diverged" if lr == failed else "",
        )
        for rank, lr in enumerate(rates, start=1)
    ]  # fmt: skip
    return SweepReport(
        study=Path("s"), dataset="digits", recipe="fast", epochs=1, holdout_images=72, seeds=(0, 1),
        trials=tuple(trials), storage="study.db", command="",
    )  # fmt: skip


@pytest.mark.parametrize("rates", [(0.05,), (0.011, 0.2), (1e-4, 5.0), (0.05, 0.0501)], ids=str)
def test_the_axes_of_a_sweep_hold_every_point(rates: tuple[float, ...], tmp_path: Path, monkeypatch) -> None:
    """No point, line or failed trial lies on or beyond the frame, and at least one tick tells the scale."""
    figures = []
    monkeypatch.setattr(
        "mnist_edge.reporting.plots.sweep.save_figure", lambda figure, path: (figures.append(figure), path)[1]
    )
    sweep_plot(sweep_report(*rates, failed=max(rates) if len(rates) > 1 else None), tmp_path / "sweep.png")
    (axes,) = figures[0].axes
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(low < rate < high for rate in rates)
    assert bottom < 89
    assert top > 91
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks) <= 12


def test_the_legend_of_the_loss_curve_is_clear_of_the_axes(tmp_path: Path, monkeypatch) -> None:
    """Whatever way the curves run, no label lies on them."""
    figures = []
    monkeypatch.setattr(
        "mnist_edge.reporting.plots.loss.save_figure", lambda figure, path: (figures.append(figure), path)[1]
    )
    loss_curve(run_folder(tmp_path, LOSSES["many"], [0.5, 0.9]), "digits, recipe fast")
    figures[0].canvas.draw()
    (legend,) = figures[0].legends
    frame = legend.get_window_extent()
    for axes in figures[0].axes:
        assert not frame.overlaps(axes.get_window_extent())
        assert not frame.overlaps(axes.xaxis.label.get_window_extent())
