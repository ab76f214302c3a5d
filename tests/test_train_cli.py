"""`mnist-edge train` as a user or script sees it: options, output, files, exit codes."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path

import pytest
from conftest import mnist_edge

from mnist_edge.cli.app import app
from mnist_edge.cli.entry import main
from mnist_edge.errors import MnistEdgeError
from mnist_edge.interrupts import StopRequest
from mnist_edge.training.checkpoint import LAST, load_checkpoint
from mnist_edge.training.model import accuracy

KEYS = {
    "schema", "run", "checkpoint", "dataset", "recipe", "epochs", "test_accuracy", "seconds", "seconds_per_epoch", "device",
}  # fmt: skip


def here(*arguments: str | Path) -> None:
    """Run the command in this process; its errors come out as they are."""
    app(["train", *map(str, arguments)], standalone_mode=False)


def exit_code_here(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the whole command line in this process, with all that `main` makes of errors."""
    monkeypatch.setattr("mnist_edge.cli.entry.raise_on_signals", StopRequest)
    monkeypatch.setattr("sys.argv", ["mnist-edge", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_script_gets_one_document_and_a_user_four_files(tmp_path: Path, digits) -> None:
    """--json prints one document with the agreed keys, and the run folder holds what was promised."""
    done = mnist_edge("train", "--dataset", "digits", "--widths", "16", "--epochs", "3", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    assert set(report) == KEYS
    assert next(iter(report)) == "schema"
    assert report["schema"] == "mnist-edge/train/1"
    assert (report["run"], report["checkpoint"]) == ("runs/digits", "runs/digits/last.safetensors")
    assert (report["dataset"], report["recipe"], report["epochs"]) == ("digits", "fast", 3)
    assert report["seconds"] > 0
    assert report["seconds_per_epoch"] == pytest.approx(report["seconds"] / 3)
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("epoch")]) == 3

    run = tmp_path / "runs" / "digits"
    assert {path.name for path in run.iterdir()} == {
        "last.safetensors", "previous.safetensors", "history.csv", "loss.csv", "loss.png",
    }  # fmt: skip
    checkpoint = load_checkpoint(run / "last.safetensors")
    assert report["test_accuracy"] == pytest.approx(
        accuracy(checkpoint.model(), digits.test_images, digits.test_labels), abs=1 / 359
    )
    history = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in history] == [1, 2, 3]
    assert [float(row["loss"]) for row in history] == [record.loss for record in checkpoint.progress.history]
    losses = list(csv.DictReader((run / "loss.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in losses] == [0, 30]  # 11 steps an epoch
    assert [float(row["loss"]) for row in losses] == pytest.approx(checkpoint.curve.tolist())
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


WRONG = {
    "negative rate": ["--lr", "-1"],
    "no number": ["--lr", "nan"],
    "no epochs": ["--epochs", "0"],
    "no batch": ["--batch-size", "0"],
    "much momentum": ["--momentum", "1.5"],
    "no width": ["--widths", "16,0"],
    "no numbers": ["--widths", "wide"],
    "no such recipe": ["--recipe", "slow"],
    "no such dataset": ["--dataset", "cifar"],
    "no such option": ["--fast"],
    "a seed that no generator takes": ["--seed", str(2**64)],
    "too large a batch": ["--batch-size", str(2**40)],
    "more threads than CPUs": ["--threads", "9999"],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_end_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    """A value that cannot be is refused before any work, in one line that names it and one document."""
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "digits", "--widths", "4", "--epochs", "1", *WRONG[wrong]]
    assert exit_code_here(monkeypatch, *options, "--json") == 2
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert set(document) == {"schema", "error"}
    assert set(document["error"]) == {"kind", "message", "hint"}
    assert document["error"]["kind"] == "usage"
    assert WRONG[wrong][0].strip("-") in document["error"]["message"]
    assert len(told.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_data_and_no_network_names_the_digits(tmp_path: Path) -> None:
    """Where MNIST cannot be had, the command ends with 4 and tells of the folder option and the built-in digits."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port that nobody listens on
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        done = mnist_edge("train", "--json", cwd=tmp_path, MNIST_EDGE_MIRROR=address, no_proxy="127.0.0.1")
    assert done.code == 4
    error = done.json["error"]
    assert error["kind"] == "environment"
    assert "--dataset digits" in error["hint"]
    assert "--data-dir" in error["hint"]
    assert error["hint"] in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_ends_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way is wrong usage, a place that cannot be written to is 4, and no epoch is trained for nothing."""
    (tmp_path / "file").write_text("mine")
    for run, code in ((tmp_path / "file", 2), (tmp_path / "file" / "below", 4)):
        with pytest.raises(MnistEdgeError, match="file") as caught:
            here("--dataset", "digits", "--widths", "4", "--epochs", "1", "--run", run)
        assert caught.value.exit_code == code
    assert "epoch" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_checkpoint_ends_with_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming from a cut checkpoint names it and offers the one before, which works."""
    run = tmp_path / "a run\nwith ümlauts"
    here("--dataset", "digits", "--widths", "4", "--epochs", "2", "--run", run)
    last = run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    capsys.readouterr()
    assert exit_code_here(monkeypatch, "--resume", run, "--json") == 3
    told = capsys.readouterr()
    assert str(last) in json.loads(told.out)["error"]["message"]
    assert str(run / "previous.safetensors") in json.loads(told.out)["error"]["hint"]
    assert len(told.err.splitlines()) == 1
    here("--resume", run / "previous.safetensors")
    assert load_checkpoint(last).progress.epoch == 2


def test_a_missing_checkpoint_ends_with_four(tmp_path: Path) -> None:
    """Resuming from nothing says what is not there."""
    with pytest.raises(MnistEdgeError, match="nowhere") as caught:
        here("--resume", tmp_path / "nowhere")
    assert caught.value.exit_code == 4


def test_layers_of_one_width_are_all_there(tmp_path: Path) -> None:
    """--widths is a sequence: a width named twice is two layers."""
    here("--dataset", "digits", "--widths", "6,6", "--epochs", "1", "--run", tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / LAST).settings.widths == (6, 6)


def test_widths_of_a_pth_cannot_change(tmp_path: Path) -> None:
    """A .pth has its own widths; naming others is wrong usage."""
    (tmp_path / "net.pth").write_bytes(b"\x80\x02")  # looks like a pickle
    with pytest.raises(MnistEdgeError, match="--widths") as caught:
        here("--dataset", "digits", "--resume", tmp_path / "net.pth", "--widths", "8", "--run", tmp_path / "run")
    assert caught.value.exit_code == 2
