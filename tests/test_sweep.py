"""`mnist-edge sweep`: ranked as plain training ranks, without the test set, and no finished trial is ever lost."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import termios
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import Random
from statistics import fmean
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_edge.cli.app import app
from mnist_edge.cli.entry import main
from mnist_edge.errors import MnistEdgeError
from mnist_edge.extras import install_hint
from mnist_edge.interrupts import StopRequest
from mnist_edge.records.data import Dataset
from mnist_edge.records.sweep import SweepReport
from mnist_edge.reporting.plots.sweep import sweep_plot
from mnist_edge.sweeping.search import Plan, sweep
from mnist_edge.sweeping.study import Space, open_study

TRIALS = 12
"""Two more than Optuna draws at random before it learns from what it has seen."""
SPACE = ("--lr", "0.005:0.2", "--batch-size", "64,128", "--widths", "12", "--widths", "8,6", "--seeds", "0,3")
TINY = ("--dataset", "digits", "--epochs", "4", *SPACE)
KEYS = {
    "schema", "study", "storage", "dataset", "recipe", "epochs", "holdout_images", "seeds", "trials", "command",
}  # fmt: skip


def here(*arguments: str | Path) -> None:
    """The command in this process; its errors come out as they are."""
    app(["sweep", *map(str, arguments)], standalone_mode=False)


def refused(*arguments: str | Path) -> MnistEdgeError:
    with pytest.raises(MnistEdgeError) as caught:
        here(*arguments)
    return caught.value


def found(capsys: pytest.CaptureFixture[str], study: Path, *arguments: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The JSON of a sweep, and the lines of the trials that this process has tried."""
    capsys.readouterr()
    here(*(arguments or TINY), "--study", study, "--json")
    told = capsys.readouterr()
    return json.loads(told.out), [line for line in told.err.splitlines() if line.startswith("trial")]


def timeless(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials without what differs from run to run."""
    return [{**trial, "seconds": 0} for trial in report["trials"]]


def ask(study: Path, query: str) -> list[tuple]:
    """What the file itself holds, or the change of it."""
    with closing(sqlite3.connect(study / "study.db")) as database, database:
        return database.execute(query).fetchall()


def states(study: Path) -> list[str]:
    return [state for (state,) in ask(study, "SELECT state FROM trials ORDER BY number")]


def age_heartbeats(study: Path, seconds: int) -> None:
    """As if every running worker had recorded its last heartbeat so long ago."""
    ask(study, f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{seconds} seconds')")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, digits: Dataset) -> None:
    """The digits are made once, and no picture is drawn where none is looked at."""
    monkeypatch.setattr("mnist_edge.data.sources.load_dataset", lambda *_: digits)
    monkeypatch.setattr("mnist_edge.reporting.plots.sweep.sweep_plot", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study folder of a sweep that nobody disturbed. Do not change it."""
    folder = tmp_path_factory.mktemp("whole") / "a study\nwith ümlauts"
    here(*TINY, "--trials", str(TRIALS), "--study", folder, "--json")
    return folder


@pytest.fixture
def undisturbed(whole: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Its report, told by a second run that has nothing left to do."""
    report, lines = found(capsys, whole, *TINY, "--trials", str(TRIALS))
    assert lines == []
    return report


def test_the_ranking_is_that_of_plain_training(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure is what `train` with the same settings writes into history.csv, and the best mean comes first."""
    assert set(undisturbed) == KEYS
    assert undisturbed["schema"] == "mnist-edge/sweep/2"
    assert (undisturbed["holdout_images"], undisturbed["seeds"]) == (72, [0, 3])
    assert undisturbed["storage"] == f"{undisturbed['study']}/study.db"
    trials = undisturbed["trials"]
    assert [trial["rank"] for trial in trials] == list(range(1, TRIALS + 1))
    assert [trial["holdout_accuracy"] for trial in trials] == sorted(
        (trial["holdout_accuracy"] for trial in trials), reverse=True
    )
    assert trials[0]["holdout_accuracy"] > trials[-1]["holdout_accuracy"]
    for trial in trials:
        assert trial["holdout_accuracy"] == fmean(trial["accuracies"])
        assert 0.005 <= trial["lr"] <= 0.2
        assert trial["lr"] == float(f"{trial['lr']:.3g}")
        assert trial["batch_size"] in {64, 128}
        assert trial["widths"] in ([12], [8, 6])
    assert len({trial["lr"] for trial in trials}) == TRIALS

    monkeypatch.setattr("mnist_edge.reporting.plots.loss.loss_curve", lambda *_: None)
    for number, trial in enumerate((trials[0], trials[5], trials[-1])):
        accuracies = []
        for seed in ("0", "3"):
            run = tmp_path / f"{number}-{seed}"
            widths = ",".join(map(str, trial["widths"]))
            setting = ["--lr", str(trial["lr"]), "--batch-size", str(trial["batch_size"]), "--widths", widths]
            command = ["train", "--dataset", "digits", "--recipe", "fast", "--epochs", "4", *setting, "--seed", seed]
            if number == 0 and seed == "0":
                assert shlex.split(undisturbed["command"]) == ["mnist-edge", *command]
            app([*command, "--run", str(run)], standalone_mode=False)
            *_, last = csv.DictReader((run / "history.csv").read_text().splitlines())
            accuracies.append(float(last["holdout_accuracy"]))
        assert accuracies == trial["accuracies"]


def test_a_person_gets_a_table_a_command_and_a_picture(
    whole: Path, undisturbed: dict[str, Any], capsys, monkeypatch
) -> None:
    """The table has a row a trial, best first, the spread over seeds, and what the best is trained with."""
    monkeypatch.setattr("mnist_edge.reporting.plots.sweep.sweep_plot", sweep_plot)
    (whole / "sweep.png").unlink(missing_ok=True)
    here(*TINY, "--trials", str(TRIALS), "--study", whole)
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1] for row in rows] == [f"{trial['lr']:g}" for trial in undisturbed["trials"]]
    best = undisturbed["trials"][0]
    low, high = (f"{100 * accuracy:.2f}" for accuracy in (min(best["accuracies"]), max(best["accuracies"])))
    assert rows[0][4:6] == [f"{best['holdout_accuracy']:.2%}", f"{low}..{high}%"]
    assert undisturbed["command"] in out
    assert (whole / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_set_is_never_read(
    undisturbed: dict[str, Any], digits: Dataset, tmp_path: Path, monkeypatch, capsys
) -> None:
    """With noise for a test set every trial comes to the same; that also shows that a sweep repeats."""
    noise = np.random.default_rng(1).integers(0, 9, digits.test_labels.shape, dtype=np.uint8)
    spoilt = dataclasses.replace(digits, test_images=digits.test_images[::-1] // 2, test_labels=noise)
    monkeypatch.setattr("mnist_edge.data.sources.load_dataset", lambda *_: spoilt)
    report, _ = found(capsys, tmp_path, *TINY, "--trials", str(TRIALS))
    assert timeless(report) == timeless(undisturbed)


def test_a_sweep_goes_on_to_its_number_of_trials(undisturbed: dict[str, Any], tmp_path: Path, capsys) -> None:
    """The same command tries only what is missing, and ends as if it had never been stopped."""
    report, lines = found(capsys, tmp_path, *TINY, "--trials", "5")
    assert (len(report["trials"]), len(lines)) == (5, 5)
    report, lines = found(capsys, tmp_path, *TINY, "--trials", str(TRIALS))
    assert len(lines) == TRIALS - 5
    assert timeless(report) == timeless(undisturbed)
    report, lines = found(capsys, tmp_path, *TINY, "--trials", "3")
    assert (len(report["trials"]), len(lines)) == (TRIALS, 0)


class Worker:
    """The real command in a process of its own; after some three trials it waits until somebody reads its lines."""

    def __init__(self, study: Path) -> None:
        self._read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        self._junk = os.write(write, b"." * 3850)
        command = [
            sys.executable,
            "-m",
            "mnist_edge",
            "sweep",
            *TINY,
            "--trials",
            str(TRIALS),
            "--study",
            study,
            "--json",
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=write, text=True)
        os.close(write)

    def wait_for_a_trial(self) -> None:
        while int.from_bytes(fcntl.ioctl(self._read, termios.FIONREAD, bytes(4)), sys.byteorder) == self._junk:
            assert self.process.poll() is None
            sleep(0.02)

    def ended(self) -> tuple[int, str, list[str]]:
        """Let it go on to its end: its exit code, output and lines."""
        with open(self._read) as lines, self.process:
            told = lines.read()[self._junk :].splitlines()
            out, _ = self.process.communicate()
        return self.process.returncode, out, told


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_sweep_that_was_stopped_or_killed_loses_one_trial(
    undisturbed: dict[str, Any], tmp_path: Path, capsys, number: int, code: int
) -> None:
    """What was finished stays, what was under way does not count and is tried again."""
    worker = Worker(tmp_path)
    worker.wait_for_a_trial()
    worker.process.send_signal(number)
    ended, out, told = worker.ended()
    assert ended == code
    if number != signal.SIGKILL:
        assert json.loads(out)["error"]["kind"] == "stopped"
        assert "same command" in told[-1]
        assert "RUNNING" not in states(tmp_path)
    before = states(tmp_path)
    kept = before.count("COMPLETE")
    assert 1 <= kept < TRIALS
    assert len(before) - kept <= 1
    report, lines = found(capsys, tmp_path, *TINY, "--trials", str(TRIALS))
    assert len(lines) == TRIALS - kept
    assert timeless(report) == timeless(undisturbed)
    assert states(tmp_path).count("RUNNING") == 0


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, capsys) -> None:
    """Together they try as many settings as were asked for, each of them once."""
    worker = Worker(tmp_path)
    worker.wait_for_a_trial()
    _, ours = found(capsys, tmp_path, *TINY, "--trials", str(TRIALS))
    code, out, told = worker.ended()
    theirs = [line for line in told if line.startswith("trial")]
    assert code == 0, told
    assert ours
    assert theirs
    assert len(ours) + len(theirs) == TRIALS
    assert states(tmp_path) == ["COMPLETE"] * TRIALS
    report, lines = found(capsys, tmp_path, *TINY, "--trials", str(TRIALS))
    assert (len({trial["lr"] for trial in report["trials"]}), lines) == (TRIALS, [])
    assert json.loads(out)["schema"] == report["schema"]


SMALL = Space(lr=(0.01, 0.1), batch_sizes=(128,), widths=((4,),))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(folder=tmp_path, recipe="fast", epochs=1, space=SMALL, seeds=(0,), trials=3)


@pytest.mark.parametrize("first_ends", ["finished", "stopped"])
def test_a_trial_in_the_hands_of_another_worker_is_left_to_it(plan: Plan, digits: Dataset, first_ends: str) -> None:
    """A worker that begins in the midst of another's trial takes the next; nothing is tried twice, whatever becomes of it."""
    others: list[SweepReport] = []

    def one_trial() -> SweepReport:
        told: list[Any] = []
        return sweep(
            plan,
            digits,
            on_trial=lambda *trial: told.append(trial),
            on_progress=lambda *_: None,
            stop=lambda: bool(told),
        )

    first = sweep(
        plan,
        digits,
        on_trial=lambda *_: None,
        on_progress=lambda *_: others or others.append(one_trial()),
        stop=lambda: bool(others) and first_ends == "stopped",
    )
    assert len(others[0].trials) == 1
    assert len(first.trials) == (3 if first_ends == "finished" else 1)
    last = first if first_ends == "finished" else [one_trial(), one_trial()][1]
    assert len(last.trials) == 3
    assert len({trial.lr for trial in last.trials}) == 3
    assert others[0].trials[0].lr in {trial.lr for trial in last.trials}


def test_a_trial_without_a_heartbeat_is_tried_again_by_another_worker(tmp_path: Path) -> None:
    """A minute after the last heartbeat, and with the setting that it had; a late result of the first does not count."""
    with open_study(tmp_path, SMALL, {}) as first, open_study(tmp_path, SMALL, {}) as second:
        claimed = first.claim(2)
        other = second.claim(2)
        assert claimed is not None
        assert other is not None
        assert claimed[1] != other[1]
        second.finish(other[0], [0.5], 1.0)
        age_heartbeats(tmp_path, 55)
        assert second.claim(2) is None
        age_heartbeats(tmp_path, 62)
        first.beat(claimed[0], force=True)
        assert (second.claim(2), second.running()) == (None, 1)
        age_heartbeats(tmp_path, 62)
        again = second.claim(2)
        assert again is not None
        assert again[1] == claimed[1]
        assert first.finish(claimed[0], [0.9], 1.0) is None
        assert first.fail(claimed[0], "it diverged", 1.0) is None
        assert second.finish(again[0], [0.6], 1.0) is not None
        assert [trial.value for trial in first.finished()] == [0.6, 0.5]
    assert states(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_of_an_only_worker_that_was_killed_is_tried_again_at_once(tmp_path: Path) -> None:
    """Its heartbeat is fresh, but on one machine the system knows that nobody is left; so nothing is drawn out of order."""
    with open_study(tmp_path, SMALL, {}) as killed:
        claimed = killed.claim(2)
    with open_study(tmp_path, SMALL, {}) as first, open_study(tmp_path, SMALL, {}) as second:
        again = first.claim(2)
        other = second.claim(2)
        assert claimed is not None
        assert again is not None
        assert other is not None
        assert again[1] == claimed[1] != other[1]
    assert states(tmp_path) == ["FAIL", "RUNNING", "RUNNING"]


def test_a_worker_that_was_killed_before_its_first_heartbeat_holds_no_trial(tmp_path: Path) -> None:
    """Optuna never takes a trial without any heartbeat for stale."""
    with open_study(tmp_path, SMALL, {}) as first, open_study(tmp_path, SMALL, {}) as second:
        assert first.claim(1) is not None
        assert second.claim(1) is None
        ask(tmp_path, "DELETE FROM trial_user_attributes WHERE key = 'place'")
        ask(tmp_path, "DELETE FROM trial_heartbeats")
        assert second.claim(1) is not None
    assert states(tmp_path) == ["FAIL", "RUNNING"]


def test_the_last_worker_waits_for_the_others_and_takes_over(plan: Plan, digits: Dataset, monkeypatch) -> None:
    """Otherwise the trial of a worker that is killed at the end would be missing, and nobody would know."""
    recorded: list[dict[str, str]] = []
    monkeypatch.setattr("mnist_edge.sweeping.search.open_study", spying(recorded))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 9
        age_heartbeats(plan.folder, 62 if len(waits) == 3 else 1)

    monkeypatch.setattr("mnist_edge.sweeping.search.sleep", wait)
    hooks: dict[str, Any] = {"on_trial": lambda *_: None, "on_progress": lambda *_: None}
    sweep(plan, digits, **hooks, stop=lambda: True)
    with open_study(plan.folder, SMALL, recorded[0]) as killed:
        assert killed.claim(3) is not None
        report = sweep(plan, digits, **hooks, stop=lambda: False)
    assert len(waits) == 3
    assert len(report.trials) == 3
    assert states(plan.folder) == ["FAIL", *["COMPLETE"] * 3]


def spying(recorded: list[dict[str, str]]) -> Any:
    def opens(folder: Path, space: Space, settings: dict[str, str], *rest: Any) -> Any:
        recorded.append(settings)
        return open_study(folder, space, settings, *rest)

    return opens


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["claim", "finish", "fail", "drop", "lose", "reopen"]), st.integers(0, 2))))
def test_whatever_workers_do_no_trial_is_finished_twice(actions: list[tuple[str, int]]) -> None:
    """Three workers claim, finish, abandon and lose trials in any order: never more than planned, each place at most once."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        study = Path(folder)
        held: list[Any] = [None] * 3
        workers = [stack.enter_context(open_study(study, SMALL, {})) for _ in held]
        for action, number in actions:
            worker, claimed = workers[number], held[number]
            if action == "lose":  # all of them
                age_heartbeats(study, 62)
            elif action == "reopen":
                workers[number], held[number] = stack.enter_context(open_study(study, SMALL, {})), None
            elif action == "claim" and claimed is None:
                claimed = worker.claim(4)
                held[number] = claimed and claimed[0]
            elif claimed is not None and action != "claim":
                {
                    "finish": lambda: worker.finish(claimed, [0.5], 1.0),  # noqa: B023 - called here
                    "fail": lambda: worker.fail(claimed, "it diverged", 1.0),  # noqa: B023
                    "drop": lambda: worker.drop(claimed),  # noqa: B023
                }[action]()
                held[number] = None
            places = [
                place
                for (place,) in ask(
                    study,
                    "SELECT place.value_json FROM trials JOIN trial_user_attributes place "
                    "ON place.trial_id = trials.trial_id AND place.key = 'place' "
                    "LEFT JOIN trial_user_attributes failure "
                    "ON failure.trial_id = trials.trial_id AND failure.key = 'failure' "
                    "WHERE state IN ('COMPLETE', 'RUNNING') OR failure.key IS NOT NULL",
                )
            ]
            assert len(places) == len(set(places)) <= 4
        age_heartbeats(study, 62)
        while (claimed := workers[0].claim(4)) is not None:
            workers[0].finish(claimed[0], [0.5], 1.0)
        assert sorted(trial.user_attrs["place"] for trial in workers[0].finished()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "changed",
    [
        ["--lr", "0.005:0.3"], ["--batch-size", "64"], ["--widths", "12"], ["--seeds", "0"], ["--epochs", "5"],
        ["--recipe", "best"], ["--recipe", "mine.toml"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_another_search_does_not_mix_with_a_study(whole: Path, tmp_path: Path, monkeypatch, changed: list[str]) -> None:
    """A study goes on with the settings it was begun with; others are refused by name, and it stays as it was."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('base = "fast"\nmomentum = 0.8\n')
    before = (whole / "study.db").read_bytes()
    kept = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] != changed[0] for word in pair]
    error = refused(*kept, *changed, "--trials", "20", "--study", whole)
    assert error.exit_code == 2
    assert changed[0] in error.message
    if "toml" in changed[1]:
        assert "momentum of the recipe 0.9, not 0.8" in error.message
    assert (whole / "study.db").read_bytes() == before


def test_another_dataset_does_not_mix_with_a_study(whole: Path, digits: Dataset, monkeypatch) -> None:
    """Accuracies on different pictures are not ranked against each other."""
    other = dataclasses.replace(digits, name="kmnist")
    monkeypatch.setattr("mnist_edge.data.sources.load_dataset", lambda *_: other)
    error = refused(*TINY, "--study", whole)
    assert error.exit_code == 2
    assert "--dataset digits, not kmnist" in error.message


def test_a_diverging_trial_is_ranked_last_and_the_sweep_goes_on(tmp_path: Path, capsys) -> None:
    """A loss that becomes infinite is a failed trial with its reason, in the report and for the next run."""
    options = ("--dataset", "digits", "--epochs", "2", "--widths", "8", "--seeds", "0", "--lr", "1e-6:1e6")
    report, lines = found(capsys, tmp_path, *options, "--trials", "4")
    failures = [bool(trial["failure"]) for trial in report["trials"]]
    assert len(lines) == 4
    assert failures == sorted(failures)
    assert {True, False} == set(failures)
    assert {trial["holdout_accuracy"] is None for trial in report["trials"] if trial["failure"]} == {True}
    assert "diverged" in report["trials"][-1]["failure"]
    again, lines = found(capsys, tmp_path, *options, "--trials", "4")
    assert (again, lines) == (report, [])
    assert states(tmp_path).count("FAIL") == failures.count(True)
    here(*options, "--trials", "4", "--study", tmp_path)
    assert "failed: seed 0: " in capsys.readouterr().out


def test_a_sweep_of_failures_fails(tmp_path: Path, capsys) -> None:
    """Where no trial can be judged the command ends with 1 and the reason."""
    options = ("--dataset", "digits", "--epochs", "3", "--widths", "8", "--seeds", "0", "--lr", "1e5:9e5")
    error = refused(*options, "--trials", "2", "--study", tmp_path, "--json")
    assert error.exit_code == 1
    assert "all 2 trials failed" in error.message
    assert "diverged" in error.message
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "sweep.png").exists()


@pytest.mark.parametrize("damage", ["garbage", "cut", "a folder", "trials without settings", "no column"])
def test_a_damaged_file_ends_with_three(whole: Path, tmp_path: Path, capsys, damage: str) -> None:
    """A file that is not whole is named; nothing is trained, and it is left as it is for a look."""
    study = tmp_path / "study"
    shutil.copytree(whole, study)
    path = study / "study.db"
    if damage == "garbage":
        path.write_bytes(bytes(range(256)) * 80)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:20_000])
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage == "no column":
        ask(study, "ALTER TABLE trials RENAME COLUMN state TO condition")
    else:
        ask(study, "DELETE FROM study_user_attributes")
    spoilt = path.read_bytes() if path.is_file() else b""
    error = refused(*TINY, "--trials", "20", "--study", study)
    assert error.exit_code == 3
    assert str(path) in error.message
    assert "trial " not in capsys.readouterr().err
    assert not path.is_file() or path.read_bytes() == spoilt


VALUES = [None, -1, 2.5, 10**18, "", "x", "[]", "{}", "[1]", '{"a": 1}', "1e308", "12", b"\xff\x00"]


@pytest.mark.slow
def test_no_change_of_a_file_is_an_unexpected_error(whole: Path, tmp_path: Path, monkeypatch) -> None:
    """Whatever value another program wrote: the sweep goes on, or refuses the file with 3 or its settings with 2."""
    monkeypatch.setattr("mnist_edge.sweeping.search._held_out_accuracy", lambda *_: 0.5)
    tables = [name for (name,) in ask(whole, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    cells = [
        (table, column, row)
        for table in tables
        for (_, column, *_) in ask(whole, f"PRAGMA table_info({table})")
        for (row,) in ask(whole, f"SELECT rowid FROM {table}")
    ]
    random, refusals = Random(9), []
    for _ in range(60):
        shutil.copy(whole / "study.db", tmp_path)
        table, column, row = random.choice(cells)
        with closing(sqlite3.connect(tmp_path / "study.db")) as database, suppress(sqlite3.IntegrityError), database:
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (random.choice(VALUES), row))
        try:
            here(*TINY, "--trials", "3", "--study", tmp_path, "--json")
        except MnistEdgeError as error:
            refusals.append(error)
    assert {error.exit_code for error in refusals} <= {2, 3}
    assert 3 in {error.exit_code for error in refusals}
    assert all(str(tmp_path) in error.message for error in refusals)


def test_a_study_that_is_no_file_ends_at_once(tmp_path: Path) -> None:
    """A FIFO would block for ever."""
    os.mkfifo(tmp_path / "study.db")
    error = refused(*TINY, "--study", tmp_path)
    assert error.exit_code == 3
    assert "study.db" in error.message


def test_a_study_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """Its trials would silently be left out and tried again."""
    (tmp_path / "journal.log").write_text("{}\n")
    error = refused(*TINY, "--study", tmp_path)
    assert error.exit_code == 3
    assert "journal.log" in error.message
    assert "--study" in error.hint
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]


@pytest.mark.parametrize("pragma", ["max_page_count = 1", "query_only = 1"])
def test_a_full_disk_or_a_folder_that_cannot_be_written_ends_with_four(
    whole: Path, tmp_path: Path, monkeypatch, pragma: str
) -> None:
    """What SQLite reports of a full or read-only disk; the finished trials stay."""
    shutil.copytree(whole, tmp_path / "study")
    connect = sqlite3.connect

    def limited(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA {pragma}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    error = refused(*TINY, "--trials", "400", "--study", tmp_path / "study")
    monkeypatch.undo()
    assert error.exit_code == 4
    assert str(tmp_path / "study" / "study.db") in error.message
    assert "same command" in error.hint
    assert states(tmp_path / "study").count("COMPLETE") >= TRIALS


WRONG = {
    "nothing held out": ["--recipe", "seed"],
    "one rate": ["--lr", "0.1"],
    "backwards": ["--lr", "0.2:0.1"],
    "from zero": ["--lr", "0:0.1"],
    "no number": ["--lr", "low:high"],
    "without end": ["--lr", "0.1:inf"],
    "no width": ["--widths", "16,0"],
    "no seed": ["--seeds", "-1"],
    "no batch": ["--batch-size", "many"],
    "no trial": ["--trials", "0"],
    "no database": ["--storage", "mysql://root@localhost/x"],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_end_with_two(tmp_path: Path, monkeypatch, capsys, wrong: str) -> None:
    """What cannot be searched is refused before any work, in one line and one document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnist_edge.cli.entry.raise_on_signals", StopRequest)
    monkeypatch.setattr("sys.argv", ["mnist-edge", "sweep", "--dataset", "digits", "--json", *WRONG[wrong]])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert json.loads(told.out)["error"]["kind"] == "usage"
    assert WRONG[wrong][0].strip("-") in json.loads(told.out)["error"]["message"]
    assert len(told.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_optuna_the_command_says_what_to_install(tmp_path: Path, monkeypatch, capsys) -> None:
    """The missing extra ends the command with 4 and the pip command, before the options or the data are looked at."""
    monkeypatch.chdir(tmp_path)
    for name in [
        name for name in sys.modules if name.split(".")[0] == "optuna" or name.startswith("mnist_edge.sweeping")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("mnist_edge.cli.entry.raise_on_signals", StopRequest)
    monkeypatch.setattr("sys.argv", ["mnist-edge", "sweep", "--lr", "wrong", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    assert json.loads(capsys.readouterr().out)["error"]["hint"] == install_hint("sweep")
    assert not list(tmp_path.iterdir())
