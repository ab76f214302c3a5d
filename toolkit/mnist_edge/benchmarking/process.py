"""The two ends of a timing process: a task goes in as JSON, an answer or an error comes out as JSON.

A process times one candidate once. `worker.py` is the one for onnxruntime, `baseline/eager.py` the
one for PyTorch; both prepare their inputs and judge their outputs here, so that they do the same.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.benchmarking.sampling import Samples, peak_rss_bytes
from mnist_edge.contract import Normalization
from mnist_edge.errors import (
    BadFileError,
    CheckFailedError,
    MnistEdgeError,
    UnavailableError,
    UsageError,
)
from mnist_edge.interrupts import end_with_parent
from mnist_edge.pixels import Images, Logits, normalize
from mnist_edge.records.benchmark import Scenario, Transfers
from mnist_edge.records.model import ModelInput
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import Classifier

DISTINCT_INPUTS = 64
RANDOM_SEED = 7
TIMEOUT_SECONDS = 300
"""Besides ten times the counted part."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process is to time.

    Attributes:
        model: path of the ONNX file.
        golden: path of the golden file whose images are run and whose logits judge the outputs, or
            None for random inputs.
        normalization: what a float model expects of its pixels, where it does not say so itself.
        seed: of the arrivals of scenario `server`.
        started_ns: `time.monotonic_ns()` when the process was asked for.
    """

    model: str
    batch: int
    golden: str | None
    scenario: Scenario
    settings: SessionSettings
    normalization: Normalization | None = None
    seed: int = 0
    started_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """What one process measured.

    Attributes:
        process_ns: from the wish for a process to the end of its imports.
        wait_ns: of each run, the wait for its turn (scenario `server`).
        elapsed_ns: length of the counted part.
        wrong: decisions of timed runs that differ from the golden ones, of `checked`.
        transfers: on a GPU, medians of the parts.
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
    checked: int
    wrong: int
    transfers: Transfers | None = None


def load_golden(path: str | None) -> tuple[Images, Logits] | None:
    """Return the golden images and logits, or None without a golden file."""
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as archive:
        return archive["images"], archive["logits"]


def row_groups(count: int, batch: int) -> list[NDArray[np.intp]]:
    """Choose which golden rows make each distinct input; rows repeat where there are too few."""
    inputs = max(1, min(DISTINCT_INPUTS, count // batch))
    return [np.arange(start * batch, (start + 1) * batch) % count for start in range(inputs)]


def random_feeds(model_input: ModelInput, batch: int) -> list[NDArray[Any]]:
    """Return random inputs for a model of unknown origin: all byte values, normalised where it is known how, or 0 to 1.

    Returns:
        Eight arrays (batch, *image_shape) of the input's dtype.
    """
    random = np.random.default_rng(RANDOM_SEED)
    shape = (batch, *model_input.image_shape)
    known = model_input.normalization
    if model_input.dtype in {"uint8", "int8"}:
        return [random.integers(0, 256, shape, dtype=np.uint8).view(model_input.dtype) for _ in range(8)]
    if known is None:
        return [random.random(shape, dtype=np.float32).astype(model_input.dtype) for _ in range(8)]
    return [
        normalize(random.integers(0, 256, shape, dtype=np.uint8), known).astype(model_input.dtype) for _ in range(8)
    ]


def require_finite_outputs(classifier: Classifier) -> None:
    """Run a model of unknown origin once on random images.

    Raises:
        BadFileError: onnxruntime cannot run it.
        CheckFailedError: the outputs are NaN or infinite.
    """
    feed = random_feeds(classifier.input, classifier.fixed_batch or 1)[0]
    if classifier.output.scores_classes:
        finite = bool(np.isfinite(classifier.run(feed)).all())
    else:  # labels or a sequence of maps
        classifier.run_for([classifier.output.name], feed)
        finite = True
    if not finite:
        raise CheckFailedError(
            f"{classifier.name} outputs NaN or infinite values", hint="mnist-edge verify --against shows where"
        )


def judge(outputs: dict[int, Logits], groups: list[NDArray[np.intp]], expected: Logits) -> tuple[int, int]:
    """Count decisions that were checked, and those that differ although the reference is no near-tie."""
    checked = wrong = 0
    for index, logits in outputs.items():
        reference = expected[groups[index]]
        top = np.sort(reference, axis=1)[:, -2:]
        clear = top[:, 1] - top[:, 0] > 1e-3 * np.maximum(1, np.abs(reference).max(axis=1))
        checked += len(reference)
        broken = ~np.isfinite(logits).all(axis=1)  # argmax would call NaN class 0
        wrong += int((broken | ((logits.argmax(axis=1) != reference.argmax(axis=1)) & clear)).sum())
    return checked, wrong


def process_result(
    samples: Samples,
    *,
    process_ns: int,
    session_ns: int,
    placement: dict[str, int],
    judged: tuple[int, int],
    transfers: Transfers | None = None,
) -> ProcessResult:
    """Put an answer together at the end of a process."""
    return ProcessResult(
        process_ns=process_ns,
        session_ns=session_ns,
        first_run_ns=samples.first_run_ns,
        warmup_runs=samples.warmup_runs,
        run_ns=samples.timed.run_ns,
        wait_ns=samples.timed.wait_ns,
        elapsed_ns=samples.timed.elapsed_ns,
        peak_rss_bytes=peak_rss_bytes(),
        placement=placement,
        checked=judged[0],
        wrong=judged[1],
        transfers=transfers,
    )


def serve(measure: Callable[[Task], ProcessResult]) -> None:
    """Be a timing process: read a task, measure, write the answer, or the error with its exit code."""
    asked = json.load(sys.stdin)
    end_with_parent(asked.pop("parent"))
    task = Task(
        **{**asked, "scenario": Scenario(**asked["scenario"]), "settings": SessionSettings(**asked["settings"])}
    )
    try:
        answer = measure(task)
    except MnistEdgeError as error:
        json.dump({"error": [type(error).__name__, error.message, error.hint]}, sys.stdout)
        sys.exit(error.exit_code)
    json.dump(dataclasses.asdict(answer), sys.stdout)


def run_process(module: str, task: Task) -> ProcessResult:
    """Start a fresh interpreter on `module`, give it the task, wait for its answer.

    Raises:
        MnistEdgeError: what the process raised, as it raised it.
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
        content = dict(json.loads(done.stdout))
    except (ValueError, TypeError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(
            f"the process {what} died: {lines[-1]}", hint="try a smaller --batch, or mnist-edge doctor"
        ) from None
    if "error" in content:
        name, message, hint = content["error"]
        kinds = {kind.__name__: kind for kind in (CheckFailedError, UsageError, UnavailableError)}
        raise kinds.get(name, BadFileError)(message, hint=hint)
    transfers = content.pop("transfers")
    return ProcessResult(**content, transfers=Transfers(**transfers) if transfers else None)
