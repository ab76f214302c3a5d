"""SIGINT and SIGTERM: an exception for most work, a question for training, which ends in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class SignalArrived(BaseException):
    """Raised where a signal arrived, so that temporary files go and child processes end on the way out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def raise_on_signals() -> None:
    """Let SIGINT and SIGTERM unwind the work like an exception."""

    def arrived(number: int, _frame: FrameType | None) -> None:
        raise SignalArrived(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, arrived)


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
