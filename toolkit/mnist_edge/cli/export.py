"""`mnist-edge export`: from a checkpoint to a bundle whose predictions were compared with PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, NormalizeStateDict, dataset_option
from mnist_edge.contract import OPSET, OPSETS, InputKind


def export(
    *,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, checkpoint or .pth. Default: the newest folder in runs/.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Bundle folder. Default: exported/<dataset>.")] = None,
    dataset: Annotated[str | None, dataset_option("Default: the checkpoint's.")] = None,
    data_dir: DataDir = None,
    input: Annotated[  # noqa: A002 - the field's word
        InputKind,
        typer.Option(
            help="uint8: raw images (batch, 28, 28), normalised by the graph. float: (batch, 784), normalised by you."
        ),
    ] = "uint8",
    normalize: NormalizeStateDict = None,
    opset: Annotated[int, typer.Option(min=OPSETS[0], max=OPSETS[-1], help="ONNX operator set.")] = OPSET,
    json: Json = False,
) -> None:
    """Export a trained network to ONNX, compare it with PyTorch, and publish it only if they agree."""
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.export import export_table
    from mnist_edge.workflow.export import export as export_stage

    with status("exporting and comparing with PyTorch"):
        report = export_stage(
            run=run,
            output=output,
            dataset=dataset,
            data_dir=data_dir,
            input_kind=input,
            opset=opset,
            normalization=normalize,
            notify=say,
        )
    emit(report, json, export_table)
    own_data = ("--dataset", dataset) if dataset is not None and Path(dataset).is_dir() else ()
    say_next("verify", report.bundle, *own_data, as_json=json)
