"""Run one timing in a fresh process: a task goes in as JSON, a result or an error comes back as JSON.

A process times one candidate once. `worker.py` is the process for onnxruntime, `baseline/eager.py` the one for PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.sampling import Samples
from mnist_edge.contract import Normalization
from mnist_edge.errors import (
    BadFileError,
    CheckFailedError,
    MnistEdgeError,
    UnavailableError,
    UsageError,
)
from mnist_edge.interrupts import end_with_parent
from mnist_edge.records.benchmark import EXACT, GpuCalls, OutputRequirement, Scenario
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.reasons import explain

TIMEOUT_SECONDS = 300
"""Added to ten times the length of the timed part."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One timing.

    Attributes:
        model: path of the ONNX file.
        golden: path of the golden file whose images are the inputs and whose logits are the reference of the outputs;
            None for random inputs.
        requirement: of the outputs, where there is a golden file.
        normalization: of the pixels of a float model that does not state it.
        seed: of the arrivals of scenario `server`.
        started_ns: `time.monotonic_ns()` when the process was requested; the clock is the same in all processes.
    """

    model: str
    batch: int
    golden: str | None
    scenario: Scenario
    settings: SessionSettings
    requirement: OutputRequirement = EXACT
    normalization: Normalization | None = None
    seed: int = 0
    started_ns: int = 0


PARTS = {"scenario": Scenario, "settings": SessionSettings, "requirement": OutputRequirement}
"""Fields of a task that are records themselves."""


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """Measurements of one process.

    Attributes:
        process_ns: from the request for a process to the end of its imports.
        session_ns: loading of the model.
        run_ns: latency of each timed run.
        wait_ns: of each run, the wait for its turn (scenario `server`).
        elapsed_ns: length of the timed part.
        placement: number of graph nodes by execution provider.
        check: comparison with the golden logits; None for random inputs.
        gpu_calls: on a GPU, medians of the calls that make one run.
    """

    process_ns: int
    session_ns: int
    first_run_ns: int
    warmup_runs: int
    run_ns: list[int]
    wait_ns: list[int]
    elapsed_ns: int
    peak_rss_bytes: int
    placement: dict[str, int]
    check: OutputCheck | None = None
    gpu_calls: GpuCalls | None = None


def process_result(
    samples: Samples,
    *,
    process_ns: int,
    session_ns: int,
    placement: dict[str, int],
    check: OutputCheck | None,
    gpu_calls: GpuCalls | None = None,
) -> ProcessResult:
    """Combine what a process measured."""
    return ProcessResult(
        process_ns=process_ns,
        session_ns=session_ns,
        first_run_ns=samples.first_run_ns,
        warmup_runs=samples.warmup_runs,
        run_ns=samples.timed.run_ns,
        wait_ns=samples.timed.wait_ns,
        elapsed_ns=samples.timed.elapsed_ns,
        peak_rss_bytes=samples.peak_rss_bytes,
        placement=placement,
        check=check,
        gpu_calls=gpu_calls,
    )


def serve(measure: Callable[[Task], ProcessResult]) -> None:
    """Run as a timing process: read a task from stdin, measure, and write the result, or the error, to stdout."""
    content = json.load(sys.stdin)
    end_with_parent(content.pop("parent"))
    task = Task(**{**content, **{name: kind(**content[name]) for name, kind in PARTS.items() if name in content}})
    try:
        result = measure(task)
    except MnistEdgeError as error:
        _send_error(error)
    except Exception as error:
        known = _explained(error, task)
        if known is None:
            raise
        _send_error(known)
    json.dump(dataclasses.asdict(result), sys.stdout)


def _explained(error: Exception, task: Task) -> UnavailableError | None:
    """Return the error for an exception that means that memory ran out or the GPU failed; None for any other."""
    reason = explain(error)
    if isinstance(error, MemoryError) or reason.cause == "memory":
        return UnavailableError(f"batch {task.batch} needs more memory than there is", hint="try a smaller --batch")
    if reason.cause == "cuda":
        return UnavailableError(f"{Path(task.model).name} failed on the GPU: {reason.text}", hint="mnist-edge doctor")
    return None


def _send_error(error: MnistEdgeError) -> NoReturn:
    json.dump({"error": [type(error).__name__, error.message, error.hint]}, sys.stdout)
    sys.exit(error.exit_code)


def run_process(module: str, task: Task) -> ProcessResult:
    """Start a fresh interpreter on `module`, send it the task, wait for its result.

    A signal that arrives meanwhile kills the process: `subprocess.run` does so on any exception.

    Raises:
        MnistEdgeError: what the process raised, with its type.
        UnavailableError: the process died or took far too long.
    """
    command = [sys.executable, "-m", module]
    what = f"timing {Path(task.model).name} at batch {task.batch}"
    timeout = TIMEOUT_SECONDS + 10 * task.scenario.seconds
    task = dataclasses.replace(task, started_ns=time.monotonic_ns())
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**dataclasses.asdict(task), "parent": os.getpid()}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{what} took over {timeout:.0f} s", hint="try a smaller --batch") from None
    try:
        content: dict[str, Any] = dict(json.loads(done.stdout))
    except (ValueError, TypeError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(
            f"the process {what} died: {lines[-1]}", hint="try a smaller --batch, or mnist-edge doctor"
        ) from None
    if "error" in content:
        name, message, hint = content["error"]
        kinds = {kind.__name__: kind for kind in (CheckFailedError, UsageError, UnavailableError)}
        raise kinds.get(name, BadFileError)(message, hint=hint)
    check, gpu_calls = content.pop("check"), content.pop("gpu_calls")
    return ProcessResult(
        **content,
        check=OutputCheck(**check) if check else None,
        gpu_calls=GpuCalls(**gpu_calls) if gpu_calls else None,
    )
