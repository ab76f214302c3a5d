"""`mnist-edge export`: from a checkpoint to a proven bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, dataset_option, newest_with
from mnist_edge.cli.train import RUNS
from mnist_edge.contract import OPSET, OPSETS, InputKind

if TYPE_CHECKING:
    from mnist_edge.records.bundle import ExportReport

EXPORTED = Path("exported")


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
            help="uint8: raw images (batch, 28, 28), normalisation inside. float: (batch, 784), normalised by you."
        ),
    ] = "uint8",
    opset: Annotated[int, typer.Option(min=OPSETS[0], max=OPSETS[-1], help="ONNX operator set.")] = OPSET,
    json: Json = False,
) -> None:
    """Export a trained network to ONNX, hold it against PyTorch, and publish it only if they agree."""
    from mnist_edge.reporting.console import emit
    from mnist_edge.reporting.tables.export import export_table

    report = export_stage(run=run, output=output, dataset=dataset, data_dir=data_dir, input_kind=input, opset=opset)
    emit(report, json, export_table)


def export_stage(
    *,
    run: Path | None,
    output: Path | None,
    dataset: str | None,
    data_dir: Path | None,
    input_kind: InputKind = "uint8",
    opset: int = OPSET,
) -> ExportReport:
    """Export with a line on standard error."""
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
    from mnist_edge.reporting.console import say
    from mnist_edge.training.checkpoint import read_model

    source = run or newest_run()
    model, trained_on = read_model(source)
    data = load_dataset(dataset or trained_on or "mnist", data_dir, say)
    target = output or EXPORTED / data.name
    say(f"exporting {source} to {target}")
    return export_bundle(ExportRequest(model=model, dataset=data, output=target, input=input_kind, opset=opset))


def newest_run() -> Path:
    """Return the run folder whose checkpoint was written last; errors as `newest_with`."""
    from mnist_edge.training.checkpoint import LAST

    return newest_with(LAST, RUNS, "mnist-edge train, or name one with --run")
