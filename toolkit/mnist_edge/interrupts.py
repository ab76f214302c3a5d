"""SIGINT and SIGTERM as a question that long work asks, so that it ends in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Holds the first signal that arrived; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def arrived(self, number: int, _frame: FrameType | None) -> None:
        """Be the handler of a signal."""
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM for the length of the block instead of dying of them."""
    request = StopRequest()
    before = {number: signal.signal(number, request.arrived) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
