"""A run on a GPU in its parts: host to device, compute, device to host.

Buffers on the device are bound once (IO binding), so that a run moves only the picture and the logits,
and so that a CUDA graph finds the same addresses each time. A clock is read only after synchronising.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import CLASSES
from mnist_edge.pixels import Logits
from mnist_edge.records.benchmark import BenchRow, Transfers
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.runtime.session import import_onnxruntime

ROUNDS = 100


class Staged(Protocol):
    """Something that runs in three parts, each of which has ended when it returns."""

    def upload(self, feed: NDArray[Any]) -> None:
        """Copy a prepared input to the device."""

    def compute(self) -> None:
        """Run the model on what lies there."""

    def download(self) -> Logits:
        """Copy the logits back."""

    def whole(self, feed: NDArray[Any]) -> Logits:
        """Do all three, synchronising at the end only."""


class GpuRun:
    """An open CUDA session with its buffers bound."""

    def __init__(self, classifier: Classifier, example: NDArray[Any]) -> None:
        value = import_onnxruntime().OrtValue
        self.session = classifier.session
        self.input = value.ortvalue_from_numpy(example, "cuda", 0)
        self.output = value.ortvalue_from_shape_and_type([len(example), CLASSES], np.float32, "cuda", 0)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(classifier.input.name, self.input)
        self.binding.bind_ortvalue_output(classifier.output.name, self.output)

    def upload(self, feed: NDArray[Any]) -> None:
        """Copy a prepared input to the device."""
        self.input.update_inplace(feed)
        self.binding.synchronize_inputs()

    def compute(self) -> None:
        """Run the model on what lies there."""
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()

    def download(self) -> Logits:
        """Copy the logits back."""
        logits: Logits = self.output.numpy()
        return logits

    def whole(self, feed: NDArray[Any]) -> Logits:
        """Do all three, synchronising at the end only."""
        self.input.update_inplace(feed)
        self.session.run_with_iobinding(self.binding)
        return self.download()


def measure_transfers(
    staged: Staged, feeds: Sequence[NDArray[Any]], clock: Callable[[], int] = time.perf_counter_ns
) -> Transfers:
    """Time each part and the whole in turn, 100 times; medians.

    Args:
        staged: warmed up.
        feeds: prepared inputs, taken in turn.
        clock: nanoseconds.
    """
    times: dict[str, list[float]] = {"up": [], "compute": [], "down": [], "whole": []}
    for turn in range(ROUNDS):
        feed = feeds[turn % len(feeds)]
        marks = [clock()]
        for part in (lambda feed=feed: staged.upload(feed), staged.compute, staged.download):
            part()
            marks.append(clock())
        staged.whole(feed)
        marks.append(clock())
        for name, before, after in zip(times, marks[:-1], marks[1:], strict=True):
            times[name].append((after - before) / 1000)
    up, compute, down, whole = (statistics.median(values) for values in times.values())
    return Transfers(
        host_to_device_us=up,
        compute_us=compute,
        device_to_host_us=down,
        whole_us=whole,
        explained=(up + compute + down) / whole,
    )


def gpu_from_batch(rows: Sequence[BenchRow]) -> int | None:
    """Smallest batch from which, at every larger one too, the best GPU row beats the best CPU row.

    Args:
        rows: of both providers; batches that only one has are left out.
    """
    best: dict[str, dict[int, float]] = {"cpu": {}, "cuda": {}}
    for row in rows:
        if row.engine == "onnxruntime":
            known = best[row.settings.provider]
            known[row.batch] = min(row.p50_us, known.get(row.batch, row.p50_us))
    shared = sorted(best["cpu"].keys() & best["cuda"].keys(), reverse=True)
    found = None
    for batch in shared:
        if best["cuda"][batch] >= best["cpu"][batch]:
            break
        found = batch
    return found
