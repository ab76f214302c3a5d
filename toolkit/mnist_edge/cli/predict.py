"""`mnist-edge predict`: the digits in photos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json, require_output
from mnist_edge.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from mnist_edge.workflow.predict import Seen, Source

PREVIEW_ROWS = 100
"""Rows of a preview: 30,000 pixels high."""


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="PNG, JPEG or WebP, a folder of them, or - for standard input."),
    ],
    *,
    model: Annotated[Path | None, typer.Option(help="Bundle folder. Default: the newest in exported/.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="A model of the bundle, by name. Default: the one that tune chose, else its first."),
    ] = None,
    several: Annotated[
        bool, typer.Option("--several", help="Predict every digit of a sheet, in reading order.")
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(help="Also draw image, prepared digit and result beside each other into this file (.png)."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the predictions into this file, as CSV.")] = None,
    json: Json = False,
) -> None:
    """Find the digit in each photo, prepare it as MNIST was made, and predict it; exit 1 where one cannot be relied on."""
    from mnist_edge.files import write_atomic
    from mnist_edge.reporting.console import emit, progress, say
    from mnist_edge.reporting.tables.predict import predict_table, predictions_csv
    from mnist_edge.workflow.predict import predict as predict_stage

    require_output(csv, "--csv")
    require_output(preview, "--preview")
    if preview is not None and preview.suffix.lower() != ".png":
        raise UsageError(f"--preview {preview}: expected a name that ends in .png", hint="--preview preview.png")
    rows: list[Image.Image] = []
    with progress("predicting") as update:

        def on_done(done: int, total: int, seen: Sequence[Seen]) -> None:
            update(done, total)
            if preview is not None:
                rows.extend(_rows(seen[: PREVIEW_ROWS - len(rows)]))

        report = predict_stage(
            _sources(images), model=model, variant=variant, several=several, notify=say, on_done=on_done
        )
    if csv is not None:
        write_atomic(csv, predictions_csv(report).encode())
        say(f"wrote {csv}")
    if preview is not None and rows:
        from mnist_edge.reporting.preview import preview as draw

        write_atomic(preview, draw(rows))
        shown = "" if len(rows) == len(report.predictions) else f", the first {len(rows)} of {len(report.predictions)}"
        say(f"wrote {preview}{shown}")
    emit(report, json, predict_table)
    if report.exit_code:
        doubtful = [one for one in report.predictions if not one.accepted]
        first = f"{doubtful[0].image}: {doubtful[0].reason}"
        count = f"{len(doubtful)} of {len(report.predictions)} not accepted; " if len(report.predictions) > 1 else ""
        say(f"mnist-edge: {count}{first}")
        raise typer.Exit(report.exit_code)


def _sources(images: Sequence[Path]) -> list[Source]:
    """Return what to predict; standard input is read here."""
    from mnist_edge.data.image_file import MAX_BYTES
    from mnist_edge.workflow.predict import Source, find_images

    if sum(str(path) == "-" for path in images) > 1:
        raise UsageError("standard input was named twice", hint="name - once")
    found: list[Source] = []
    for path in images:
        if str(path) == "-":
            found.append(Source(name="-", content=sys.stdin.buffer.read(MAX_BYTES + 1)))
        else:
            found += find_images([path])
    return found


def _rows(seen: Sequence[Seen]) -> list[Image.Image]:
    """Draw what was seen in one image."""
    from mnist_edge.reporting.preview import PreviewRow, draw_row

    return [
        draw_row(
            PreviewRow(
                prediction=one.prediction,
                grey=one.grey,
                box=None if one.prepared is None else one.prepared.box,
                prepared=None if one.prepared is None else one.prepared.image,
            )
        )
        for one in seen
    ]
