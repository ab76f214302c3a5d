"""Peak memory of `verify --dataset FOLDER` and `predict --dataset FOLDER` on 60,000 and on 2,000,000 images.

The folders repeat MNIST's training images, moved by up to two pixels; the largest has 1.6 GB. Memory is what the kernel
counted for the whole child process (wait4). One variant is verified, on a bundle trained for one epoch; the set is not the
bundle's own, so two sessions run. Of 60,000 images the predictions are certified as well, which larger sets than 100,000
are not: there `verify` needs less.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import HERE, MNIST_EDGE, Rounds, make_bundle, pairs, report, row, run_child, take_turns, target

WRITE = (
    "import sys; from pathlib import Path; from benchmarks.data_scale import write_images; "
    "from mnist_edge.data.layout import TEST_FILES; write_images(Path(sys.argv[1]), int(sys.argv[2]), TEST_FILES)"
)
SIZES = (60_000, 2_000_000)
MB = 1e6


def commands(bundle: Path, folder: Path) -> dict[str, list[str]]:
    """Return what is measured, by name."""
    return {
        "verify": [MNIST_EDGE, "verify", str(bundle), "--variant", "fp32", "--dataset", str(folder), "--json"],
        "predict": [
            MNIST_EDGE,
            "predict",
            "--model",
            str(bundle),
            "--variant",
            "fp32",
            "--dataset",
            str(folder),
            "--csv",
            "p.csv",
        ],
    }


def peak(command: Sequence[str], seconds: list[float]) -> float:
    """Largest resident memory of a command in MB; keep the seconds that it took."""
    with tempfile.TemporaryDirectory() as scratch:
        child = run_child(command, Path(scratch))
    seconds.append(child.seconds)
    return child.peak_rss_bytes / MB


def main(rounds: int = 1, sizes: Sequence[int] = SIZES) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        bundle = make_bundle(place)
        names, runs = [], {}
        seconds: Rounds = {}
        for size in sizes:
            folder = place / str(size)
            folder.mkdir()
            # In a process of its own: what this one holds when it forks counts for its children.
            subprocess.run([sys.executable, "-c", WRITE, str(folder), str(size)], check=True, cwd=HERE.parent)
            for name, command in commands(bundle, folder).items():
                names.append(f"{name}, {size:,} images")
                seconds[names[-1]] = []
                runs[names[-1]] = partial(peak, command, seconds[names[-1]])
        peaks = take_turns(runs, rounds)
    what = list(commands(Path(), Path()))
    least, most = sizes[0], sizes[-1]
    report(
        "large_sets",
        measured=str(__doc__),
        rows=[
            *(row(f"{name}: peak memory", "MB", peaks[name]) for name in names),
            *(row(f"{name}: whole process", "s", seconds[name]) for name in names),
        ],
        targets=[
            target(
                f"{name}: peak memory, {most:,} / {least:,} images",
                pairs(peaks[f"{name}, {most:,} images"], peaks[f"{name}, {least:,} images"]),
                at_most=1.1,
            )
            for name in what
        ],
    )


if __name__ == "__main__":
    main()
