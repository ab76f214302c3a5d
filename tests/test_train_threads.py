"""The number of threads to train with: timed on a copy, recorded, kept by a resumed run."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_edge.records.data import Dataset
from mnist_edge.training import threads
from mnist_edge.training.checkpoint import LAST, load_checkpoint
from mnist_edge.training.loop import Run, new_run
from mnist_edge.training.recipes import settings_for
from mnist_edge.training.run import Start, resume_run, train_run
from mnist_edge.training.threads import choose_threads, limited_threads


def fresh(**changes: object) -> Run:
    settings = settings_for("fast", dataset="digits", train_images=1437, widths=(8,), epochs=2)
    return new_run(dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, **changes)))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two CPUs on which torch would use both."""
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("one", "both", "expected"), [(0.001, 0.02, 1), (0.02, 0.001, 2), (0.01, 0.01, 1)])
def test_the_faster_number_is_taken(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, one: float, both: float, expected: int
) -> None:
    """One or all, whichever made the steps faster; both figures and the choice are reported."""
    monkeypatch.setattr(threads, "_seconds_per_step", lambda *_: {1: one, 2: both})
    chosen, notes = choose_threads(fresh(), digits, None, None)
    assert chosen == expected
    assert f"training with {expected} of 2 threads" in notes[-1]
    assert f"{1000 * one:.1f} ms with 1, {1000 * both:.1f} ms with 2" in notes[-1]


@pytest.mark.usefixtures("two")
def test_a_busy_machine_is_reported(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load above the number of CPUs is named, one below it is not."""
    monkeypatch.setattr(threads, "_seconds_per_step", lambda *_: {1: 1.0, 2: 2.0})
    for load, lines in ((3.2, 2), (1.9, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        notes = choose_threads(fresh(), digits, None, None)[1]
        assert len(notes) == lines
        assert ("load 3.2 on 2 CPUs" in notes[0]) == (load > 2)


@pytest.mark.usefixtures("two")
def test_what_is_asked_for_or_recorded_is_not_timed(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """--threads comes first, then the checkpoint's number; a number that must differ is reported."""
    monkeypatch.setattr(threads, "_seconds_per_step", lambda *_: pytest.fail("timed"))
    assert choose_threads(fresh(), digits, 2, None) == (2, [])
    assert choose_threads(fresh(), digits, None, 1) == (1, [])
    assert choose_threads(fresh(), digits, 1, 1) == (1, [])
    for wanted, recorded, expected in ((1, 2, 1), (None, 16, 2)):
        chosen, notes = choose_threads(fresh(), digits, wanted, recorded)
        assert chosen == expected
        assert f"started with {recorded} threads, {expected} are used now" in notes[0]


@pytest.mark.parametrize("changes", [{}, {"batch_size": 4000}, {"rotation": 5.0, "momentum": 0.0}], ids=str)
def test_timing_changes_nothing_of_the_run(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    """Weights, sampler and torch's own generator are as they were; both numbers of threads took steps."""
    monkeypatch.setattr(threads, "ROUND_S", 0.0)
    run = fresh(**changes)
    kept, sampler, state = copy.deepcopy(run.model.state_dict()), run.sampler.get_state(), torch.get_rng_state()
    found = threads._seconds_per_step(run, digits, (1, 2))
    assert set(found) == {1, 2}
    assert all(0 < value < 60 for value in found.values())
    assert all(torch.equal(kept[key], value) for key, value in run.model.state_dict().items())
    assert torch.equal(sampler, run.sampler.get_state())
    assert torch.equal(state, torch.get_rng_state())
    assert not run.momentum
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_the_number_is_recorded_and_kept(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint holds it, the resumed run uses it, and torch is as before afterwards."""
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    before = torch.get_num_threads()

    def trained(start: Start, wanted: int | None) -> None:
        train_run(
            start, digits, tmp_path, device="cpu", threads=wanted, notify=lambda _line: None,
            on_step=lambda _done, _all: None, on_epoch=lambda _record: None, stop=lambda: True,
        )  # fmt: skip

    trained(Start(run=fresh()), 2)
    assert load_checkpoint(tmp_path / LAST).environment["threads"] == 2
    trained(resume_run(tmp_path / LAST, None), None)
    assert load_checkpoint(tmp_path / LAST).environment["threads"] == 2
    assert torch.get_num_threads() == before


def test_threads_are_limited_for_a_block_only() -> None:
    """An error in the block restores them, too."""
    before = torch.get_num_threads()

    def failing() -> None:
        with limited_threads(before + 1):
            raise ZeroDivisionError(torch.get_num_threads())

    with pytest.raises(ZeroDivisionError, match=str(before + 1)):
        failing()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("chosen", "during"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_idle_threads_sleep_unless_the_user_says_otherwise(tmp_path: Path, chosen: dict[str, str], during: str) -> None:
    """The policy is set while torch is loaded, and is gone afterwards from what child processes inherit."""
    (tmp_path / "torch.py").write_text("import os; policy = os.environ.get('OMP_WAIT_POLICY')\n")
    code = (
        f"import sys, os; sys.path.insert(0, {str(tmp_path)!r}); from mnist_edge.training.openmp import import_torch; "
        "import_torch(); import torch; print(torch.policy, os.environ.get('OMP_WAIT_POLICY'))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [during, str(chosen.get("OMP_WAIT_POLICY"))]
