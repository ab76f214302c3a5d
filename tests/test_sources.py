"""Where a dataset is found, what is refused, and what happens where there is none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mnist_edge.data import sources
from mnist_edge.data.sources import FILES, find_raw, load_dataset
from mnist_edge.errors import BadFileError, UnavailableError

FOLDERS = ("option", "environment", "cache")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three folders that are looked in, all of them empty, and no way to the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("MNIST_EDGE_DATA", str(tmp_path / "environment"))

    def no_network(*_arguments) -> Path:
        raise UnavailableError("no network")

    monkeypatch.setattr(sources, "download", no_network)
    return {name: tmp_path / name for name in FOLDERS} | {"cache": tmp_path / "caches" / "mnist-edge"}


def lay(folder: Path, *, labels: int = 0) -> Path:
    """Lay four well-formed raw files of black pictures; all labels are `labels`."""
    folder.mkdir(parents=True)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        images = folder / f"{name}-images-idx3-ubyte"
        images.write_bytes(struct.pack(">4I", 0x803, count, 28, 28))
        with images.open("r+b") as file:
            file.truncate(16 + count * 784)  # zeros that take no space
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + bytes([labels]) * count)
    return folder


@pytest.fixture
def mnist_copy(mnist_folder: Path, places: dict[str, Path]) -> Path:
    """A raw folder of links to the real files, to be changed one at a time."""
    raw = places["option"] / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        (raw / file).symlink_to(mnist_folder / "MNIST" / "raw" / file)
    return raw


@pytest.mark.parametrize("name", FOLDERS)
def test_the_first_folder_with_a_file_wins(places: dict[str, Path], name: str) -> None:
    """--data-dir goes before $MNIST_EDGE_DATA, and that before the cache folder."""
    for place in FOLDERS[FOLDERS.index(name) :]:
        raw = places[place] / "KMNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / FILES[3]).touch()
    assert find_raw("kmnist", places["option"]) == places[name] / "KMNIST" / "raw"
    assert find_raw("mnist", places["option"]) is None
    assert find_raw("digits", places["option"]) is None


def test_without_option_and_variable_the_cache_is_looked_in(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as none, and the cache folder is still found."""
    monkeypatch.setenv("MNIST_EDGE_DATA", "")
    raw = places["cache"] / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / FILES[0]).touch()
    assert find_raw("mnist") == raw


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_the_siblings_of_mnist_are_read_from_their_folders(places: dict[str, Path], name: str, folder: str) -> None:
    """Fashion-MNIST and KMNIST in torchvision's layout load with their counts, source and labels."""
    raw = lay(places["environment"] / folder / "raw", labels=7)
    dataset = load_dataset(name)
    assert (dataset.name, dataset.source) == (name, str(raw))
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert set(dataset.train_labels) == set(dataset.test_labels) == {7}
    assert len(dataset.train_labels) == 60_000
    assert len(dataset.test_labels) == 10_000


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named(places: dict[str, Path], missing: str) -> None:
    """Where one of the four files is missing, nothing is downloaded over the others: it is named."""
    raw = lay(places["option"] / "FashionMNIST" / "raw")
    (raw / missing).unlink()
    with pytest.raises(BadFileError, match=missing):
        load_dataset("fashion-mnist", places["option"])
    assert len(list(raw.iterdir())) == 3


def test_a_cut_file_is_refused(places: dict[str, Path]) -> None:
    """torchvision takes any raw file that exists; here a cut one is named."""
    raw = lay(places["option"] / "FashionMNIST" / "raw")
    file = raw / FILES[2]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadFileError, match=FILES[2]):
        load_dataset("fashion-mnist", places["option"])


def test_another_dataset_in_the_folder_of_mnist_is_refused(places: dict[str, Path]) -> None:
    """Well-formed files that are not MNIST's do not pass as MNIST, and `auto` does not look away."""
    lay(places["option"] / "MNIST" / "raw")
    for name in ("mnist", "auto"):
        with pytest.raises(BadFileError, match="sha256"):
            load_dataset(name, places["option"])


def test_real_mnist_loads(mnist_folder: Path) -> None:
    """The real files pass every check; the first labels are those that everybody knows."""
    dataset = load_dataset("mnist", mnist_folder)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(dataset.train_labels).tolist()[:2] == [5923, 6742]
    assert round(dataset.train_images.mean() / 255, 4) == 0.1307


@pytest.mark.parametrize("file", FILES)
def test_mnist_with_one_changed_byte_is_refused(mnist_copy: Path, file: str) -> None:
    """One pixel or label other than LeCun's, in a file of the same structure, is found by its sha256."""
    data = bytearray((mnist_copy / file).read_bytes())
    data[-1] = (data[-1] + 1) % 10
    (mnist_copy / file).unlink()
    (mnist_copy / file).write_bytes(data)
    with pytest.raises(BadFileError, match=rf"{file}.*sha256"):
        load_dataset("mnist", mnist_copy.parent.parent)


def test_auto_takes_the_digits_where_there_is_no_mnist() -> None:
    """Without MNIST and network, `auto` says in one line why and which data it uses instead."""
    said: list[str] = []
    assert load_dataset("auto", say=said.append).name == "digits"
    told = [line for line in said if "--dataset digits" in line]
    assert len(told) == 1
    assert "no network" in told[0]
    assert not any("\n" in line for line in said)


def test_mnist_asked_for_by_name_is_never_replaced() -> None:
    """Without MNIST and network, `mnist` is an error and not the digits."""
    with pytest.raises(UnavailableError, match="no network"):
        load_dataset("mnist")


@pytest.mark.parametrize("given", [True, False])
def test_a_download_goes_into_the_first_folder_and_is_told(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """What is missing is downloaded into --data-dir, else $MNIST_EDGE_DATA, and then read with the same checks."""
    monkeypatch.setattr(sources, "download", lambda name, root, _check: lay(root / name / "raw"))
    root = places["option" if given else "environment"]
    said: list[str] = []
    dataset = load_dataset("kmnist", places["option"] if given else None, said.append)
    assert dataset.source == str(root / "KMNIST" / "raw")
    assert said == [f"downloading KMNIST into {root}"]


def test_the_network_is_not_asked_where_it_may_not_be(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With may_download=False the error lists the folders that were looked in, and nothing is fetched."""
    asked: list[object] = []
    monkeypatch.setattr(sources, "download", lambda *arguments: asked.append(arguments))
    with pytest.raises(UnavailableError) as caught:
        load_dataset("mnist", places["option"], may_download=False)
    assert all(str(places[name]) in caught.value.message for name in FOLDERS)
    assert load_dataset("auto", places["option"], may_download=False).name == "digits"
    assert not asked
