"""Explain in plain words why onnxruntime failed, from the text of its exception."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from mnist_edge.extras import pip

Cause = Literal["model", "memory", "threads", "cuda", "stopped"]


class Reason(NamedTuple):
    """Why onnxruntime failed, in one line without C++ signatures and source paths, and how to fix it."""

    text: str
    hint: str
    cause: Cause


EXPORT_AGAIN = "export it again"
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |^Load model from .*? failed:|^Exception during \w+: ")
_SOURCE = re.compile(r"(?:/\S*onnxruntime\S*|\b[\w/]+)\.(?:cc|h|cpp|cu):\d+ ")
_MEMORY = re.compile(
    r"Failed to allocate memory|bad_alloc|bad allocation|out of memory|exceeds the supported maximum of|ALLOC_FAILED"
    r"|Integer overflow|cannot allocate memory",
    re.IGNORECASE,
)
_CUDA = re.compile(r"\bCUDA\b|CUDNN|CUBLAS|libcu\w+\.so|nvidia driver", re.IGNORECASE)


def explain(error: Exception) -> Reason:
    """Return the reason of an exception of onnxruntime."""
    full = " ".join(str(error).split()) or type(error).__name__
    if "terminate flag" in full:
        return Reason("it was stopped", "", "stopped")
    if "pthread_create failed" in full:
        return Reason("no further thread can be started", "--threads 1, or raise the limit: ulimit -u", "threads")
    if _MEMORY.search(full):
        asked = re.search(r"(?:size|more than) (\d+)", full)
        text = f"it asks for {int(asked[1]) / 1e9:,.1f} GB at once" if asked else "memory ran out"
        return Reason(text, "try a smaller --batch", "memory")
    known = _known(full)
    if known is not None:
        return known
    text = plain_text(str(error))
    return Reason(text, EXPORT_AGAIN, "cuda" if _CUDA.search(full) else "model")


def _known(full: str) -> Reason | None:
    newer = f"{pip()} install --upgrade onnxruntime, or export it again with a lower version"
    found = re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", full)
    if found:
        text = f"it has ONNX IR version {found[1]}, the installed onnxruntime reads up to {found[2]}"
        return Reason(text, newer, "model")
    found = re.search(r"Opset (\d+) is under development.*?domain (\S+) is till opset (\d+)", full)
    if found:
        text = f"it needs opset {found[1]} of {found[2]}, the installed onnxruntime has up to {found[3]}"
        return Reason(text, newer, "model")
    found = re.search(r"No Op registered for (.*?) with domain_version of (\d+)", full) or re.search(
        r"Could not find an implementation for (\w+)\((\d+)\)", full
    )
    if found:
        text = f"its operator {found[1]} is not known to the installed onnxruntime in opset {found[2]}"
        return Reason(text, "export it with another --opset and without custom operators", "model")
    if "INVALID_PROTOBUF" in full or "Protobuf parsing failed" in full:
        return Reason("it is not an ONNX model, or was truncated", "download or export it again", "model")
    return None


def plain_text(message: str) -> str:
    """Return the first line of a message of onnxruntime without prefixes, source paths and function signatures."""
    text = (message.strip().splitlines() or [""])[0]
    previous = None
    while previous != text:
        previous, text = text, _PREFIX.sub("", text)
    found = _SOURCE.search(text)
    if found:
        text = text[: found.start()] + re.sub(r"^[^.]* was false\. ", "", _without_signature(text[found.end() :]))
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node\. Name:'[^']*' Status Message: ", r"\1: ", text
    )
    return text.strip() or "no reason given"


def _without_signature(text: str) -> str:
    """Cut `void* onnxruntime::Arena::Alloc(size_t, bool) ` or a bare function name from the front of a message."""
    if not re.match(r"[\w:<>*&,~ ]*::", text):
        return re.sub(r"^[A-Za-z_]\w+ (?=[A-Z])", "", text)
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return text[at + 1 :].removeprefix(" const").lstrip()
    return text
