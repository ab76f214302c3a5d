"""CUDA of the installed onnxruntime: load its libraries quietly, and find out whether it works."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np

from mnist_edge.errors import UnavailableError
from mnist_edge.extras import install_hint
from mnist_edge.records.settings import SessionSettings


def preload_libraries(onnxruntime: ModuleType) -> None:
    """Load CUDA and cuDNN from the nvidia packages, which onnxruntime-gpu does not find by itself.

    onnxruntime reports a missing library on standard output, which is for results only. The session that cannot be
    opened reports it too.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        onnxruntime.preload_dlls()


@contextlib.contextmanager
def captured_log() -> Iterator[Callable[[], str]]:
    """Capture what onnxruntime's default logger writes to the descriptor of standard error.

    Only this log names the library or the driver that is missing; the exception reports only that nodes were left
    for the CPU. Python's `redirect_stderr` does not see what C++ writes.

    Yields:
        A function that returns the text so far.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)

        def text() -> str:
            log.seek(0)
            return log.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def unusable_cuda(log: str) -> UnavailableError | None:
    """Return the error for a log that reports that CUDA cannot be used, or None."""
    library = re.search(r"Failed to load library .*? with error: ([^\n]+)", log)
    if library:
        driver = library[1].startswith("libcuda.so")  # it comes with the driver, and with no package
        return UnavailableError(
            f"CUDA cannot be used: {library[1]}",
            hint="install the NVIDIA driver, if there is a GPU; --provider cpu" if driver else install_hint("cuda"),
        )
    failure = re.search(r"CUDA failure \d+: [^;\n]+", log)
    if failure or "Failed to create CUDAExecutionProvider" in log:
        reason = failure[0].strip() if failure else "onnxruntime cannot create its CUDA provider"
        return UnavailableError(
            f"CUDA cannot be used: {reason}",
            hint="nvidia-smi shows whether a driver and a GPU are there; --provider cpu",
        )
    return None


def _one_node_model() -> bytes:
    """Return an ONNX model of one Relu over a float32 vector of length 1, written out so that no onnx package is needed."""

    def part(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def value(name: bytes) -> bytes:
        # ValueInfoProto: name, type { tensor_type { elem_type: FLOAT, shape { dim { dim_value: 1 } } } }
        tensor = b"\x08\x01" + part(2, part(1, b"\x08\x01"))
        return part(1, name) + part(2, part(1, tensor))

    node = part(1, b"x") + part(2, b"y") + part(4, b"Relu")
    graph = part(1, node) + part(2, b"probe") + part(11, value(b"x")) + part(12, value(b"y"))
    return b"\x08\x08" + part(7, graph) + part(8, b"\x0a\x00\x10\x0d")  # IR version 8, opset 13


def require_working_cuda() -> None:
    """Raise UnavailableError unless a session on CUDA opens and runs.

    That onnxruntime lists the provider means only that its wheel was built with it.
    """
    from mnist_edge.runtime.session import open_session, refusal

    opened = open_session(_one_node_model(), SessionSettings(provider="cuda"), "a model of one node")
    try:
        opened.session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise refusal("a model of one node", "cuda", error, "run") from error
