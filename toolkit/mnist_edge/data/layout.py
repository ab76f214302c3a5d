"""Folders and names under which the IDX files of a dataset are looked for, by every command."""

from __future__ import annotations

from pathlib import Path

TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FILES = (*TRAIN_FILES, *TEST_FILES)
"""Training images and labels, test images and labels, as LeCun named them."""


def spellings(file: str) -> tuple[str, ...]:
    """Return the usual names of one of `FILES`, the preferred one first.

    Besides LeCun's name: with a dot (`train-images.idx3-ubyte`), compressed, and inside a folder of the same
    name, as some archives unpack.
    """
    plain = (file, file.replace("-idx", ".idx"))
    return (*plain, *(f"{name}.gz" for name in plain), *(f"{name}/{name}" for name in plain))


def find_file(folder: Path, file: str) -> Path | None:
    """Return the first spelling of one of `FILES` that a folder holds, or None."""
    candidates = (folder / spelling for spelling in spellings(file))
    return next((path for path in candidates if path.exists() and not path.is_dir()), None)


def find_files(folder: Path) -> dict[str, Path]:
    """Return those of `FILES` that a folder holds, by their name in `FILES`."""
    return {file: path for file in FILES if (path := find_file(folder, file)) is not None}


def candidate_folders(root: Path, class_name: str) -> tuple[Path, ...]:
    """Return the folders below a data folder in which the files are looked for, in this order.

    torchvision's layout (`ROOT/MNIST/raw`) comes first; the others are what remains of it when the root is named one or
    two levels too deep, or when somebody unpacked the files without it.

    Args:
        root: the data folder.
        class_name: torchvision's name of the dataset.
    """
    return (root / class_name / "raw", root / class_name, root / "raw", root)


def describe_missing(folder: Path, missing: list[str]) -> str:
    """State which files a folder lacks and what it holds instead, in one line."""
    names = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    more = f" (and {', '.join(missing[1:])})" if len(missing) > 1 else ""
    return f"{folder / missing[0]}{more} is missing, also with .gz or with a dot; the folder holds {shown or 'nothing'}"
