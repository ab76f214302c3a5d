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


def refuse_options(context: typer.Context, with_option: str, allowed: Collection[str]) -> None:
    """Raise UsageError where an option was given on the command line that is not among `allowed`, by parameter names."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            raise UsageError(f"{option} does not go with {with_option}", hint=f"leave out {option}, or {with_option}")


def words_for(context: typer.Context, *, here: Collection[str], there: Collection[str]) -> tuple[str, ...]:
    """Return the options that were given on the command line, as words for the same command on another machine.

    Args:
        context: of the command.
        here: names of the parameters that are handled on this machine.
        there: names of those that are sent.

    Raises:
        UsageError: another option was given: it names a file of this machine, or its result is not brought back.
    """
    refuse_options(context, "--on", {*here, *there})
    words: list[str] = []
    for parameter in context.command.params:
        name, option = parameter.name or "", parameter.opts[0]
        source = context.get_parameter_source(name)
        if name in there and source is not None and source.name == "COMMANDLINE":
            value = context.params[name]
            words.append(option if value is True else f"{option}={value}")
    return tuple(words)
