"""Run a model of unknown origin once in a process of its own, with a limit on memory and time, before it is run here.

A graph of a few bytes can request any amount of memory, loop for ever, or crash onnxruntime. None of that is visible
in its sizes, and a loop or an allocation within one operator cannot be stopped by the process that runs it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from mnist_edge.errors import BadFileError, CheckFailedError, MnistEdgeError, UnavailableError
from mnist_edge.files import sha256_file
from mnist_edge.interrupts import end_with_parent
from mnist_edge.runtime.classifier import TIMEOUT_SECONDS, did_not_return, open_classifier
from mnist_edge.runtime.model_file import check_model_file, is_small_dense_network
from mnist_edge.runtime.reasons import explain
from mnist_edge.runtime.session import RefusedModelError, import_onnxruntime, require_provider

MEMORY_BYTES = 4 * 2**30
"""Memory limit of a trial with one image; three quarters of the machine's free memory where that is less."""

START_SECONDS = 30.0
"""Time to start the process and open the model, after which it is killed; a run is ended by the process itself."""

_passed: set[str] = set()
"""sha256 of the files that passed, so that a command tries each once."""


def require_bounded(model: Path, timeout: float = TIMEOUT_SECONDS) -> None:
    """Raise unless a file can be run here without taking the memory or the time of the machine.

    A file whose graph bounds both passes at once; any other is tried in a process of its own.

    Raises:
        BadFileError, UnavailableError: as `check_model_file` raises them.
        CheckFailedError, RefusedModelError: as `try_in_process` raises them.
    """
    if not is_small_dense_network(check_model_file(model)):
        require_provider("cpu")
        try_in_process(model, timeout)


def try_in_process(model: Path, timeout: float = TIMEOUT_SECONDS) -> None:
    """Open a model on the CPU and run one batch of zeros, in a child process.

    Args:
        model: an ONNX file whose declared sizes have been checked.
        timeout: seconds for opening and running it.

    Raises:
        CheckFailedError: it did not return in time.
        RefusedModelError: onnxruntime refuses it, or it needs more memory than a classifier does.
        BadFileError: it ended the process.
    """
    digest = sha256_file(model)
    if digest in _passed:
        return
    limit = min(MEMORY_BYTES, free_bytes() * 3 // 4)
    command = [sys.executable, "-m", "mnist_edge.runtime.trial", str(model), str(limit), str(timeout), str(os.getpid())]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout + START_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise did_not_return(str(model), timeout) from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise BadFileError(
            f"{model} ended the process of onnxruntime that ran it ({ending(done)})",
            hint="export it again with another --opset",
        ) from None
    if found.get("stopped"):
        raise did_not_return(str(model), timeout)
    if found.get("memory"):
        raise RefusedModelError(
            f"{model} needs more than {limit / 1e9:.1f} GB of memory for one image: {found['memory']}",
            hint="export it again; a classifier of small images needs a few megabytes",
        )
    if found.get("refused"):
        message, hint = found["refused"]
        raise RefusedModelError(message, hint=hint)
    _passed.add(digest)


def ending(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return how a process ended: the name of a signal, or its exit code."""
    number = -done.returncode
    return signal.Signals(number).name if number in set(signal.Signals) else f"exit code {done.returncode}"


def free_bytes() -> int:
    """Return the memory that this machine can give without swapping, in bytes; a guess where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return MEMORY_BYTES


def limit_memory(limit: int) -> None:
    """Limit this process to `limit` bytes of address space more than it has."""
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        taken = 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (taken + limit, taken + limit))


def main() -> None:
    """Run as the child process, with arguments `MODEL LIMIT TIMEOUT PARENT`; print one JSON object."""
    model, limit, timeout, parent = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    end_with_parent(parent)
    import_onnxruntime()
    limit_memory(limit)
    found: dict[str, object] = {}
    try:
        classifier = open_classifier(Path(model), trial=False, timeout=timeout)
        classifier.run_zeros()
    except CheckFailedError:
        found["stopped"] = True
    except UnavailableError as error:
        found["memory"] = error.message.rpartition(": ")[2]
    except MnistEdgeError as error:
        found["refused"] = [error.message, error.hint]
    except (MemoryError, RuntimeError) as error:
        found["memory"] = explain(error).text
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
