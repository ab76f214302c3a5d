"""Read ONNX files in a process of its own, with a limit on memory and time: a crafted graph may crash onnx, or never end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.extras import install_hint
from mnist_edge.files import explaining_os_errors
from mnist_edge.interrupts import end_with_parent
from mnist_edge.records.inspection import InspectReport
from mnist_edge.runtime.model_file import check_model_file
from mnist_edge.runtime.trial import ending, free_bytes, limit_memory
from mnist_edge.validation import validated

MEMORY_BYTES = 2**30
"""Memory limit besides four times the size of the file, which is read and parsed."""
TIMEOUT_SECONDS = 60.0
HINT = "it may be damaged, or made to harm; export it again"


def inspect_file(model: Path) -> InspectReport:
    """Return what an ONNX file of any origin holds; it is not run.

    Raises:
        BadFileError: no ONNX model, or one that takes too much time or memory to read.
        UnavailableError: it does not exist, or the package onnx is not installed.
    """
    if find_spec("onnx") is None:
        raise UnavailableError("onnx is not installed", hint=install_hint("cpu"))
    check_model_file(model, to_run=False)
    with explaining_os_errors(model):
        wanted = MEMORY_BYTES + 4 * model.stat().st_size
    limit = min(wanted, free_bytes() * 3 // 4)
    command = [sys.executable, "-m", "mnist_edge.inspection.process", str(model), str(limit), str(os.getpid())]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BadFileError(f"{model} takes more than {TIMEOUT_SECONDS:g} s to read", hint=HINT) from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise BadFileError(f"{model} ended the process that read it ({ending(done)})", hint=HINT) from None
    if "refused" in found:
        raise BadFileError(f"{model}: {found['refused']}", hint=HINT)
    return validated(InspectReport, {**found, "model": model}, model, HINT)


def main() -> None:
    """Run as the child process, with arguments `MODEL LIMIT PARENT`; print one JSON object."""
    model, limit, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    end_with_parent(parent)
    import onnx
    from google.protobuf.message import DecodeError

    from mnist_edge.inspection.graph import inspect_model

    limit_memory(limit)
    try:
        found = inspect_model(onnx.load_model_from_string(model.read_bytes()), model).to_json()
    except DecodeError:
        found = {"refused": "it is not an ONNX model"}
    except MemoryError:
        found = {"refused": f"reading it takes more than {limit / 1e9:.1f} GB of memory"}
    except Exception as error:  # noqa: BLE001 - whatever a crafted file makes of onnx, whose errors share no base class
        found = {"refused": str(error).partition("\n")[0][:300]}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
