"""Standard output for results, standard error for everything else."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from mnist_edge.errors import MnistEdgeError, error_document
from mnist_edge.ranks import this_rank
from mnist_edge.reporting.escape import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, ProgressColumn

    from mnist_edge.records.report import Report


def emit(report: Report, as_json: bool, render: Callable[[Any], RenderableType]) -> None:
    """Print a report: as one JSON document, or as `render` lays it out; with several processes, rank 0 prints."""
    if not this_rank().leads:
        return
    if as_json:
        _write(sys.stdout, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        return
    from rich.console import Console
    from rich.segment import Segment, Segments

    # A pipe gets the whole width: a cut column would be a lost figure.
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False, markup=False)
    # Names and labels may come from files that others wrote. Escaping the laid-out text instead of each
    # cell cannot be forgotten in a table; style and cursor codes of rich are not part of a segment's text.
    shown = [
        segment if segment.control else Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)
        for segment in console.render(render(report))
    ]
    with console.capture() as capture:
        console.print(Segments(shown), end="", crop=False)  # a long command is left to the terminal to wrap
    lines = (line.rstrip() for line in capture.get().strip("\n").splitlines())
    _write(sys.stdout, "\n".join(lines) + "\n")


def say(line: str) -> None:
    """Print one line on standard error, control characters escaped; with several processes, rank 0 prints."""
    if this_rank().leads:
        _write(sys.stderr, printable(line) + "\n")


def say_next(*words: str | Path, as_json: bool = False) -> None:
    """Suggest the next command on standard error, quoted for a shell; not to a program that reads JSON."""
    if not as_json:
        say(f"next: {shlex.join([*program(), *map(str, words)])}")


def program() -> list[str]:
    """Return the words of a command line that start this program: `mnist-edge` only if the shell finds it."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and shutil.which("mnist-edge") is None:
        return [sys.executable, "-m", "mnist_edge"]
    if started.name == "mnist-edge" and shutil.which("mnist-edge") != sys.argv[0]:
        return [sys.argv[0]]
    return ["mnist-edge"]


def emit_error(error: MnistEdgeError, as_json: bool) -> None:
    """Print an error: one line on standard error, and with `--json` one document on standard output."""
    hint = f" ({error.hint})" if error.hint else ""
    rank = this_rank()
    who = "mnist-edge" if rank.size == 1 else f"mnist-edge, rank {rank.number}"
    _write(sys.stderr, printable(" ".join(f"{who}: {error.message}{hint}".split("\n"))) + "\n")
    if as_json and rank.leads:
        document = error_document(error.kind, error.message, error.hint)
        _write(sys.stdout, json.dumps(document, indent=2) + "\n")


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


class ProgressUpdate(Protocol):
    """What `progress` yields."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` steps are finished, with a few words such as the current loss beside the bar.

        The words stay until others are given. Cheap enough to be called after every step.
        """


@contextmanager
def progress(what: str) -> Iterator[ProgressUpdate]:
    """Show a bar with the time left on standard error while the block runs, if standard error is a terminal."""
    if not _watched():
        yield lambda done, total, detail="": None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    name, detail_column = TextColumn(what, markup=False), TextColumn("{task.fields[detail]}", markup=False)
    with _live(name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), detail_column) as bar:
        task = bar.add_task(what, total=None, detail="")

        def update(done: int, total: int, detail: str = "") -> None:
            fields = {"detail": printable(detail)} if detail else {}
            bar.update(task, completed=done, total=total, **fields)  # type: ignore[arg-type] # any field is one of ours

        yield update


@contextmanager
def status(what: str) -> Iterator[None]:
    """Show a spinner and what is in progress on standard error while the block runs, if standard error is a terminal."""
    if not _watched():
        yield
        return
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with _live(SpinnerColumn(), TextColumn(printable(what), markup=False), TimeElapsedColumn()) as spinner:
        spinner.add_task(what, total=None)
        yield


def _watched() -> bool:
    return sys.stderr.isatty() and this_rank().leads


def _live(*columns: ProgressColumn) -> Progress:
    """Return a display on standard error that disappears when it ends; standard output is not redirected."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
