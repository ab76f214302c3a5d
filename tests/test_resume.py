"""Stopped, killed and resumed runs end with the very weights of a run that nobody disturbed."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mnist_edge.cli.app import app
from mnist_edge.errors import MnistEdgeError
from mnist_edge.records.data import Dataset
from mnist_edge.training.checkpoint import LAST, Checkpoint, load_checkpoint, save_checkpoint
from mnist_edge.training.loop import Hooks, Run, continued_run, new_run, train
from mnist_edge.training.model import build_model
from mnist_edge.training.recipes import settings_for

EPOCHS = 80
"""So many that a process whose lines nobody reads fills its pipe, and cannot end before it gets its signal."""
RECIPE = ("--dataset", "digits", "--epochs", str(EPOCHS), "--widths", "24,16", "--seed", "4")


def assert_same_end(one: Checkpoint, other: Checkpoint) -> None:
    """Weights, momentum, sampler and losses are equal to the last bit; only the seconds may differ."""
    assert one.settings == other.settings
    assert one.weights.keys() == other.weights.keys()
    assert one.momentum.keys() == other.momentum.keys()
    for key in one.weights:
        assert torch.equal(one.weights[key], other.weights[key]), key
    for key in one.momentum:
        assert torch.equal(one.momentum[key], other.momentum[key]), key
    assert torch.equal(one.sampler, other.sampler)
    assert torch.equal(one.curve, other.curve)
    ours, theirs = ([dataclasses.replace(record, seconds=0) for record in end.progress.history] for end in (one, other))
    assert ours == theirs
    assert (one.progress.epoch, one.progress.step) == (other.progress.epoch, other.progress.step)


def trained(run: Run, dataset: Dataset, folder: Path, stops: frozenset[int] = frozenset(), device: str = "cpu") -> bool:
    """Train with checkpoints into `folder`, stopping after the given steps of the run."""
    folder.mkdir(exist_ok=True)
    now = 0

    def on_step(done: int, _all: int) -> None:
        nonlocal now
        now = done

    hooks = Hooks(save=lambda state: save_checkpoint(folder, state), on_step=on_step, stop=lambda: now in stops)
    return train(run, dataset, torch.device(device), hooks)


@pytest.mark.parametrize(
    "stops",
    [{1}, {2, 3, 4}, {10}, {11}, {12}, {22, 23}, {5, 17, 29, 30}, {31, 32, 43}],
    ids=lambda stops: str(sorted(stops)),
)
@pytest.mark.parametrize("recipe", ["seed", "fast"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, digits: Dataset, recipe: str, stops: set[int]) -> None:
    """Stopped in or between epochs, once or often, and resumed from disk, a run ends as if it had not been."""
    settings = settings_for(recipe, dataset="digits", train_images=1437, widths=(16, 12), epochs=4, batch_size=128)
    assert trained(new_run(settings), digits, tmp_path / "whole")
    run, ends = new_run(settings), 1
    while not trained(run, digits, tmp_path / "parts", frozenset(stops)):
        ends += 1
        run = continued_run(load_checkpoint(tmp_path / "parts" / LAST))
    assert ends == 1 + len(stops)
    assert_same_end(load_checkpoint(tmp_path / "parts" / LAST), load_checkpoint(tmp_path / "whole" / LAST))


def test_a_stop_between_epochs_keeps_the_finished_epoch(tmp_path: Path, digits: Dataset) -> None:
    """A stop at the end of an epoch leaves its record in the checkpoint and no step of the next."""
    settings = settings_for("seed", dataset="digits", train_images=1437, widths=(8,), epochs=3)
    assert not trained(new_run(settings), digits, tmp_path / "run", frozenset({23}))  # 1437 / 64, rounded up
    progress = load_checkpoint(tmp_path / "run" / LAST).progress
    assert (progress.epoch, progress.step, len(progress.history)) == (1, 0, 1)


def test_a_stop_saves_the_last_finished_step(tmp_path: Path, digits: Dataset) -> None:
    """The checkpoint of a stop holds the step just done, not the last epoch's end."""
    settings = settings_for("seed", dataset="digits", train_images=1437, widths=(8,), epochs=3)
    run = new_run(settings)
    assert not trained(run, digits, tmp_path / "run", frozenset({30}))
    checkpoint = load_checkpoint(tmp_path / "run" / LAST)
    assert (checkpoint.progress.epoch, checkpoint.progress.step) == (1, 7)
    assert all(torch.equal(checkpoint.weights[key], value) for key, value in run.model.state_dict().items())


def started(run: Path, *arguments: str) -> subprocess.Popen[str]:
    """The real command, training into `run`."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_edge", "train", "--run", run, *arguments],
        cwd=run.parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pipesize=4096,
    )  # fmt: skip


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A training process that has told of its first epoch, and its run folder."""
    run = tmp_path / "run"
    with started(run, *RECIPE) as process:
        assert any("epoch" in line for line in iter(process.stderr.readline, ""))
        yield process, run
        process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The end of the same run, trained in one go in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train_here(folder, *RECIPE)
    return load_checkpoint(folder / LAST)


def train_here(run: Path, *arguments: str | Path) -> None:
    """The same command in this process."""
    app(["train", "--run", str(run), *map(str, arguments)], standalone_mode=False)


def refused_here(*arguments: str | Path) -> MnistEdgeError:
    with pytest.raises(MnistEdgeError) as caught:
        app(["train", *map(str, arguments)], standalone_mode=False)
    return caught.value


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((signal.SIGINT, 130), (signal.SIGKILL, -9))),
    ],
)
def test_a_signal_ends_a_run_that_can_be_resumed_bit_for_bit(
    at_work: tuple[subprocess.Popen[str], Path], undisturbed: Checkpoint, number: int, code: int
) -> None:
    """Asked to end, or killed outright, a run resumes to the very weights of an undisturbed one."""
    process, run = at_work
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code
    assert out == ""
    if number != signal.SIGKILL:
        assert f"--resume {run}" in err.splitlines()[-1]
        assert (run / "loss.png").exists()
    stopped = load_checkpoint(run / LAST)
    assert 1 <= stopped.progress.epoch < EPOCHS
    app(["train", "--resume", str(run)], standalone_mode=False)
    assert_same_end(load_checkpoint(run / LAST), undisturbed)
    history = csv.DictReader((run / "history.csv").read_text().splitlines())
    assert [int(row["epoch"]) for row in history] == list(range(1, EPOCHS + 1))


def test_a_run_folder_is_held_by_one_process(at_work: tuple[subprocess.Popen[str], Path]) -> None:
    """While one process trains, a second on the same folder ends with 4, whether it resumes or starts, and harms nothing."""
    process, run = at_work
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    before = contents(run)
    answers = [refused_here("--resume", run), refused_here("--run", run, *RECIPE)]
    assert contents(run) == before
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert ["in use" in answer.message for answer in answers] == [True, True]
    assert [answer.exit_code for answer in answers] == [4, 4]


@pytest.fixture
def interrupted(tmp_path: Path, digits: Dataset) -> Path:
    """A run folder whose run was stopped after 30 steps."""
    settings = settings_for("seed", dataset="digits", train_images=1437, widths=(8,), epochs=3)
    trained(new_run(settings), digits, tmp_path / "run", frozenset({30}))
    return tmp_path / "run"


DIFFERENT = {
    "--lr": ("0.1", "0.01"),
    "--recipe": ("fast", "seed"),
    "--seed": ("1", "0"),
    "--widths": ("8,8", "8"),
    "--batch-size": ("32", "64"),
    "--momentum": ("0.9", "0.0"),
    "--weight-decay": ("0.1", "0.0"),
}
"""Option: a value that the interrupted run does not have, and the one it has."""


@pytest.mark.parametrize("option", DIFFERENT)
def test_a_resumed_run_keeps_its_settings(interrupted: Path, option: str) -> None:
    """An option that would change the run half-way is refused with both values, and nothing is touched."""
    before = contents(interrupted)
    wanted, kept = DIFFERENT[option]
    error = refused_here("--resume", interrupted, option, wanted)
    assert error.exit_code == 2
    assert error.message.startswith(f"{option} ")
    assert wanted in error.message
    assert f"the checkpoint has {kept}" in error.message
    assert contents(interrupted) == before


def test_a_script_that_starts_a_run_can_resume_it(interrupted: Path) -> None:
    """Every option with the checkpoint's own value is accepted; the run ends as without them."""
    same = [word for option, (_, kept) in DIFFERENT.items() for word in (option, kept)]
    app(
        ["train", "--resume", str(interrupted), "--dataset", "digits", "--epochs", "3", *same],
        standalone_mode=False,
    )
    assert load_checkpoint(interrupted / LAST).progress.epoch == 3


def test_a_changed_recipe_file_is_refused(tmp_path: Path) -> None:
    """A recipe of the same name whose settings are others now is refused with the setting; options need no repeating."""
    recipe, run = tmp_path / "mine.toml", tmp_path / "run"
    recipe.write_text("base = 'fast'\n")
    train_here(run, "--dataset", "digits", "--widths", "4", "--epochs", "1", "--lr", "0.01", "--recipe", recipe)
    train_here(run, "--resume", run, "--recipe", recipe)
    recipe.write_text("base = 'fast'\nshift = 2\n")
    error = refused_here("--resume", run, "--recipe", recipe)
    assert error.exit_code == 2
    assert "shift 2: the checkpoint has 1" in error.message


def test_another_number_of_epochs_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A schedule depends on the number of epochs: the jump of the learning rate is reported; fewer than done is refused."""
    run = tmp_path / "run"
    train_here(run, "--dataset", "digits", "--widths", "4", "--epochs", "2")
    capsys.readouterr()
    train_here(run, "--resume", run, "--epochs", "3")
    assert "the checkpoint was begun for 2 epochs, so the learning rate jumps" in capsys.readouterr().err
    error = refused_here("--resume", run, "--epochs", "1")
    assert (error.exit_code, error.message) == (2, "--epochs 1: 3 are done already")


def test_a_finished_run_is_replaced_only_on_request(tmp_path: Path) -> None:
    """Training into the folder of a finished run is refused and names the ways out; --overwrite leaves nothing of it."""
    run, options = tmp_path / "run", ("--dataset", "digits", "--widths", "4", "--epochs", "2")
    train_here(run, *options)
    before = contents(run)
    error = refused_here("--run", run, *options, "--seed", "1")
    assert error.exit_code == 2
    assert "holds a finished run" in error.message
    assert all(way in error.hint for way in (f"--resume {run}", "--overwrite", "another --run"))
    assert contents(run) == before
    train_here(run, *options, "--seed", "1", "--overwrite")
    assert {load_checkpoint(run / name).settings.seed for name in (LAST, "previous.safetensors")} == {1}


def test_leftovers_of_a_killed_run_are_removed(interrupted: Path) -> None:
    """Temporary files that a kill left in the run folder go with the next run in it."""
    (interrupted / ".writing-abc").write_bytes(b"half")
    app(["train", "--resume", str(interrupted)], standalone_mode=False)
    assert not list(interrupted.glob(".writing-*"))


def test_more_epochs_may_be_asked_for(interrupted: Path) -> None:
    """--epochs is the new total of a resumed run."""
    app(["train", "--resume", str(interrupted), "--epochs", "5"], standalone_mode=False)
    assert [record.epoch for record in load_checkpoint(interrupted / LAST).progress.history] == [1, 2, 3, 4, 5]


def test_a_finished_run_that_is_resumed_stays_as_it_is(interrupted: Path) -> None:
    """Resuming a run with nothing left to do changes no weight and no record."""
    app(["train", "--resume", str(interrupted)], standalone_mode=False)
    before = load_checkpoint(interrupted / LAST)
    app(["train", "--resume", str(interrupted)], standalone_mode=False)
    assert_same_end(load_checkpoint(interrupted / LAST), before)


def test_a_checkpoint_alone_is_a_run(interrupted: Path) -> None:
    """Whoever copies only last.safetensors to another folder gets its histories back."""
    command = ["train", "--resume", str(interrupted), "--json"]
    app(command, standalone_mode=False)
    histories = {name: (interrupted / name).read_bytes() for name in ("history.csv", "loss.csv")}
    for name in histories:
        (interrupted / name).unlink()
    app(command, standalone_mode=False)
    assert {name: (interrupted / name).read_bytes() for name in histories} == histories


@pytest.mark.parametrize("over", ["fresh", "weights", "another run"])
def test_an_interrupted_run_is_not_overwritten(interrupted: Path, tmp_path: Path, over: str) -> None:
    """New training into the folder of an interrupted run is refused, and its checkpoint stays."""
    before = contents(interrupted)
    arguments = ["--dataset", "digits", "--run", interrupted]
    if over == "weights":
        torch.save(build_model((8,)).state_dict(), tmp_path / "net.pth")
        arguments += ["--resume", tmp_path / "net.pth", "--normalize", "seed", "--epochs", "1"]
    elif over == "another run":
        other = settings_for("fast", dataset="digits", train_images=1437, widths=(4,), epochs=1)
        app(
            ["train", "--dataset", "digits", "--widths", "4", "--epochs", "1", "--run", str(tmp_path / "other")],
            standalone_mode=False,
        )
        assert load_checkpoint(tmp_path / "other" / LAST).settings == other
        arguments += ["--resume", tmp_path / "other", "--epochs", "2"]
    else:
        arguments += ["--epochs", "1"]
    error = refused_here(*arguments)
    assert error.exit_code == 2
    assert contents(interrupted) == before


def test_bare_weights_start_with_a_fresh_optimiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .pth brings its widths and weights and nothing else, and that is said."""
    torch.manual_seed(6)
    model = build_model((7, 5))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    train_here(
        tmp_path / "run",
        "--dataset",
        "digits",
        "--resume",
        tmp_path / "net.pth",
        "--normalize",
        "seed",
        "--epochs",
        "1",
        "--lr",
        "1e-30",
    )
    assert "optimiser starts fresh" in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "run" / LAST)
    assert checkpoint.settings.widths == (7, 5)
    assert checkpoint.progress.epoch == 1
    assert all(torch.equal(checkpoint.weights[key], value) for key, value in model.state_dict().items())


def test_a_run_of_another_dataset_is_refused(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    """A run on the digits does not go on with other pictures."""
    other = dataclasses.replace(digits, name="kmnist")
    monkeypatch.setattr("mnist_edge.data.sources.load_dataset", lambda *_: other)
    before = contents(interrupted)
    error = refused_here("--resume", interrupted, "--dataset", "kmnist")
    assert error.exit_code == 2
    assert "digits" in error.message
    assert contents(interrupted) == before


def test_divergence_ends_with_one_and_keeps_a_good_checkpoint(tmp_path: Path) -> None:
    """A rate far too high is a failed check, and what was saved before still loads and goes on failing the same way."""
    run = tmp_path / "run"
    error = refused_here("--dataset", "digits", "--run", run, "--lr", "1e6", "--epochs", "5")
    assert error.exit_code == 1
    assert "--lr" in error.hint
    kept = load_checkpoint(run / LAST)
    assert all(bool(value.isfinite().all()) for value in kept.weights.values())
    assert kept.progress.epoch < 5
    assert refused_here("--resume", run).exit_code == 1
