"""`mnist-edge score`: score any number of images on every CPU of this machine, or of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import Json, require_output


def score(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of PNG, JPEG or WebP images, or with an IDX set; or an IDX file of images."
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option(metavar="FILE.parquet", help="Where the scores are written, a row an image, in order.")
    ],
    model: Annotated[Path | None, typer.Option(help="Bundle folder. Default: the newest in exported/.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A model of the bundle. Default: the one that tune chose, else its first."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at a time, one thread each. Default: one for each CPU.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A running Ray cluster, whose machines find FOLDER at the same path. Default: Ray is started here.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score images into a Parquet file. Run it again to continue where it was ended.

    Exit 1 if a file is no image.
    """
    from mnist_edge.reporting.console import emit, progress, say
    from mnist_edge.reporting.tables.score import score_table
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.score import score_images

    require_output(output, "--output")
    with progress(f"scoring {source}") as update:
        report = score_images(
            source,
            model or newest_bundle(say),
            output,
            variant=variant,
            workers=workers,
            address=address,
            notify=say,
            progress=update,
        )
    emit(report, json, score_table)
    if report.unreadable:
        say(f"mnist-edge: {report.unreadable:,} of {report.plan.images:,} files are no image; column reason states why")
        raise typer.Exit(1)
