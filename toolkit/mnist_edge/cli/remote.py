"""The option `--on`, and which other options are sent to the machine that it names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from mnist_edge.errors import UsageError

On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="USER@HOST", help="Run on this machine instead, over ssh; what it needs is set up there once."
    ),
]


def words_for(context: typer.Context, *, here: Collection[str], there: Collection[str]) -> tuple[str, ...]:
    """Return the options that were given on the command line, as words for the same command on another machine.

    Args:
        context: of the command.
        here: names of the parameters that are handled on this machine.
        there: names of those that are sent.

    Raises:
        UsageError: another option was given: it names a file of this machine, or its result is not brought back.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name, option = parameter.name or "", parameter.opts[0]
        source = context.get_parameter_source(name)
        if name in here or source is None or source.name != "COMMANDLINE":
            continue
        if name not in there:
            raise UsageError(f"{option} does not go with --on", hint=f"leave out {option}, or --on")
        value = context.params[name]
        words.append(option if value is True else f"{option}={value}")
    return tuple(words)
