"""`mnist-edge inspect`: what an ONNX file or a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import Json


def inspect(
    model: Annotated[
        Path | None, typer.Argument(help="Any ONNX file, or a bundle folder. Default: the newest in exported/.")
    ] = None,
    *,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="A variant of the bundle, with its layers. Default: all.")
    ] = None,
    json: Json = False,
) -> None:
    """Show inputs, outputs, layers, parameters, multiplications, operators and metadata. Nothing is run.

    Multiplications are those of matrix products and convolutions, for one image where the batch is free.
    """
    from mnist_edge.reporting.console import emit, say, status
    from mnist_edge.reporting.tables.inspection import inspect_table
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.inspect import inspect as inspect_stage

    chosen = model or newest_bundle(say)
    with status(f"reading {chosen}"):
        report = inspect_stage(chosen, variant=variant)
    emit(report, json, inspect_table)
