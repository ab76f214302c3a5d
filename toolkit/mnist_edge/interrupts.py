"""Handle signals that end the work: raise an exception, or, for training, record a request so that it can save first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and the end of the terminal."""


class SignalArrived(BaseException):
    """Raised where a signal arrived, so that temporary files are removed and child processes end on the way out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """The first signal that arrived; a second one ends the process at once.

    Attributes:
        signal_number: None until one arrives.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def arrived(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number


def raise_on_signals() -> StopRequest:
    """Let the signals unwind the work like an exception; SIGHUP stays ignored under nohup.

    Returns:
        Records the signal that was raised: an extension module that it interrupts may raise another exception instead.
    """
    request = StopRequest()

    def arrived(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        raise SignalArrived(number)

    for number in _handled():
        signal.signal(number, arrived)
    return request


def _handled() -> list[signal.Signals]:
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def restored_signals() -> Iterator[None]:
    """Restore the handlers of SIGNALS at the end of the block, whatever it sets."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect the first signal during the block instead of raising it."""
    request = StopRequest()
    with restored_signals():
        for number in _handled():
            signal.signal(number, request.arrived)
        yield request


def end_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends, even by SIGKILL; elsewhere do nothing.

    Args:
        parent: process id of the parent, which may have ended already.
    """
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
