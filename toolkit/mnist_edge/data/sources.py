"""Where a dataset is looked for, in which order, and what it must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import platformdirs

from mnist_edge.contract import DATASET_CHOICES, DatasetName
from mnist_edge.data.digits import load_digits
from mnist_edge.data.download import download
from mnist_edge.data.folder import FILES, load_folder, missing_file
from mnist_edge.data.idx import read_images, read_labels
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import sha256_file
from mnist_edge.records.data import Dataset

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Source:
    """A downloadable dataset: torchvision's class (and folder) name, and the sha256 of each raw file where known."""

    folder: str
    sha256: tuple[str, ...] = ()


SOURCES: dict[DatasetName, Source] = {
    "mnist": Source(
        folder="MNIST",
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    # torchvision checks the md5 of these two archives as they arrive.
    "fashion-mnist": Source(folder="FashionMNIST"),
    "kmnist": Source(folder="KMNIST"),
}


def cache_folder() -> Path:
    """Return the platform's folder for data that can be had again."""
    return Path(platformdirs.user_cache_dir("mnist-edge"))


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    *,
    may_download: bool = True,
) -> Dataset:
    """Load a dataset from `data_dir`, `$MNIST_EDGE_DATA` or the cache folder, else download it; or a user's own folder.

    Args:
        name: a dataset; `auto`, MNIST where it can be had, otherwise the carried digits; or the path of a folder
            (`./mnist` is one, `mnist` is not).
        data_dir: a folder in torchvision's layout (`MNIST/raw/...`), looked in first.
        say: takes one plain line where something happens that the user should know.
        may_download: whether the network may be asked.

    Raises:
        UsageError: neither a dataset nor a folder.
        UnavailableError: it is nowhere and cannot be downloaded.
        BadFileError: it is there, and damaged.
    """
    if name not in DATASET_CHOICES:
        return _load_own(name)
    if name == "auto":
        try:
            return load_dataset("mnist", data_dir, say, may_download=may_download)
        except UnavailableError as error:
            say(f"MNIST is not at hand ({error.message}): using the 1,797 digits of scikit-learn, --dataset digits")
            return load_digits()
    if name == "digits":
        return load_digits()
    known = cast("DatasetName", name)  # of DATASET_CHOICES, what is left
    source = SOURCES[known]
    raw = find_raw(known, data_dir)
    if raw is None and may_download:
        root = data_dir or _environment_folder() or cache_folder()
        say(f"downloading {source.folder} into {root}")
        raw = download(source.folder, root, lambda folder: _read(known, folder))
    if raw is None:
        raise UnavailableError(
            f"{source.folder} is in none of: {', '.join(str(folder) for folder in _folders(data_dir))}",
            hint="name its folder with --data-dir",
        )
    return _read(known, raw)


def _load_own(name: str) -> Dataset:
    """Load a folder, or say why it is none."""
    path = Path(name)
    if path.is_dir():
        return load_folder(path)
    if name == "folder":  # what a checkpoint or bundle says of its data
        raise UnavailableError(
            "it was trained on a folder of digits, and which one is not recorded", hint="name it: --dataset FOLDER"
        )
    if path.exists():
        raise UsageError(f"--dataset {name} is a file, not a folder", hint="name the folder with the four IDX files")
    if path.name != name:
        raise UnavailableError(f"--dataset {name}: there is no such folder", hint="check the path")
    raise UsageError(
        f"--dataset {name} is neither a dataset ({', '.join(DATASET_CHOICES)}) nor a folder",
        hint="name one of them, or a folder with the four IDX files",
    )


def find_raw(name: DatasetName, data_dir: Path | None = None) -> Path | None:
    """Return the first folder that holds raw files of the dataset, or None.

    A folder with some of the four counts as found: what is missing is then told by name, and
    nothing of the user's is overwritten by a download.
    """
    if name not in SOURCES:
        return None
    for folder in _folders(data_dir):
        raw = folder / SOURCES[name].folder / "raw"
        if any((raw / file).exists() for file in FILES):
            return raw
    return None


def _environment_folder() -> Path | None:
    value = os.environ.get("MNIST_EDGE_DATA")
    return Path(value) if value else None


def _folders(data_dir: Path | None) -> list[Path]:
    return [folder for folder in (data_dir, _environment_folder(), cache_folder()) if folder is not None]


def _read(name: DatasetName, raw: Path) -> Dataset:
    """Read and check the four raw files."""
    paths = [raw / file for file in FILES]
    if missing := missing_file(raw):
        raise BadFileError(
            f"{missing} is missing beside the others", hint="add it, or remove the folder to download anew"
        )
    dataset = Dataset(
        name=name,
        source=str(raw),
        train_images=read_images(paths[0], TRAIN_IMAGES),
        train_labels=read_labels(paths[1], TRAIN_IMAGES),
        test_images=read_images(paths[2], TEST_IMAGES),
        test_labels=read_labels(paths[3], TEST_IMAGES),
    )
    for path, expected in zip(paths, SOURCES[name].sha256, strict=False):
        if sha256_file(path) != expected:
            raise BadFileError(
                f"{path} is an IDX file, but not the one of {name}: its sha256 differs",
                hint="replace the file, or delete its folder to have it downloaded again",
            )
    return dataset
