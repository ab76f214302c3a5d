"""Checkpoints: what was saved comes back, what was damaged is named, and the old one survives every failure."""

from __future__ import annotations

import copy
import dataclasses
import errno
import os
import random
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.records.training import EpochRecord
from mnist_edge.training.checkpoint import (
    LAST,
    PREVIOUS,
    Checkpoint,
    Progress,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from mnist_edge.training.model import build_model
from mnist_edge.training.recipes import settings_for
from mnist_edge.training.state_dict import read_model

WIDTHS = (6, 5)


def made(seed: int = 0) -> Checkpoint:
    """A checkpoint with something in every field."""
    torch.manual_seed(seed)
    weights = build_model(WIDTHS).state_dict()
    return Checkpoint(
        settings=settings_for("fast", dataset="digits", train_images=1437, widths=WIDTHS, seed=seed),
        progress=Progress(
            epoch=2,
            step=5,
            seconds=0.1,
            history=[
                EpochRecord(epoch=1, loss=1 / 3, holdout_accuracy=None, seconds=0.2),
                EpochRecord(epoch=2, loss=1e-9, holdout_accuracy=0.75, seconds=1e-3),
            ],
        ),
        weights=weights,
        momentum={key: torch.randn_like(value) for key, value in weights.items()},
        sampler=torch.Generator().manual_seed(seed).get_state(),
        loss_sum=torch.tensor(0.1),
        curve=torch.rand(7),
        environment={"device": "cpu", "threads": 2},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path, made())


@pytest.fixture
def whole(saved: Path) -> bytes:
    return saved.read_bytes()


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert (one.settings, one.progress, one.environment) == (other.settings, other.progress, other.environment)
    for name in ("weights", "momentum"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("sampler", "loss_sum", "curve"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def refused(path: Path) -> BadFileError:
    """The error that loading ends with; it names the file."""
    with pytest.raises(BadFileError) as caught:
        read_model(path)
    assert str(path) in caught.value.message
    return caught.value


def test_everything_comes_back_bit_for_bit(saved: Path) -> None:
    """Settings, progress, weights, momentum, sampler, losses: a loaded checkpoint is the saved one."""
    loaded = load_checkpoint(saved)
    assert_same(loaded, made())
    assert len(loaded.sha256) == 64
    assert torch.equal(loaded.model()[0].weight, made().weights["0.weight"])
    assert read_model(saved.parent).dataset == "digits"


def test_two_saves_hold_the_same(saved: Path) -> None:
    """The same state has the same sha256, however often it is saved and loaded."""
    first = load_checkpoint(saved)
    save_checkpoint(saved.parent, first)
    assert load_checkpoint(saved).sha256 == load_checkpoint(saved.parent / PREVIOUS).sha256


def test_every_changed_header_byte_is_refused(saved: Path, whole: bytes) -> None:
    """One flipped bit in any byte of the length, names, shapes, settings or hash is found."""
    header = 8 + int.from_bytes(whole[:8], "little")
    assert 1000 < header < len(whole)
    bits = random.Random(0)
    for position in range(header):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bits.randrange(8)
        saved.write_bytes(damaged)
        refused(saved)


def test_every_changed_number_is_refused(saved: Path, whole: bytes) -> None:
    """One flipped bit in weights, momentum, sampler or losses is found, wherever it is."""
    header = 8 + int.from_bytes(whole[:8], "little")
    places = random.Random(1)
    for position in [*places.sample(range(header, len(whole)), 200), header, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << places.randrange(8)
        saved.write_bytes(damaged)
        assert "sha256" in refused(saved).message


def test_a_cut_or_longer_checkpoint_is_refused(saved: Path, whole: bytes) -> None:
    """A file that ends anywhere too early, or goes on, is refused."""
    header = 8 + int.from_bytes(whole[:8], "little")
    for end in [*range(0, header, 53), *range(header, len(whole), 997), len(whole) - 1]:
        saved.write_bytes(whole[:end])
        refused(saved)
    saved.write_bytes(whole + b"\0")
    refused(saved)


def test_the_checkpoint_before_is_kept_and_offered(tmp_path: Path) -> None:
    """The one before stays loadable under its name, and a damaged last one points to it."""
    for seed in (1, 2, 3):
        save_checkpoint(tmp_path, made(seed))
    assert_same(load_checkpoint(tmp_path / LAST), made(3))
    assert_same(load_checkpoint(tmp_path / PREVIOUS), made(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    (tmp_path / LAST).write_bytes(b"")
    assert str(tmp_path / PREVIOUS) in refused(tmp_path / LAST).hint
    (tmp_path / PREVIOUS).unlink()
    assert PREVIOUS not in refused(tmp_path / LAST).hint


def test_another_architecture_is_refused_with_both_shapes(tmp_path: Path) -> None:
    """Weights that do not fit the settings beside them are named with the shape they have and the one expected."""
    checkpoint = made()
    checkpoint.settings = dataclasses.replace(checkpoint.settings, widths=(6, 4))
    message = refused(save_checkpoint(tmp_path, checkpoint)).message
    assert "2.weight is (5, 6), the network has (4, 6)" in message
    checkpoint = made()
    del checkpoint.weights["4.bias"]
    assert "4.bias is missing" in refused(save_checkpoint(tmp_path, checkpoint)).message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    """One NaN or infinite weight is named."""
    checkpoint = made()
    checkpoint.weights["2.weight"][3, 1] = value
    assert "2.weight" in refused(save_checkpoint(tmp_path, checkpoint)).message


def test_other_safetensors_files_are_no_checkpoints(tmp_path: Path, saved: Path) -> None:
    """Somebody else's safetensors file, and ours without its settings, are refused."""
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(3)}, other)
    assert "of another program" in refused(other).message
    save_file(load_file(saved), other, {"mnist_edge": "{}"})
    assert "schema" in refused(other).message
    save_file(load_file(saved), other, {"schema": "mnist-edge/checkpoint/1", "sha256": "0" * 64})
    refused(other)
    other.write_bytes(b"not a safetensors file")
    refused(other)


def test_a_missing_checkpoint_is_the_surroundings_fault(tmp_path: Path) -> None:
    """An empty run folder and a wrong path say what is not there."""
    for path, named in ((tmp_path, tmp_path / LAST), (tmp_path / "x.pth", tmp_path / "x.pth")):
        with pytest.raises(UnavailableError, match=str(named)):
            checkpoint_path(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A run folder with a last and a previous checkpoint."""
    for seed in (1, 2):
        save_checkpoint(tmp_path, made(seed))
    return tmp_path


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_both_files_as_they_were(two: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """On a full disk the last and the previous checkpoint are untouched, with no temporary file beside them."""
    before = contents(two)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UnavailableError, match="No space"):
            save_checkpoint(two, made(3))
    after = contents(two)
    assert sorted(after) == sorted(before)
    assert after[LAST] == before[LAST]
    assert after[PREVIOUS] == before[PREVIOUS]


def test_a_write_limit_leaves_the_last_checkpoint_and_no_other_file(two: Path) -> None:
    """A disk that is full in the middle of the data ends with one line, and the next save works and tidies up."""
    last = (two / LAST).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(last) // 2, limits[1]))
    try:
        with pytest.raises(UnavailableError):
            save_checkpoint(two, made(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (two / LAST).read_bytes() == last
    assert sorted(contents(two)) == [LAST, PREVIOUS]
    save_checkpoint(two, made(4))
    assert_same(load_checkpoint(two / LAST), made(4))
    assert sorted(contents(two)) == [LAST, PREVIOUS]


def killed_at(place: int, run: Path, checkpoint: Checkpoint) -> bool:
    """Save in a child process that dies at the `place`-th system call that matters; False if it got through."""
    child = os.fork()
    if child == 0:
        left = place

        def deadly(call):
            def wrapped(*arguments, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return call(*arguments, **options)

            return wrapped

        for name in ("link", "replace", "fsync", "open"):
            setattr(os, name, deadly(getattr(os, name)))
        save_checkpoint(run, checkpoint)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_any_step_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Dying before any link, sync or rename leaves the old or the new one under the name, and saving goes on after."""
    for place in range(1, 20):
        run = tmp_path / str(place)
        run.mkdir()
        for seed in (1, 2):
            save_checkpoint(run, made(seed))
        died = killed_at(place, run, made(3))
        loaded = load_checkpoint(run / LAST)
        assert loaded.settings.seed in ({2, 3} if died else {3})
        assert_same(loaded, made(loaded.settings.seed))
        assert load_checkpoint(run / PREVIOUS).settings.seed in {1, 2}
        save_checkpoint(run, made(4))
        assert_same(load_checkpoint(run / LAST), made(4))
        assert load_checkpoint(run / PREVIOUS).settings.seed in {2, 3}
        if not died:
            break
    assert place > 4
    assert not died


def test_a_checkpoint_is_not_changed_by_saving(tmp_path: Path) -> None:
    """Saving only reads the run's state."""
    checkpoint = made()
    kept = copy.deepcopy(checkpoint)
    save_checkpoint(tmp_path, checkpoint)
    assert_same(checkpoint, kept)
