"""What can go wrong, each with the exit code a script can rely on.

Every error is one line that names the thing at fault, and a hint that names the next command to try.
"""

from __future__ import annotations

from typing import ClassVar


class MnistEdgeError(Exception):
    """Base of every error a user may see; never raised itself."""

    exit_code: int
    kind: ClassVar[str]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailedError(MnistEdgeError):
    """A check ran to its end and said no: parity, regression, self-test, a loss that became NaN."""

    exit_code = 1
    kind = "check-failed"


class UsageError(MnistEdgeError):
    """Options that do not fit together, or that this model cannot take."""

    exit_code = 2
    kind = "usage"


class BadFileError(MnistEdgeError):
    """A file is damaged, or is not what its name says: data, checkpoint, model, bundle."""

    exit_code = 3
    kind = "bad-file"


class UnavailableError(MnistEdgeError):
    """The environment lacks something: a provider, an extra, disk, permission, network, a free lock."""

    exit_code = 4
    kind = "environment"


class StoppedError(MnistEdgeError):
    """A signal asked the work to end, and it ended in order."""

    kind = "stopped"

    def __init__(self, message: str, *, signal_number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        # The shell's convention: 130 for SIGINT, 143 for SIGTERM.
        self.exit_code = 128 + signal_number


class UnexpectedError(MnistEdgeError):
    """A bug of ours, told in one line; no check has passed, so it counts as one that failed."""

    exit_code = 1
    kind = "bug"
