"""Where each dataset is looked for, in which order, and how its identity is checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import platformdirs

from mnist_edge.contract import DATASET_CHOICES, DatasetName
from mnist_edge.data.digits import load_digits
from mnist_edge.data.download import download
from mnist_edge.data.folder import load_folder, load_test_folder, open_test_folder
from mnist_edge.data.idx import read_images, read_labels, sha256_of_idx
from mnist_edge.data.layout import FILES, TEST_FILES, candidate_folders, describe_missing, find_files
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.pixels import Images
from mnist_edge.records.data import Dataset, EvaluationSet, StoredSet

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
COUNTS = dict(zip(FILES, (TRAIN_IMAGES, TRAIN_IMAGES, TEST_IMAGES, TEST_IMAGES), strict=True))
Notify = Callable[[str], None]


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
    """Return the platform's folder for data that can be downloaded again."""
    return Path(platformdirs.user_cache_dir("mnist-edge"))


def load_dataset(
    name: str, data_dir: Path | None = None, notify: Notify = lambda _line: None, *, may_download: bool = True
) -> Dataset:
    """Load training and test set of a dataset, or of a user's own folder.

    It is looked for in `data_dir`, `$MNIST_EDGE_DATA` and the cache folder, and downloaded if it is in none of them.

    Args:
        name: a dataset; `auto`, MNIST where it is available, otherwise scikit-learn's digits; or the path of a folder
            (`./mnist` is one, `mnist` is not).
        data_dir: a folder with the raw files, in any layout of `candidate_folders`.
        notify: called with one plain line where something happens that the user should know.
        may_download: whether the network may be used.

    Raises:
        UsageError: neither a dataset nor a folder.
        UnavailableError: it was not found and cannot be downloaded.
        BadFileError: it was found, and is damaged or lacks a file.
    """
    found, folder = _locate(name, data_dir, notify, may_download=may_download)
    if folder is None:
        return load_digits()
    return load_folder(folder) if found == "folder" else _read(found, folder)


def load_test_set(
    name: str, data_dir: Path | None = None, notify: Notify = lambda _line: None, *, may_download: bool = True
) -> EvaluationSet:
    """Load the test set alone, which needs no training files; arguments and errors as `load_dataset`.

    That of `digits` is taken from the folder of `test_set_folder` where it is there: a device has no scikit-learn.
    """
    if name == "digits" and data_dir is not None and (own := data_dir / test_set_folder("digits")).is_dir():
        return dataclasses.replace(load_test_folder(own), name="digits")
    found, folder = _locate(name, data_dir, notify, may_download=may_download)
    if folder is None:
        return load_digits()
    return load_test_folder(folder) if found == "folder" else _read_test_set(found, folder)


def open_own_test_set(name: str | None) -> StoredSet | None:
    """Open the test set of a user's folder, whose images stay in their file; None for no name and for a dataset's.

    Raises:
        UsageError, UnavailableError: there is no such folder.
        BadFileError: a file of it is missing or damaged.
    """
    return None if name is None or name in DATASET_CHOICES else open_test_folder(_own_folder(name))


def test_set_folder(name: DatasetName) -> Path:
    """Return where in a data folder the test set of a dataset is found."""
    return Path(SOURCES[name].folder if name in SOURCES else name, "raw")


def find_raw(name: DatasetName, data_dir: Path | None = None) -> Path | None:
    """Return the first folder that holds raw files of the dataset, or None.

    A folder with some of the four files counts: what is missing is then reported by name, and a download never
    overwrites the user's files.
    """
    if name not in SOURCES:
        return None
    for root in _roots(data_dir):
        for folder in candidate_folders(root, SOURCES[name].folder):
            if find_files(folder) and not _is_of_another(name, folder):
                return folder
    return None


def _locate(name: str, data_dir: Path | None, notify: Notify, *, may_download: bool) -> tuple[DatasetName, Path | None]:
    """Return which dataset a name means, and the folder of its files; None for the digits of scikit-learn."""
    if name not in DATASET_CHOICES:
        return "folder", _own_folder(name)
    if name == "digits":
        return "digits", None
    if name == "auto":
        try:
            return _locate("mnist", data_dir, notify, may_download=may_download)
        except UnavailableError as error:
            notify(f"using the 1,797 digits of scikit-learn (--dataset digits): {error.message}")
            return "digits", None
    known = cast("DatasetName", name)  # the other members of DATASET_CHOICES are handled above
    class_name = SOURCES[known].folder
    if raw := find_raw(known, data_dir):
        if data_dir is not None and not raw.is_relative_to(data_dir):
            notify(f"{data_dir} holds no {class_name}: taking {raw}")
        return known, raw
    roots = _roots(data_dir)
    places = ", ".join(map(str, candidate_folders(Path(), class_name)[:-1]))
    missing = f"{class_name} is not in {' or '.join(map(str, roots))} (nor in {places} below)"
    if not may_download:
        other = "another folder" if data_dir else "its folder"
        raise UnavailableError(missing, hint=f"name {other} with --data-dir")
    notify(f"downloading {class_name} into {roots[0]}")
    try:
        return known, download(class_name, roots[0], lambda folder: _read(known, folder))
    except UnavailableError as error:
        raise UnavailableError(f"{missing}; {error.message}", hint=error.hint) from error


def _own_folder(name: str) -> Path:
    """Return the path of a user's folder, or raise the reason why it is none."""
    path = Path(name)
    if path.is_dir():
        return path
    if name == "folder":  # the name that a checkpoint or bundle records for it
        raise UnavailableError(
            "it was trained on a folder of images whose path is not recorded", hint="name the folder: --dataset FOLDER"
        )
    if path.exists():
        raise UsageError(f"--dataset {name} is a file, not a folder", hint="name the folder with the IDX files")
    if path.name != name:
        raise UnavailableError(f"--dataset {name}: there is no such folder", hint="check the path")
    raise UsageError(
        f"--dataset {name} is neither a dataset ({', '.join(DATASET_CHOICES)}) nor a folder",
        hint="name one of them, or a folder with the IDX files",
    )


def _roots(data_dir: Path | None) -> list[Path]:
    """Return the data folders that are searched, in order; the first one is where a download goes."""
    environment = os.environ.get("MNIST_EDGE_DATA")
    return [root for root in (data_dir, Path(environment) if environment else None, cache_folder()) if root is not None]


def _is_of_another(name: DatasetName, folder: Path) -> bool:
    """Whether files in a folder not named after the dataset belong to another one, by folder name or labels."""
    own = SOURCES[name].folder
    others = {other.folder: other for key, other in SOURCES.items() if key != name}
    if own in (folder.name, folder.parent.name):
        return False
    if folder.name in others or folder.parent.name in others:
        return True
    files = find_files(folder)
    for file, index in ((FILES[3], 3), (FILES[1], 1)):
        if file in files:
            try:
                found = sha256_of_idx(read_labels(files[file]))
            except (BadFileError, UnavailableError):
                continue
            return any(found in other.sha256[index : index + 1] for other in others.values())
    return False


def _read(name: DatasetName, raw: Path) -> Dataset:
    """Read and check the four raw files."""
    images, labels, test_images, test_labels = _read_files(name, raw, FILES)
    return Dataset(
        name=name,
        source=str(raw),
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _read_test_set(name: DatasetName, raw: Path) -> EvaluationSet:
    """Read and check the two raw files of the test set."""
    images, labels = _read_files(name, raw, TEST_FILES)
    return EvaluationSet(name=name, source=str(raw), test_images=images, test_labels=labels)


def _read_files(name: DatasetName, raw: Path, files: tuple[str, ...]) -> list[Images]:
    """Read raw files of a dataset, uint8; counts, and the sha256 where it is known, must be those of the dataset."""
    source, found = SOURCES[name], find_files(raw)
    standard = raw.parts[-2:] == (source.folder, "raw")
    again = f"replace it, or delete {raw} to have {source.folder} downloaded again"
    own = f"if these are images of your own: --dataset {raw}"
    if missing := [file for file in files if file not in found]:
        raise BadFileError(
            describe_missing(raw, missing),
            hint=f"add it, or delete {raw} to have {source.folder} downloaded" if standard else own,
        )
    arrays = []
    for file in files:
        try:
            read = read_images if "images" in file else read_labels
            values = read(found[file], COUNTS[file])
        except BadFileError as error:
            raise BadFileError(error.message, hint=error.hint or (again if standard else own)) from error
        expected = source.sha256[FILES.index(file)] if source.sha256 else None
        if expected not in (None, sha256_of_idx(values)):
            raise BadFileError(
                f"{found[file]} is an IDX file, but not the one of {name}: its sha256 differs",
                hint=f"{again}; {own}" if standard else own,
            )
        arrays.append(values)
    return arrays
