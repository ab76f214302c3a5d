"""A folder of a user's own digits: checked, streamed in random order, resumed to the bit, and never told by its path."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import ROOT, mnist_edge
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import in_process, one_line
from test_resume import assert_same_end, trained

from mnist_edge.data.layout import FILES
from mnist_edge.data.sources import load_dataset
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError
from mnist_edge.pixels import ImageFile
from mnist_edge.ranks import Rank
from mnist_edge.records.data import Dataset
from mnist_edge.training import stream
from mnist_edge.training.checkpoint import LAST, load_checkpoint
from mnist_edge.training.loop import Hooks, continued_run, feed_for, held_out, new_run, train
from mnist_edge.training.model import accuracy
from mnist_edge.training.recipes import Recipe, find_recipe, settings_for

CPU = torch.device("cpu")
SMALL = ("--widths", "16", "--epochs", "4", "--batch-size", "64")


def write(folder: Path, *arrays: np.ndarray) -> Path:
    """Write training images and labels, and test images and labels, as LeCun describes IDX."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(FILES, arrays, strict=True):
        header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        (folder / file).write_bytes(header + array.tobytes())
    return folder


def numbered(folder: Path, count: int) -> Dataset:
    """A folder whose training images carry their number in their first two pixels, labelled with its last digit."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    labels = (np.arange(count) % 10).astype(np.uint8)
    return load_dataset(str(write(folder, images, labels, images[:1], labels[:1])))


def numbers_of(pixels: torch.Tensor) -> list[int]:
    """The numbers of unshifted images, from their normalised pixels (n, 784)."""
    raw = ((pixels[:, :2] + 1) * 127.5).round().long()
    return (raw[:, 0] * 256 + raw[:, 1]).tolist()


def sizes(chunk: int, window: int) -> patch:
    """Chunks and windows small enough for a test; a small file keeps chunks of this size too."""
    return patch.multiple(stream, CHUNK=chunk, WINDOW=window, LEAST_CHUNKS=1)


def plain(**changes: float) -> Recipe:
    """No shift, no smoothing: pixels and targets tell which image they are."""
    return dataclasses.replace(find_recipe("seed"), **changes)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for examples that write over one another."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """The digits as a user's own folder. Do not change it."""
    arrays = (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    return write(tmp_path_factory.mktemp("own"), *arrays)


@pytest.fixture
def copy(own: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(own, tmp_path / "copy")


# The epoch


@given(
    count=st.integers(1, 400), chunk=st.integers(1, 90), window=st.integers(1, 300), batch=st.integers(1, 70),
    holdout=st.floats(0, 0.9), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_image_comes_once_an_epoch(
    scratch: Path, count: int, chunk: int, window: int, batch: int, holdout: float, seed: int
) -> None:
    """Whatever the sizes: each image once with its own label, or held out; full batches, and at most the last is short."""
    dataset = numbered(scratch, count)
    with sizes(chunk, window):
        recipe = plain(batch_size=batch, holdout=holdout)
        feed, (held, held_labels) = feed_for(dataset, recipe, CPU, Rank()), held_out(dataset, recipe)
        batches = list(feed.epoch(torch.Generator().manual_seed(seed), 0))
    pixels, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    came = numbers_of(pixels)
    kept = [int(image[0, 0]) * 256 + int(image[0, 1]) for image in held[:]]
    assert sorted(came + kept) == list(range(count))
    assert targets.argmax(dim=1).tolist() == [number % 10 for number in came]
    assert held_labels.tolist() == [number % 10 for number in kept]
    lengths = [len(part) for part, _ in batches]
    assert lengths == [batch] * (len(came) // batch) + ([len(came) % batch] if len(came) % batch else [])


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_rows_of_a_file_are_those_of_an_array(scratch: Path, data: st.DataObject) -> None:
    """Pieces of a file in any order, sliced anywhere, read as the same pieces of the array put together."""
    count = 60
    file = numbered(scratch, count).train_images
    array = file[:]
    assert isinstance(file, ImageFile)
    pairs = st.tuples(st.integers(0, count), st.integers(0, count)).map(sorted)
    runs = np.array(data.draw(st.lists(pairs, max_size=6)), np.int64).reshape(-1, 2)
    expected = np.concatenate([array[first:end] for first, end in runs] or [array[:0]])
    start, stop = data.draw(st.integers(-70, 70)), data.draw(st.integers(-70, 400))
    taken = file.take(runs)
    assert len(taken) == len(expected)
    assert np.array_equal(taken[start:stop], expected[start:stop])


@pytest.mark.parametrize("recipe", ["seed", "fast", "best"])
def test_an_epoch_is_one_of_its_seed_and_goes_on_from_any_step(own: Path, recipe: str) -> None:
    """The same seed gives the same batches to the bit, also from the middle; another seed or epoch gives others."""
    dataset = load_dataset(str(own))
    with sizes(chunk=8, window=300):
        feed = feed_for(dataset, dataclasses.replace(find_recipe(recipe), batch_size=100), CPU, Rank())
        sampler = torch.Generator().manual_seed(3)
        whole = list(feed.epoch(sampler, 0))
        for step in range(len(whole)):
            again = torch.Generator().manual_seed(3)
            rest = list(feed.epoch(again, step))
            assert len(rest) == len(whole) - step
            for (pixels, targets), (expected, truth) in zip(rest, whole[step:], strict=True):
                assert torch.equal(pixels, expected)
                assert torch.equal(targets, truth)
            assert torch.equal(again.get_state(), sampler.get_state())
        others = [list(feed.epoch(other, 0)) for other in (sampler, torch.Generator().manual_seed(4))]
    assert not any(torch.equal(other[0][0], whole[0][0]) for other in others)


def test_a_small_file_is_shuffled_evenly(scratch: Path) -> None:
    """In a file that fits into a window each image is as likely on every place of the epoch."""
    dataset = numbered(scratch, 40)
    feed = feed_for(dataset, plain(batch_size=40), CPU, Rank())
    sampler = torch.Generator().manual_seed(0)
    counts = np.zeros((40, 40))
    for _ in range(400):
        counts[np.arange(40), numbers_of(next(feed.epoch(sampler, 0))[0])] += 1
    chi2 = ((counts - 10) ** 2 / 10).sum()  # 39 * 39 degrees of freedom: mean 1521, standard deviation 55
    assert 1300 < chi2 < 1740


def test_what_is_held_out_of_a_small_sorted_file_is_of_every_class(tmp_path: Path) -> None:
    """A fifth of 1,000 images, class after class, is a fair sample of single images and no few pieces of the file."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), 100)
    images = np.zeros((1000, 28, 28), np.uint8)
    dataset = load_dataset(str(write(tmp_path, images, labels, images[:1], labels[:1])))
    held, held_labels = held_out(dataset, plain(holdout=0.2))
    assert len(held) == len(held_labels) == 200
    assert np.bincount(held_labels, minlength=10).min() >= 10


def test_a_file_sorted_by_label_gives_mixed_batches(tmp_path: Path) -> None:
    """140,000 images, class after class, as the trap goes: the classes of a batch are spread as by chance, nearly."""
    count = 140_000
    labels = np.sort(np.arange(count) % 10).astype(np.uint8)
    write(tmp_path, np.zeros((0, 28, 28), np.uint8), labels, np.zeros((1, 28, 28), np.uint8), labels[:1])
    (tmp_path / FILES[0]).write_bytes(struct.pack(">4I", 0x803, count, 28, 28))
    os.truncate(tmp_path / FILES[0], 16 + 784 * count)  # zeros that take no space
    feed = feed_for(load_dataset(str(tmp_path)), plain(batch_size=128), CPU, Rank())
    assert count > 2 * stream.WINDOW
    found = torch.stack([targets.sum(dim=0) for _, targets in feed.epoch(torch.Generator().manual_seed(1), 0)])
    chi2 = ((found[:-1] - 12.8) ** 2 / 12.8).sum(dim=1)  # by chance 9 on average
    assert 8.5 < float(chi2.mean()) < 11.5
    assert float(found[:-1].max()) < 40


def test_training_on_a_file_sorted_by_label_is_as_good_as_from_memory(tmp_path: Path, digits: Dataset) -> None:
    """With windows of under a fifth of the file, sorted by class, the test accuracy is that of images in memory."""
    order = np.argsort(digits.train_labels, kind="stable")
    arrays = (digits.train_images[order], digits.train_labels[order], digits.test_images, digits.test_labels)
    found = []
    for dataset in (digits, load_dataset(str(write(tmp_path, *arrays)))):
        chosen = settings_for("fast", dataset=dataset.name, train_images=1437, widths=(48, 32), epochs=30)
        run = new_run(chosen)
        with sizes(chunk=4, window=256):
            assert train(run, dataset, CPU, Hooks(save=lambda _: None))
        found.append(accuracy(run.model, digits.test_images, digits.test_labels))
    memory, streamed = found
    assert memory > 0.88
    assert streamed > memory - 0.03


# Resuming


@pytest.mark.parametrize("stops", [{2}, {6, 7}, {14, 20}, {15, 30, 31}], ids=lambda stops: str(sorted(stops)))
@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_a_stopped_run_on_a_folder_goes_on_bit_for_bit(tmp_path: Path, own: Path, recipe: str, stops: set[int]) -> None:
    """Stopped within a window, at its end or between epochs, a run ends with the weights of an undisturbed one."""
    dataset = load_dataset(str(own))
    chosen = settings_for(
        recipe, dataset="folder", train_images=1437, fingerprint=dataset.fingerprint, widths=(12,), epochs=3, batch_size=96
    )  # fmt: skip
    with sizes(chunk=16, window=288):  # 3 steps a window, 15 an epoch
        assert trained(new_run(chosen), dataset, tmp_path / "whole")
        run = new_run(chosen)
        while not trained(run, dataset, tmp_path / "parts", frozenset(stops)):
            run = continued_run(load_checkpoint(tmp_path / "parts" / LAST))
    assert_same_end(load_checkpoint(tmp_path / "parts" / LAST), load_checkpoint(tmp_path / "whole" / LAST))


CHANGES = {
    "first image": (0, 16), "last image": (0, -1), "a label": (1, 500), "test image": (2, 999), "test label": (3, 20),
}  # fmt: skip


def test_a_run_goes_on_only_with_the_images_it_began_with(own: Path, copy: Path, tmp_path: Path) -> None:
    """The same content in another place is the same; one label, image or test image other is refused by name."""
    begun = in_process("train", "--dataset", own, *SMALL, "--run", "run", cwd=tmp_path)
    assert begun.code == 0, begun.err
    more = ("train", "--resume", "run", "--epochs", "5")
    nameless = in_process(*more, cwd=tmp_path)
    assert nameless.code == 4
    assert "--dataset FOLDER" in one_line(nameless.err)
    before = (tmp_path / "run" / LAST).read_bytes()
    for file, position in CHANGES.values():
        path = copy / FILES[file]
        whole = path.read_bytes()
        spoilt = bytearray(whole)
        spoilt[position] = (spoilt[position] + 1) % 10
        path.write_bytes(spoilt)
        refused = in_process(*more, "--dataset", copy, cwd=tmp_path)
        assert refused.code == 2, FILES[file]
        assert str(copy) in one_line(refused.err)
        path.write_bytes(whole)
    assert (tmp_path / "run" / LAST).read_bytes() == before
    resumed = in_process(*more, "--dataset", copy, cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert load_checkpoint(tmp_path / "run" / LAST).progress.epoch == 5


# Bad files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_less(path: Path) -> None:
    """A whole IDX file with one item less: it is sound by itself."""
    data = path.read_bytes()
    count, item = struct.unpack(">I", data[4:8])[0] - 1, 784 if "images" in path.name else 1
    path.write_bytes(data[:4] + struct.pack(">I", count) + data[8:-item])


def turn_sides(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack(">2I", 14, 56) + data[16:])


def label_ten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([10]))


BAD: list[tuple[Callable[[Path], object], tuple[str, ...]]] = [
    (Path.unlink, FILES),
    (cut, FILES),
    (lengthen, FILES),
    (empty, FILES),
    (one_less, FILES[1::2]),
    (turn_sides, FILES[::2]),
    (label_ten, FILES[1::2]),
]


@pytest.mark.parametrize(("spoil", "file"), [(spoil, file) for spoil, files in BAD for file in files])
def test_a_bad_file_is_named(copy: Path, spoil: Callable[[Path], object], file: str) -> None:
    """Missing, cut, too long, empty, of another count or shape, with a label above 9: 3, and which file it is."""
    spoil(copy / file)
    with pytest.raises(BadFileError) as caught:
        load_dataset(str(copy))
    assert str(copy / file) in caught.value.message
    assert "download" not in caught.value.hint


@pytest.mark.parametrize("harm", ["shrinks", "vanishes"])
def test_a_file_that_changes_under_training_ends_it_with_its_name(copy: Path, harm: str) -> None:
    """Cut or removed while it is read, it is an error of one line, and no crash of the process."""
    path = copy / FILES[0]
    dataset = load_dataset(str(copy))

    def harmed(done: int, _all: int) -> None:
        if done == 4:
            os.truncate(path, 16 + 784 * 3) if harm == "shrinks" else path.unlink()

    chosen = settings_for("fast", dataset="folder", train_images=1437, widths=(4,), epochs=1, batch_size=64)
    with sizes(chunk=16, window=256), pytest.raises(MnistEdgeError) as caught:
        train(new_run(chosen), dataset, CPU, Hooks(save=lambda _: None, on_step=harmed))
    assert isinstance(caught.value, BadFileError if harm == "shrinks" else UnavailableError)
    assert str(path) in caught.value.message


# The command line


@pytest.mark.parametrize(
    ("named", "code", "said"),
    [
        ("nowhere", 2, "mnist, fashion-mnist, kmnist, digits, auto"),
        ("folder", 4, "--dataset FOLDER"),
        ("./nowhere", 4, "nowhere"),
        ("./a file", 2, "not a folder"),
        ("./empty", 3, FILES[0]),
    ],
)
def test_what_is_no_dataset_is_told_in_one_line(tmp_path: Path, named: str, code: int, said: str) -> None:
    """A wrong name lists the right ones, a wrong path is named, and nothing is trained or downloaded."""
    (tmp_path / "a file").write_text("")
    (tmp_path / "empty").mkdir()
    done = in_process("train", "--dataset", named, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in one_line(done.err)
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_the_name_of_a_dataset_is_told_by_its_path(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`digits` is the dataset, `./digits` the folder."""
    monkeypatch.chdir(tmp_path)
    Path("digits").symlink_to(own)
    assert load_dataset("digits").name == "digits"
    assert load_dataset("./digits").name == "folder"
    assert load_dataset("digits/").name == "folder"


def test_a_shell_completes_names_and_folders(tmp_path: Path) -> None:
    """Tab after --dataset offers what it takes, and no file."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "my notes.txt").write_text("")
    words = {"COMP_WORDS": "mnist_edge train --dataset m", "COMP_CWORD": "3"}
    done = mnist_edge(cwd=tmp_path, **words, **{"_PYTHON _M MNIST_EDGE_COMPLETE": "complete_bash"})
    assert done.out.split() == ["mnist", "mine/"]


@pytest.fixture(scope="module")
def journey(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with runs/folder and exported/folder, made from the user's folder by the commands."""
    place = tmp_path_factory.mktemp("journey")
    for arguments in (("train", *SMALL), ("export", "--run", "runs/folder")):
        done = in_process(*arguments, "--dataset", own, cwd=place)
        assert done.code == 0, done.err
    return place


@pytest.mark.slow
def test_a_folder_goes_the_whole_way(journey: Path, own: Path) -> None:
    """Trained, exported, verified on every test image of the folder, and judged alike from the run and the bundle."""
    verified = in_process("verify", "exported/folder", "--dataset", own, "--json", cwd=journey)
    assert verified.code == 0, verified.err
    assert (verified.json["test_set"], verified.json["own_test_set"]) == (True, True)
    assert verified.json["variants"][0]["images"] == 360
    judged = [
        in_process("eval", model, "--dataset", own, "--json", cwd=journey)
        for model in ("runs/folder", "exported/folder")
    ]
    assert [done.code for done in judged] == [0, 0]
    run, bundle = (done.json for done in judged)
    assert (run["dataset"], run["images"]) == ("folder", 360)
    assert run["accuracy"] == bundle["accuracy"] > 0.2


def test_a_bundle_of_a_folder_without_it(journey: Path, own: Path, tmp_path: Path) -> None:
    """Without the folder only the golden inputs are compared; on another folder it is compared with itself. Both are said."""
    alone = in_process("verify", "exported/folder", "--json", cwd=journey)
    assert (alone.code, alone.json["test_set"]) == (0, False)
    assert "golden" in alone.err
    digits = load_dataset(str(own))
    other = write(tmp_path / "other", digits.train_images[:], digits.train_labels, digits.test_images[1:], digits.test_labels[1:])  # fmt: skip
    foreign = in_process("verify", "exported/folder", "--dataset", other, "--json", cwd=journey)
    assert (foreign.code, foreign.json["test_set"], foreign.json["own_test_set"]) == (0, True, False), foreign.err
    assert (foreign.json["variants"][0]["images"], foreign.json["variants"][0]["max_abs_error"] < 1e-4) == (359, True)
    assert str(other) in one_line(foreign.err)
    assert "on the given set, the variant fp32" in foreign.json["reference"]
    judged = in_process("eval", "exported/folder", cwd=journey)
    assert judged.code == 4
    assert "--dataset FOLDER" in one_line(judged.err)


def test_a_bundle_does_not_tell_where_its_folder_lay(journey: Path, own: Path, copy: Path, tmp_path: Path) -> None:
    """Exports of one run with equal folders in two places are equal to the byte and hold neither path nor name."""
    done = in_process("export", "--run", journey / "runs" / "folder", "--dataset", copy, cwd=tmp_path)
    assert done.code == 0, done.err
    for one in (journey / "exported" / "folder").iterdir():
        content = one.read_bytes()
        assert content == (tmp_path / "exported" / "folder" / one.name).read_bytes()
        assert not any(trace in content for trace in (str(own).encode(), own.name.encode(), str(ROOT).encode()))
