"""Wall time of `mnist-edge export` on MNIST as a whole process, against a process that only exports.

Ours reads the checkpoint and the data, exports, checks, holds the graph against PyTorch on the
golden inputs and the test set, and publishes. The peer imports torch and calls `torch.onnx.export`
once on the same network: see peers/bare_export.py.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import (
    MNIST_EDGE,
    PEERS,
    make_run,
    pairs,
    report,
    row,
    run_child,
    take_turns,
    target,
    wall_seconds,
)


def main(rounds: int = 3) -> None:
    """Measure and report; one run of each comes first and is not counted, to fill the disk cache."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_run(folder)
        commands = {
            "ours": [MNIST_EDGE, "export", "--run", "run", "--output", "bundle"],
            "peer": [sys.executable, str(PEERS / "bare_export.py")],
        }
        for command in commands.values():
            run_child(command, folder)
        seconds = take_turns(
            {name: partial(wall_seconds, command, folder) for name, command in commands.items()}, rounds
        )
    report(
        "export_cost",
        measured=str(__doc__),
        rows=[
            row("mnist-edge export", "s", seconds["ours"]),
            row("import torch, torch.onnx.export", "s", seconds["peer"]),
        ],
        targets=[target("ours / bare", pairs(seconds["ours"], seconds["peer"]), at_most=1.3)],
    )


if __name__ == "__main__":
    main()
