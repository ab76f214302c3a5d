"""Memory and time of `mnist-edge train --epochs 1` on folders of 60,000, 500,000 and 2,000,000 images.

The folders repeat MNIST's training images, moved by up to two pixels; the largest has 1.6 GB. Each training is a
child process, recipe fast at batch 128. Memory is what the kernel counted for it (wait4); seconds are of the epoch
alone, as the report tells them. The larger files may still be in the disk cache from their writing.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import MNIST_EDGE, Rounds, mnist_folder, pairs, report, row, run_child, take_turns, target
from mnist_edge.data.idx import read_images, read_labels
from mnist_edge.data.layout import FILES, TRAIN_FILES

SIZES = (60_000, 500_000, 2_000_000)
BATCH = 128
MOVES = tuple((down, right) for down in range(-2, 3) for right in range(-2, 3))
MB = 1e6


def write_folder(folder: Path, count: int) -> Path:
    """Write a folder of `count` training images and MNIST's own test set."""
    raw = mnist_folder() / "MNIST" / "raw"
    folder.mkdir()
    for file in FILES[2:]:
        shutil.copyfile(raw / file, folder / file)
    write_images(folder, count, TRAIN_FILES)
    return folder


def write_images(folder: Path, count: int, files: tuple[str, ...]) -> None:
    """Write `count` images and their labels, MNIST's training images; every repetition is moved otherwise."""
    raw = mnist_folder() / "MNIST" / "raw"
    images, labels = read_images(raw / FILES[0]), read_labels(raw / FILES[1])
    with (folder / files[0]).open("wb") as pictures, (folder / files[1]).open("wb") as truth:
        pictures.write(struct.pack(">4I", 0x803, count, *images.shape[1:]))
        truth.write(struct.pack(">2I", 0x801, count))
        for repetition, first in enumerate(range(0, count, len(images))):
            rows = min(len(images), count - first)
            moved = np.roll(images[:rows], MOVES[repetition % len(MOVES)], axis=(1, 2))
            pictures.write(moved.data)
            truth.write(labels[:rows].data)


def train(folder: Path, peaks: list[float]) -> float:
    """Train one epoch on a folder; keep the peak memory in MB, return the seconds of the epoch."""
    options = ["--recipe", "fast", "--epochs", "1", "--batch-size", str(BATCH), "--run", "run", "--json"]
    with tempfile.TemporaryDirectory() as scratch:
        child = run_child([MNIST_EDGE, "train", "--dataset", str(folder), *options], Path(scratch))
    peaks.append(child.peak_rss_bytes / MB)
    return float(json.loads(child.output)["seconds"])


def main(rounds: int = 3, sizes: Sequence[int] = SIZES) -> None:
    """Measure and report."""
    names = [f"{size:,} images" for size in sizes]
    peaks: Rounds = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [write_folder(Path(scratch) / str(size), size) for size in sizes]
        contenders = {name: partial(train, folder, peaks[name]) for name, folder in zip(names, folders, strict=True)}
        seconds = take_turns(contenders, rounds)
    each = {name: [1e6 * value / size for value in seconds[name]] for name, size in zip(names, sizes, strict=True)}
    least, most = names[0], names[-1]
    report(
        "data_scale",
        measured=str(__doc__),
        rows=[
            *(row(f"{name}: an epoch", "s", seconds[name]) for name in names),
            *(row(f"{name}: an image of the epoch", "us", each[name]) for name in names),
            *(row(f"{name}: peak memory", "MB", peaks[name]) for name in names),
        ],
        targets=[
            target(f"peak memory, {most} / {least}", pairs(peaks[most], peaks[least]), at_most=1.1),
            target(f"time an image, {most} / {least}", pairs(each[most], each[least]), at_most=1.1),
        ],
    )


if __name__ == "__main__":
    main()
