"""A run can be followed while it trains: TensorBoard events that agree with the CSV files, and a picture drawn anew."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_edge.cli.app import app
from mnist_edge.errors import MnistEdgeError
from mnist_edge.extras import install_hint
from mnist_edge.training.recipes import find_recipe, learning_rate

SMALL = ("--dataset", "digits", "--widths", "4")
COLUMNS = ("loss", "holdout_accuracy", "learning_rate", "seconds")


def train(*arguments: str | Path) -> None:
    """The command in this process; its errors come out as they are."""
    app(["train", *map(str, arguments)], standalone_mode=False)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def assert_events_agree_with_the_csv_files(run: Path) -> None:
    """Read with TensorBoard's own reader: each series has every row once, in order, as float32."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    expected = {"loss": [(int(row["step"]), float(row["loss"])) for row in rows(run / "loss.csv")]}
    for column in COLUMNS:
        expected[f"epoch/{column}"] = [(int(row["epoch"]), float(row[column])) for row in rows(run / "history.csv")]
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, points in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in points], tag
        assert [value for _, value in found] == pytest.approx([value for _, value in points], rel=1e-6), tag


def test_events_have_every_point_of_the_csv_files(tmp_path: Path) -> None:
    """TensorBoard shows the loss of every 30th step and four figures an epoch, the learning rate as the recipe has it."""
    run = tmp_path / "run"
    train(*SMALL, "--epochs", "7", "--run", run, "--log", "tensorboard")
    assert [row["step"] for row in rows(run / "loss.csv")] == ["0", "30", "60"]  # 11 steps an epoch
    assert_events_agree_with_the_csv_files(run)
    last = [learning_rate(find_recipe("fast"), 11 * epoch - 1, 77) for epoch in range(1, 8)]
    assert [float(row["learning_rate"]) for row in rows(run / "history.csv")] == pytest.approx(last)


@pytest.mark.slow
def test_a_resumed_run_has_no_point_twice_and_none_missing(tmp_path: Path) -> None:
    """The curve goes on over ends that were and were not logged."""
    run = tmp_path / "run"
    train(*SMALL, "--epochs", "3", "--run", run)
    assert not (run / "tensorboard").exists()
    watching = None
    for epochs in ("5", "9", "9"):
        train("--resume", run, "--epochs", epochs, "--log", "tensorboard")
        assert len(rows(run / "history.csv")) == int(epochs)
        assert_events_agree_with_the_csv_files(run)
        # So it is for a TensorBoard that has shown the earlier file.
        watching = watching or EventAccumulator(str(run / "tensorboard"))
        steps = [event.step for event in watching.Reload().Scalars("epoch/loss")]
        assert steps == list(range(1, int(epochs) + 1))


def test_events_that_cannot_be_written_cost_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way of the folder is told once, and the run ends with its checkpoint and CSV files."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("mine")
    train(*SMALL, "--epochs", "3", "--run", run, "--log", "tensorboard", "--json")
    told = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(told) == 1
    assert str(run / "tensorboard") in told[0]
    assert len(rows(run / "history.csv")) == 3
    assert (run / "tensorboard").read_text() == "mine"


def test_without_tensorboard_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing extra ends the command with 4 and the pip command, before training; without --log it is not missed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or "torch.utils.tensor" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        train(*SMALL, "--epochs", "1", "--run", tmp_path / "run", "--log", "tensorboard")
    assert not (tmp_path / "run").exists()
    from mnist_edge.cli.entry import as_reported

    known = as_reported(caught.value)
    assert isinstance(known, MnistEdgeError)
    assert (known.exit_code, known.hint) == (4, install_hint("tensorboard"))
    train(*SMALL, "--epochs", "1", "--run", tmp_path / "run")


def test_plot_draws_the_curve_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --plot loss.png is there after the first epoch and drawn anew later, but not so often as to slow training."""
    run = tmp_path / "run"
    drawn: list[int] = []
    monkeypatch.setattr(
        "mnist_edge.reporting.plots.loss.loss_curve",
        lambda folder, _title: drawn.append(len(rows(folder / "history.csv"))),
    )
    clock = iter([0.0, 0.0, 4.0, 9.0, 11.0, 11.0, 15.0])
    monkeypatch.setattr("mnist_edge.cli.train.monotonic", lambda: next(clock))
    train(*SMALL, "--epochs", "5", "--run", run, "--plot")
    assert drawn == [1, 4, 5]
    drawn.clear()
    train(*SMALL, "--epochs", "2", "--run", run, "--overwrite")
    assert drawn == [2]
