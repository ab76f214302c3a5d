"""Checkpoints: what was saved comes back, what was damaged is named, and the old one survives every failure."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import os
import pickle
import random
import resource
import zipfile
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
    load_state_dict,
    read_model,
    save_checkpoint,
)
from mnist_edge.training.model import build_model
from mnist_edge.training.recipes import settings_for

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
    assert read_model(saved.parent)[1] == "digits"


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
    """One NaN or infinite weight is named, in a checkpoint and in a .pth."""
    checkpoint = made()
    checkpoint.weights["2.weight"][3, 1] = value
    assert "2.weight" in refused(save_checkpoint(tmp_path, checkpoint)).message
    torch.save(checkpoint.weights, tmp_path / "net.pth")
    assert "2.weight holds NaN" in refused(tmp_path / "net.pth").message


def test_other_safetensors_files_are_no_checkpoints(tmp_path: Path, saved: Path) -> None:
    """Somebody else's safetensors file, and ours without its settings, are refused."""
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(3)}, other)
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


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bare_state_dict_loads(tmp_path: Path, legacy: bool) -> None:
    """A .pth as the seed saved it, in today's form and in that of 2020, gives its network."""
    torch.manual_seed(5)
    model = build_model((9,))
    torch.save(model.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    loaded, dataset = read_model(tmp_path / "net.pth")
    assert dataset is None
    assert [layer.out_features for layer in loaded[::2]] == [9, 10]
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("0.weight", torch.zeros(9, 700), "0.weight is (9, 700), the network has (9, 784)"),
        ("2.weight", torch.zeros(11, 9), "2.weight is (11, 9), the network has (10, 9)"),
        ("0.bias", torch.zeros(8), "0.bias is (8,), the network has (9,)"),
        ("0.bias", torch.zeros(9, dtype=torch.float64), "0.bias is torch.float64"),
        ("0.weight", torch.tensor(1.0), "0.weight"),
        ("extra", torch.zeros(1), "extra"),
        ("7.weight", torch.zeros(1), ".weight"),
        (3, torch.zeros(1), "3"),
    ],
    ids=str,
)
def test_a_state_dict_of_another_network_is_refused(
    tmp_path: Path, key: object, value: torch.Tensor, told: str
) -> None:
    """The key that does not fit is named, with the shape it has and the one it should have."""
    state = {**build_model((9,)).state_dict(), key: value}
    torch.save(state, tmp_path / "net.pth")
    assert told in refused(tmp_path / "net.pth").message


@pytest.mark.parametrize("content", [{}, [1, 2], {"0.weight": "text"}, torch.zeros(3)], ids=str)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    """A .pth that holds something else than named tensors is refused."""
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth")


class Payload:
    """A pickle of it makes a file when it is read without care."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "as safetensors"])
def test_a_payload_never_runs(tmp_path: Path, form: str) -> None:
    """A pickle that would run code is refused without running it, and nobody is told to switch safety off."""
    touched = tmp_path / "touched"
    content = {"0.weight": torch.zeros(10, 784), "payload": Payload(touched)}
    file = tmp_path / ("net.safetensors" if form == "as safetensors" else "net.pth")
    if form in ("zip", "legacy"):
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
        torch.load(file, weights_only=False)
    else:
        file.write_bytes(pickle.dumps(Payload(touched), protocol=2))
        pickle.loads(file.read_bytes())
    assert touched.exists()  # the payload works where it is let
    touched.unlink()
    error = refused(file)
    assert not touched.exists()
    assert "weights_only" not in error.message + error.hint
    assert "\n" not in error.message


def damaged_versions(whole: bytes) -> list[bytes]:
    """The file cut in many places, and with single bits flipped in its structure."""
    places = random.Random(2)
    versions = [whole[:end] for end in range(0, len(whole), len(whole) // 40)]
    for _ in range(600):
        changed = bytearray(whole)
        changed[places.randrange(1500)] ^= 1 << places.randrange(8)
        versions.append(bytes(changed))
    return versions


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_damaged_state_dict_is_refused_or_whole(tmp_path: Path) -> None:
    """Whatever is wrong inside a .pth, the answer is a network or one error that names the file."""
    buffer = io.BytesIO()
    torch.save(build_model((4,)).state_dict(), buffer)
    file, unexpected = tmp_path / "net.pth", []
    for version in damaged_versions(buffer.getvalue()):
        file.write_bytes(version)
        try:
            load_state_dict(file)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged below
            if not (isinstance(error, BadFileError) and str(file) in error.message):
                unexpected.append(repr(error))
    assert not unexpected


def test_a_flipped_weight_of_a_state_dict_is_refused(tmp_path: Path) -> None:
    """torch.load does not look at the check sums in a .pth; a changed weight is still no weight to work with."""
    buffer = io.BytesIO()
    torch.save(build_model((4,)).state_dict(), buffer)
    whole = buffer.getvalue()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        weight = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    damaged = bytearray(whole)
    damaged[weight.header_offset + 1000] ^= 1
    (tmp_path / "net.pth").write_bytes(damaged)
    refused(tmp_path / "net.pth")


def test_a_checkpoint_is_not_changed_by_saving(tmp_path: Path) -> None:
    """Saving only reads the run's state."""
    checkpoint = made()
    kept = copy.deepcopy(checkpoint)
    save_checkpoint(tmp_path, checkpoint)
    assert_same(checkpoint, kept)
