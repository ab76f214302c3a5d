"""CUDA of the installed onnxruntime: load its libraries quietly, and find out whether it works."""

from __future__ import annotations

import contextlib
import io
from types import ModuleType

import numpy as np

from mnist_edge.records.settings import SessionSettings


def preload_libraries(onnxruntime: ModuleType) -> None:
    """Load CUDA and cuDNN from the nvidia packages, which onnxruntime-gpu does not find by itself.

    onnxruntime prints on standard output about a library that is missing, which is for results only. That it is missing
    is reported by the session that cannot be opened.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        onnxruntime.preload_dlls()


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
