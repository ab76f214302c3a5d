"""The command `mnist-edge`: commands by name, and what becomes of their errors."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from mnist_edge import __version__
from mnist_edge.cli.bench import bench
from mnist_edge.cli.compare import compare
from mnist_edge.cli.doctor import doctor
from mnist_edge.cli.evaluate import evaluate
from mnist_edge.cli.export import export
from mnist_edge.cli.run import run
from mnist_edge.cli.sweep import sweep
from mnist_edge.cli.train import train
from mnist_edge.cli.verify import verify
from mnist_edge.errors import MnistEdgeError, StoppedError, UnavailableError, UnexpectedError, UsageError
from mnist_edge.extras import extra_of_module, install_hint
from mnist_edge.interrupts import SignalArrived, raise_on_signals

app = typer.Typer(pretty_exceptions_enable=False)
app.command("run")(run)
app.command("train")(train)
app.command("sweep")(sweep)
app.command("eval")(evaluate)
app.command("export")(export)
app.command("verify")(verify)
app.command("bench")(bench)
app.command("compare")(compare)
app.command("doctor")(doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mnist-edge {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has answered
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a digit classifier, export it to ONNX, prove it, time it, ship it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(UsageError.exit_code)


def main() -> NoReturn:
    """Run a command and exit with its code: see `errors.py` for what each code means."""
    raise_on_signals()
    # Where a thread cannot be started, numpy's OpenBLAS raises SIGINT: that would be told as a user's Ctrl-C.
    # Nothing here needs its threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False) or 0
    except SignalArrived as stop:
        code = _report_error(StoppedError("interrupted", signal_number=stop.signal_number), as_json)
    except Exception as error:  # noqa: BLE001 - the last line of defence against a traceback
        if os.environ.get("MNIST_EDGE_TRACEBACK") == "1":
            import traceback

            traceback.print_exc()
        code = _report_error(error, as_json)
    sys.exit(code)


def _report_error(error: Exception, as_json: bool) -> int:
    """Print any error in one line and return the exit code; a signal that comes now comes too late."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    from mnist_edge.reporting.console import emit_error

    reported = as_reported(error)
    emit_error(reported, as_json)
    return reported.exit_code


def as_reported(error: Exception) -> MnistEdgeError:
    """Return the error that the user sees: message, hint and exit code for any exception."""
    if isinstance(error, MnistEdgeError):
        return error
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of_module(error.name or "")):
        package = (error.name or "").split(".")[0]
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


def _resource_exhaustion(error: Exception) -> UnavailableError | None:
    """Return the error to report where memory, processes or threads ran out; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
        return UnavailableError("not enough memory", hint="try a smaller --batch or --batch-size")
    if isinstance(error, BlockingIOError) or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
        return UnavailableError(
            "no further process or thread can be started", hint="end other programs, or raise the limit: ulimit -u"
        )
    return None
