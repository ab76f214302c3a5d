"""The process around a command: standard streams, signals, and the reporting of errors.

Nothing heavy is imported here, so that a signal is handled from the first milliseconds on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from mnist_edge.cli.streams import make_streams_tolerant, output_failure
from mnist_edge.errors import MnistEdgeError, StoppedError, UnavailableError, UnexpectedError, UsageError
from mnist_edge.interrupts import SIGNALS, SignalArrived, StopRequest, raise_on_signals


def main() -> NoReturn:
    """Run a command and exit with its code: see `errors.py` for what each code means."""
    make_streams_tolerant()
    request = raise_on_signals()
    _exit_on_unraisable_signal()
    # Where a thread cannot be started, numpy's OpenBLAS raises SIGINT, which would read as a user's Ctrl-C.
    # Nothing here needs its threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from mnist_edge.cli.app import app

        code = app(standalone_mode=False) or 0
        _set_signals(signal.SIG_DFL)  # an exception while the interpreter shuts down would print a traceback
    except (SignalArrived, Exception) as error:  # noqa: BLE001 - the last line of defence against a traceback
        code = _report_error(_interrupted(request) or error)
    lost = output_failure()
    if lost is not None:
        from mnist_edge.reporting.console import say

        say(f"mnist-edge: standard output is incomplete: {lost.strerror}")
    sys.exit(code)


def _interrupted(request: StopRequest) -> StoppedError | None:
    """Return the error of a signal that was raised; an extension module may have made an ImportError of it."""
    if request.signal_number is None:
        return None
    return StoppedError("interrupted", signal_number=request.signal_number)


def _set_signals(action: signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, action)


def _exit_on_unraisable_signal() -> None:
    """Exit at once if a signal arrived in a destructor or callback.

    Python cannot raise there; it would print a traceback and go on as if there had been no signal.
    """
    report = sys.unraisablehook

    def on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, SignalArrived):
            stop = StoppedError("interrupted", signal_number=unraisable.exc_value.signal_number)
            os._exit(_report_error(stop))
        report(unraisable)

    sys.unraisablehook = on_unraisable


def _report_error(error: BaseException) -> int:
    """Print any error in one line (and one document with `--json`), and return its exit code."""
    _set_signals(signal.SIG_IGN)
    if os.environ.get("MNIST_EDGE_TRACEBACK") == "1":
        import traceback

        traceback.print_exception(error)
    from mnist_edge.reporting.console import emit_error

    reported = as_reported(error)
    emit_error(reported, "--json" in sys.argv)
    return reported.exit_code


def as_reported(error: BaseException) -> MnistEdgeError:
    """Return the error that the user sees: message, hint and exit code for any exception."""
    if isinstance(error, MnistEdgeError):
        return error
    if isinstance(error, ModuleNotFoundError):
        from mnist_edge.extras import extra_of_module, install_hint

        package = (error.name or "").split(".")[0]
        extra = extra_of_module(package)
        if extra is not None:
            return UnavailableError(f"{package} is not installed", hint=install_hint(extra))
    exhausted = _resource_exhaustion(error)
    if exhausted is not None:
        return exhausted
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return UnavailableError(f"{name}{error.strerror or error}", hint="check the path, its permissions and the disk")
    if hasattr(error, "format_message"):  # typer's own: unknown option, missing value, bad choice
        return UsageError(error.format_message(), hint="mnist-edge --help, or --help after the command")
    return UnexpectedError(
        f"unexpected {type(error).__name__}: {error}", hint="MNIST_EDGE_TRACEBACK=1 shows where; please report it"
    )


def _resource_exhaustion(error: BaseException) -> UnavailableError | None:
    """Return the error to report where memory, processes or threads ran out; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
        return UnavailableError("not enough memory", hint="try a smaller --batch or --batch-size")
    if isinstance(error, BlockingIOError) or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
        return UnavailableError(
            "no further process or thread can be started", hint="end other programs, or raise the limit: ulimit -u"
        )
    return None
