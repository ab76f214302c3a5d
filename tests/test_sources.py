"""Where a dataset is found, what is refused, and what happens where there is none."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mnist_edge.data import sources
from mnist_edge.data.layout import FILES, TEST_FILES, TRAIN_FILES
from mnist_edge.data.sources import find_raw, load_dataset, load_test_set
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


def test_data_from_elsewhere_than_the_folder_named_are_reported(places: dict[str, Path]) -> None:
    """A mistyped --data-dir must not end in figures of other data without a word."""
    raw = lay(places["environment"] / "KMNIST" / "raw")
    told: list[str] = []
    load_test_set("kmnist", places["option"], told.append)
    assert told == [f"{places['option']} holds no KMNIST: taking {raw}"]
    load_test_set("kmnist", places["environment"], told.append)
    load_test_set("kmnist", None, told.append)
    assert len(told) == 1


def test_without_option_and_variable_the_cache_is_looked_in(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as none, and the cache folder is still found."""
    monkeypatch.setenv("MNIST_EDGE_DATA", "")
    raw = places["cache"] / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / FILES[0]).touch()
    assert find_raw("mnist") == raw


LAYOUTS = {
    "torchvision": ("FashionMNIST/raw", "."),
    "class folder named": ("FashionMNIST/raw", "FashionMNIST"),
    "raw folder named": ("FashionMNIST/raw", "FashionMNIST/raw"),
    "without raw": ("FashionMNIST", "."),
    "directly": ("", "."),
}


def compress(path: Path, name: str) -> None:
    path.with_name(name).write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()


def nest(path: Path) -> None:
    inner = path.rename(path.with_name("inner"))
    path.mkdir()
    inner.rename(path / path.name)


SPELLINGS = {
    "plain": lambda path: path,
    "dot": lambda path: path.rename(path.with_name(path.name.replace("-idx", ".idx"))),
    "gz": lambda path: compress(path, path.name + ".gz"),
    "dot and gz": lambda path: compress(path, path.name.replace("-idx", ".idx") + ".gz"),
    "in a folder of its name": nest,
}


def lay_test_set(folder: Path, labels: int = 3) -> Path:
    """Write the two files of a test set of 10,000 black images."""
    lay(folder, labels=labels)
    for file in TRAIN_FILES:
        (folder / file).unlink()
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_are_found_in_every_layout(layout: str, places: dict[str, Path]) -> None:
    """--data-dir may name the data folder, the class folder, the raw folder, or one that holds the files directly."""
    folder, named = LAYOUTS[layout]
    raw = lay_test_set(places["option"] / folder)
    assert find_raw("fashion-mnist", places["option"] / named) == raw
    assert load_test_set("fashion-mnist", places["option"] / named, may_download=False).source == str(raw)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_data_are_found_in_every_spelling(spelling: str, places: dict[str, Path]) -> None:
    """A dot for the dash, compressed files, and files inside folders of their own names."""
    raw = lay_test_set(places["option"] / "KMNIST" / "raw")
    for file in TEST_FILES:
        SPELLINGS[spelling](raw / file)
    found = load_test_set("kmnist", places["option"], may_download=False)
    assert (found.test_images.shape, set(found.test_labels)) == ((10_000, 28, 28), {3})


def test_a_test_set_needs_no_training_files(places: dict[str, Path]) -> None:
    """Evaluating reads the test files only; training names the files that it lacks, and where."""
    raw = lay_test_set(places["option"] / "KMNIST" / "raw")
    assert len(load_test_set("kmnist", places["option"]).test_images) == 10_000
    with pytest.raises(BadFileError, match="train-images-idx3-ubyte") as caught:
        load_dataset("kmnist", places["option"])
    assert str(raw) in caught.value.message
    assert "t10k-images-idx3-ubyte" in caught.value.message  # what the folder holds instead


def test_a_folder_named_for_one_dataset_is_no_other(places: dict[str, Path]) -> None:
    """`--data-dir .../FashionMNIST/raw` is not taken for KMNIST, whose files have the same names and sizes."""
    raw = lay_test_set(places["option"] / "FashionMNIST" / "raw")
    assert find_raw("fashion-mnist", raw) == raw
    assert find_raw("kmnist", raw) is None
    assert find_raw("kmnist", raw.parent) is None


def test_files_of_mnist_are_not_taken_for_its_siblings(mnist_folder: Path, places: dict[str, Path]) -> None:
    """Files that lie directly in the folder are recognised by the sha256 of their labels."""
    places["option"].mkdir()
    for file in TEST_FILES:
        (places["option"] / file).symlink_to(mnist_folder / "MNIST" / "raw" / file)
    assert find_raw("mnist", places["option"]) == places["option"]
    assert find_raw("kmnist", places["option"]) is None


def test_images_of_your_own_under_data_dir_get_the_option_for_them(places: dict[str, Path]) -> None:
    """Files that are not MNIST's name the option for a user's own images, and the advice works."""
    raw = lay_test_set(places["option"])
    with pytest.raises(BadFileError, match="sha256") as caught:
        load_test_set("mnist", raw)
    assert f"--dataset {raw}" in caught.value.hint
    assert load_test_set(str(raw)).name == "folder"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_own_folder_is_found_in_every_spelling(spelling: str, places: dict[str, Path]) -> None:
    """The same names count in a user's own folder, and it loads to the same values and fingerprint."""
    raw = write_own(places["option"])
    plain = load_dataset(str(raw))
    images = plain.train_images[0:7]
    for file in FILES:
        SPELLINGS[spelling](raw / file)
    found = load_dataset(str(raw))
    assert found.fingerprint == plain.fingerprint
    assert np.array_equal(found.train_images[0:7], images)
    assert np.array_equal(load_test_set(str(raw)).test_labels, plain.test_labels)


def write_own(folder: Path) -> Path:
    """Write four IDX files of 7 training and 4 test images."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    for part, count in (("train", 7), ("t10k", 4)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + bytes(range(count)))
    return folder


def test_a_download_that_fails_says_where_was_looked(places: dict[str, Path]) -> None:
    """The error of a missing dataset lists every folder that was searched, and why the download failed."""
    with pytest.raises(UnavailableError, match="no network") as caught:
        load_test_set("mnist", places["option"])
    assert all(str(places[name]) in caught.value.message for name in FOLDERS)


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
    assert load_dataset("auto", notify=said.append).name == "digits"
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
