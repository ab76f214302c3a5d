"""Standard streams whose write errors do not end the work: output to a closed pipe or a full disk is dropped."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class StandardStream(io.FileIO):
    """File descriptor 1 or 2, for writing.

    Attributes:
        failure: the first write error, after which all output is dropped; None while there is none.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what the descriptor takes and return its length; after a failure, take all and write nothing."""
        try:
            while self.failure is None:
                written: int | None = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])  # non-blocking, and its buffer is full
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes


def make_streams_tolerant() -> None:
    """Open closed standard streams on the null device, and let standard output and error tolerate any write error.

    An unused descriptor 0, 1 or 2 would otherwise be given to the next file that is opened, and prints would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
    # Streams that a test or an embedding program has replaced are not touched.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(2)


def _tolerant(descriptor: int) -> TextIO:
    original = sys.__stdout__ if descriptor == 1 else sys.__stderr__
    return io.TextIOWrapper(
        io.BufferedWriter(StandardStream(descriptor, "wb", closefd=False)),
        encoding=original.encoding if original else "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def output_failure() -> OSError | None:
    """Return why standard output was lost; None if nothing was, or if its reader closed the pipe (`| head`)."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, StandardStream) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure
