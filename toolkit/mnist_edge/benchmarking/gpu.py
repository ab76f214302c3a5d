"""Run a session with bound buffers on a device, and time the three calls that make one run.

Buffers on the device are bound once (IO binding), so that a run moves only the images and the logits, and so that a
captured CUDA graph finds its inputs and outputs at the same addresses each time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import ProviderName
from mnist_edge.pixels import Logits
from mnist_edge.records.benchmark import BenchRow, GpuCalls
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.runtime.session import import_onnxruntime

ROUNDS = 100


class ThreeCalls(Protocol):
    """A run that consists of three calls, each of which returns when its work is done."""

    def copy_in(self, feed: NDArray[Any]) -> None:
        """Copy a prepared input to the device."""

    def compute(self) -> None:
        """Run the model on the bound buffers."""

    def copy_out(self) -> Logits:
        """Copy the logits to the host."""

    def whole(self, feed: NDArray[Any]) -> Logits:
        """Do all three."""


class BoundRun:
    """An open session whose input and output are bound to buffers on a device.

    Every onnxruntime call used here blocks: `update_inplace` and `numpy()` copy through pageable host memory and
    synchronise, `run_with_iobinding` synchronises before it returns. Overlapping copies with computation would need
    pinned buffers, a separate stream and `disable_synchronize_execution_providers`; at the size of an image and ten
    logits there is nothing to overlap. So the three calls are timed as they are.
    """

    def __init__(self, classifier: Classifier, example: NDArray[Any], device: ProviderName = "cuda") -> None:
        """Bind buffers for inputs of one shape.

        Args:
            classifier: open on the provider of `device`.
            example: a prepared input; its shape (batch, ...) and dtype are the buffer's.
            device: where the buffers lie; `cpu` runs the same code without a GPU.
        """
        value = import_onnxruntime().OrtValue
        self.session = classifier.session
        self.input = value.ortvalue_from_numpy(example, device, 0)
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(classifier.input.name, self.input)
        self.output = None
        sides = classifier.output.shape[1:]
        if classifier.output.scores_classes and sides and None not in sides:
            dtype = np.dtype(classifier.output.dtype)
            self.output = value.ortvalue_from_shape_and_type([len(example), *sides], dtype, device, 0)
            self.binding.bind_ortvalue_output(classifier.output.name, self.output)
        else:  # onnxruntime allocates an output of unknown shape at each run, which rules out a CUDA graph
            self.binding.bind_output(classifier.output.name, device, 0)

    def copy_in(self, feed: NDArray[Any]) -> None:
        """Copy a prepared input (batch, ...) to the device."""
        self.input.update_inplace(feed)

    def compute(self) -> None:
        """Run the model on the bound buffers."""
        self.session.run_with_iobinding(self.binding)

    def copy_out(self) -> Logits:
        """Copy the logits (batch, classes) to the host."""
        # On the CPU `numpy()` may be a view of the buffer, which the next run overwrites.
        logits: Logits = np.array(self.binding.get_outputs()[0].numpy())
        return logits

    def whole(self, feed: NDArray[Any]) -> Logits:
        """Copy in, run, copy out."""
        self.copy_in(feed)
        self.compute()
        return self.copy_out()


def time_calls(
    bound: ThreeCalls, feeds: Sequence[NDArray[Any]], clock: Callable[[], int] = time.perf_counter_ns
) -> GpuCalls:
    """Time each call and the whole run in turn, 100 times; return medians.

    Args:
        bound: warmed up.
        feeds: prepared inputs, taken in turn.
        clock: nanoseconds.
    """
    times: dict[str, list[float]] = {"copy_in": [], "compute": [], "copy_out": [], "whole": []}
    for turn in range(ROUNDS):
        feed = feeds[turn % len(feeds)]
        marks = [clock()]
        for call in (lambda feed=feed: bound.copy_in(feed), bound.compute, bound.copy_out):
            call()
            marks.append(clock())
        bound.whole(feed)
        marks.append(clock())
        for name, before, after in zip(times, marks[:-1], marks[1:], strict=True):
            times[name].append((after - before) / 1000)
    copy_in, compute, copy_out, whole = (statistics.median(values) for values in times.values())
    return GpuCalls(
        copy_in_us=copy_in,
        compute_us=compute,
        copy_out_us=copy_out,
        whole_us=whole,
        sum_over_whole=(copy_in + compute + copy_out) / whole,
    )


def gpu_from_batch(rows: Sequence[BenchRow]) -> int | None:
    """Return the smallest batch from which, at every larger one too, the best GPU row beats the best CPU row.

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
