"""`mnist-edge predict`: the digits in photos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from mnist_edge.cli.options import Json, require_output
from mnist_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from mnist_edge.workflow.predict import Seen, Source
    from mnist_edge.workflow.predict_set import SetPredictions

PREVIEW_ROWS = 100
"""Rows of a preview: 30,000 pixels high."""


def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="PNG, JPEG or WebP, a folder of them, or - for standard input."),
    ] = None,
    *,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Instead of photos, an IDX set of any size, with or without labels: CSV on standard output, or --csv.",
        ),
    ] = None,
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
    if dataset is not None:
        _refuse_photo_options(images=images, preview=preview, several=several or None, json=json or None)
        _predict_set(dataset, model, variant, csv)
        return
    if not images:
        raise UsageError("no image was named", hint="mnist-edge predict photo.jpg, or --dataset FOLDER")
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


def _refuse_photo_options(**given: object) -> None:
    """Raise UsageError for what was given and does not go with --dataset."""
    for name, value in given.items():
        if value:
            shown = "an image" if name == "images" else f"--{name}"
            raise UsageError(f"--dataset cannot be combined with {shown}", hint="its predictions are CSV; leave it out")


def _predict_set(dataset: Path, model: Path | None, variant: str | None, csv: Path | None) -> None:
    """Write the predictions of an IDX set as they are made; memory does not grow with it."""
    from mnist_edge.files import replacing
    from mnist_edge.reporting.console import say
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.predict_set import predict_set

    found = predict_set(dataset, model or newest_bundle(say), variant, say)
    if csv is None:
        _write_set(found, sys.stdout)
        return
    with replacing(csv) as staged, staged.open("w", encoding="utf-8", newline="") as file:
        _write_set(found, file)
    say(f"wrote {csv}")


def _write_set(found: SetPredictions, file: TextIO) -> None:
    from mnist_edge.reporting.console import progress
    from mnist_edge.reporting.tables.predict import set_csv

    with progress("predicting") as update:
        for part in found.parts:
            file.write(set_csv(part.start, part.labels, part.probabilities, part.stated, found.names))
            update(part.start + len(part.labels), part.total)
    file.flush()


def _sources(images: Sequence[Path]) -> list[Source]:
    """Return what to predict; standard input is read here."""
    from mnist_edge.data.image_file import MAX_BYTES
    from mnist_edge.workflow.predict import Source, find_images

    if sum(str(path) == "-" for path in images) > 1:
        raise UsageError("standard input was named twice", hint="name - once")
    found: list[Source] = []
    for path in images:
        if str(path) == "-":
            if sys.stdin is None:  # as after `<&-`
                raise UnavailableError("standard input is closed", hint="name a file, or pipe an image in")
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
