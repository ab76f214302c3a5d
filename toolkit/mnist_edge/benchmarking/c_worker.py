"""The process that times one variant as generated C, once: a shared library, called with real images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mnist_edge.benchmarking.outputs import check_outputs, load_golden, row_groups
from mnist_edge.benchmarking.process import ProcessResult, Task, process_result, serve
from mnist_edge.benchmarking.sampling import sample
from mnist_edge.contract import CLASSES
from mnist_edge.errors import UsageError
from mnist_edge.pixels import Logits
from mnist_edge.targets.c99.library import open_library


def measure(task: Task) -> ProcessResult:
    """Open the library, run, warm up, time, and check the outputs of the timed runs."""
    process_ns = time.monotonic_ns() - task.started_ns
    started = time.perf_counter_ns()
    function = open_library(Path(task.model)).function
    session_ns = time.perf_counter_ns() - started
    golden = load_golden(task.golden)
    if golden is None:
        raise UsageError("C is timed with the golden images of a bundle", hint="name a bundle folder")
    groups = row_groups(len(golden.images), task.batch)
    inputs = [np.ascontiguousarray(golden.images[rows]) for rows in groups]
    logits = np.empty((task.batch, CLASSES), np.float32)
    # Addresses are taken once: numpy needs longer for one than a small network for an image.
    target, batch = logits.ctypes.data, task.batch

    def run(address: int) -> Logits:
        function(address, batch, target)
        return logits.copy()

    samples = sample(run, [images.ctypes.data for images in inputs], task.scenario, task.batch, task.seed)
    return process_result(
        samples,
        process_ns=process_ns,
        session_ns=session_ns,
        placement={},
        check=check_outputs(samples.timed.outputs, groups, golden, task.requirement),
    )


if __name__ == "__main__":
    serve(measure)
