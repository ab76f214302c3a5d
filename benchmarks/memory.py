"""Largest resident memory of `mnist-edge train --epochs 1` on MNIST, and of the processes that `bench` times in.

Training's figure is what the kernel counted for the whole child process (wait4); this parent stays
small, as it would be counted where it is the larger. A bare `import torch` in turn shows the share
that is not ours. The timing processes tell their own peak in `mnist-edge bench --json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import MNIST_EDGE, make_bundle, report, row, run_child, take_turns, target

BATCHES = (1, 64, 1024)
MB = 1e6


def peak_megabytes(command: Sequence[str], folder: Path) -> float:
    """Largest resident memory of a command as a whole process."""
    return run_child(command, folder).peak_rss_bytes / MB


def main(rounds: int = 3) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_bundle(folder)
        commands = {
            "train": [MNIST_EDGE, "train", "--dataset", "mnist", "--epochs", "1", "--run", "again"],
            "import torch": [sys.executable, "-c", "import torch"],
        }
        peaks = take_turns(
            {name: partial(peak_megabytes, command, folder) for name, command in commands.items()}, rounds
        )
        bench = [MNIST_EDGE, "bench", "bundle", "--batch", ",".join(map(str, BATCHES)), "--json"]
        results = json.loads(run_child(bench, folder).output)["results"]
    timed = {line["batch"]: line["peak_rss_mb"] for line in results if line["engine"] == "onnxruntime"}
    report(
        "memory",
        measured=f"{__doc__} Each figure of `bench` is the largest of its processes.",
        rows=[row("import torch, and nothing else", "MB", peaks["import torch"])],
        targets=[
            target("mnist-edge train --epochs 1, MB", peaks["train"], at_most=1000),
            *(target(f"bench process at batch {batch}, MB", [timed[batch]], at_most=150) for batch in BATCHES),
        ],
    )


if __name__ == "__main__":
    main()
