"""`mnist-edge export`: from a checkpoint to a bundle whose predictions were compared with PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, NormalizeStateDict, dataset_option, refuse_given
from mnist_edge.cli.recording import recording
from mnist_edge.cli.remote import refuse_options
from mnist_edge.contract import OPSET, OPSETS, InputKind, TargetName, allowed_drop
from mnist_edge.errors import UsageError


def export(
    context: typer.Context,
    *,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, checkpoint or .pth. Default: the newest folder in runs/.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Bundle folder. Default: exported/<dataset>, exported/<dataset>-student-<name> for a student."
        ),
    ] = None,
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
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also make this variant; repeatable; all. See mnist-edge variants."),
    ] = None,
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, max=100, help="Accuracy in percentage points that a variant may lose.")
    ] = 0.1,
    target: Annotated[
        TargetName | None,
        typer.Option(help="Generate a folder for this target from a bundle that is there; nothing is trained."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle folder to generate from, with --target. Default: the newest in exported/."),
    ] = None,
    json: Json = False,
) -> None:
    """Export a trained network to ONNX, compare it with PyTorch, and publish it only if they agree.

    Exit 1 if a variant fails; the others are published. With --target, generate code from a variant of a bundle.
    """
    if target is not None:
        refuse_options(context, "--target", {"target", "bundle", "variant", "output", "json"})
        _export_target(target, bundle, variant or [], output, json=json)
        return
    refuse_given("without --target", "--target c, or name the --run to export", bundle=bundle)
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
            variants=variant or (),
            max_accuracy_drop=max_accuracy_drop / 100,
            notify=say,
        )
    with recording(report.bundle, "export") as keep:
        keep(report)
    emit(report, json, export_table)
    if report.failed:
        first = report.failed[0]
        hint = f" ({first.hint})" if first.hint else ""
        say(f"mnist-edge: {first.name} is not in {report.bundle}: {first.message}{hint}")
        raise typer.Exit(first.exit_code)
    own_data = ("--dataset", dataset) if dataset is not None and Path(dataset).is_dir() else ()
    allowed = allowed_drop(max_accuracy_drop) if variant else ()
    say_next("verify", report.bundle, *own_data, *allowed, as_json=json)


def _export_target(
    target: TargetName, bundle: Path | None, variants: list[str], output: Path | None, *, json: bool
) -> None:
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.target import target_table
    from mnist_edge.workflow.target import export_target

    if len(variants) > 1:
        raise UsageError("--target takes one --variant", hint=f"--variant {variants[0]}, and the others one by one")
    with status(f"generating {target}"):
        report = export_target(
            target, bundle=bundle, variant=variants[0] if variants else None, output=output, notify=say
        )
    emit(report, json, target_table)
    say_next(
        "verify", report.bundle, "--target", target, "--variant", report.variant, "--built", report.folder, as_json=json
    )
