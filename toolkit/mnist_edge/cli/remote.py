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


def words_for(context: typer.Context, *, here: Collection[str]) -> tuple[str, ...]:
    """Return the options that were given on the command line, as words for the same command on another machine.

    Args:
        context: of the command.
        here: names of the parameters that are handled on this machine.

    Raises:
        UsageError: an option names a file of this machine, or its result cannot be brought back.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name, option = parameter.name or "", parameter.opts[0]
        source = context.get_parameter_source(name)
        if name in here or source is None or source.name != "COMMANDLINE":
            continue
        if parameter.type.name in {"path", "file"} or name in _HERE_ONLY:  # type: ignore[attr-defined] # an attribute of every parameter
            raise UsageError(f"{option} does not go with --on", hint=f"leave out {option}, or --on")
        value = context.params[name]
        if isinstance(value, bool):
            words.append(option)
        else:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"{option}={one}" for one in values]
    return tuple(words)


_HERE_ONLY = {"self_check"}
