"""Standard output for results, standard error for everything else; a closed pipe ends neither the work nor its exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from mnist_edge.errors import MnistEdgeError
from mnist_edge.ranks import this_rank
from mnist_edge.reporting.escape import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mnist_edge.records.report import Report


def emit(report: Report, as_json: bool, render: Callable[[Any], RenderableType]) -> None:
    """Print a report: one JSON document, or what `render` makes of it for a person. Of many processes the first does."""
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
        console.print(Segments(shown), end="")
    lines = (line.rstrip() for line in capture.get().splitlines())
    _write(sys.stdout, "\n".join(lines) + "\n")


def say(line: str) -> None:
    """Print one line on standard error, control characters escaped; of many processes the first does."""
    if this_rank().leads:
        _write(sys.stderr, printable(line) + "\n")


def emit_error(error: MnistEdgeError, as_json: bool) -> None:
    """Print an error: one line on standard error, and with `--json` one document on standard output."""
    hint = f" ({error.hint})" if error.hint else ""
    rank = this_rank()
    who = "mnist-edge" if rank.size == 1 else f"mnist-edge, rank {rank.number}"
    _write(sys.stderr, printable(" ".join(f"{who}: {error.message}{hint}".split("\n"))) + "\n")
    if as_json and rank.leads:
        document = {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}
        _write(sys.stdout, json.dumps(document, indent=2) + "\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        stream.write(text.encode("ascii", "replace").decode())
        stream.flush()
    except BrokenPipeError:
        # Nobody reads any more. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with an estimate on standard error while the block runs, where a person watches.

    Yields:
        A function of (done, all); cheap enough to be called after every step.
    """
    if not (sys.stderr.isatty() and this_rank().leads):
        yield lambda _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
