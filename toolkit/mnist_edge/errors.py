"""The errors that a user may see, each with the exit code that scripts can rely on.

Each has a message of one line, with the value found and the value expected, and a hint: what fixes it.
"""

from __future__ import annotations

from typing import Any, ClassVar

ERROR_SCHEMA = "mnist-edge/error/1"


class MnistEdgeError(Exception):
    """Base of the errors below; never raised itself."""

    exit_code: int
    kind: ClassVar[str]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailedError(MnistEdgeError):
    """A check failed: parity, regression, self-test, a loss that became NaN."""

    exit_code = 1
    kind = "check-failed"


class UsageError(MnistEdgeError):
    """Options that contradict each other, or that do not apply to the model."""

    exit_code = 2
    kind = "usage"


class BadFileError(MnistEdgeError):
    """A file is damaged, or is not what its name states: data, checkpoint, model, bundle."""

    exit_code = 3
    kind = "bad-file"


class UnavailableError(MnistEdgeError):
    """The environment lacks something: a provider, an extra, disk, permission, network, a free lock."""

    exit_code = 4
    kind = "environment"


class StoppedError(MnistEdgeError):
    """A signal ended the work."""

    kind = "stopped"

    def __init__(self, message: str, *, signal_number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        # The shell's convention: 130 for SIGINT, 143 for SIGTERM.
        self.exit_code = 128 + signal_number


class UnexpectedError(MnistEdgeError):
    """A bug of mnist-edge; as no check has passed, the exit code is that of a failed one."""

    exit_code = 1
    kind = "bug"


def error_document(kind: str, message: str, hint: str = "") -> dict[str, Any]:
    """Return an error as plain JSON values: what `--json` prints, and what the page of `demo` receives."""
    return {"schema": ERROR_SCHEMA, "error": {"kind": kind, "message": message, "hint": hint}}
