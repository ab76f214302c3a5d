"""The command `mnist-edge`: commands by name, and what becomes of their errors."""

from __future__ import annotations

from typing import Annotated

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
from mnist_edge.errors import UsageError

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
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
