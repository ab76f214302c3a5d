"""`mnist-edge verify`: hold a bundle against PyTorch's answers, on a machine that needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, NormalizeModel, choices, dataset_option, require_plot
from mnist_edge.contract import Optimization, ProviderName
from mnist_edge.errors import UsageError


def verify(
    model: Annotated[
        Path | None, typer.Argument(help="Bundle folder, or any ONNX file. Default: the newest in exported/.")
    ] = None,
    *,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this run folder, checkpoint or .pth, live in PyTorch, or ONNX file."),
    ] = None,
    provider: Annotated[ProviderName, typer.Option(help="The one that will be deployed; no other is used.")] = "cpu",
    optimization: Annotated[Optimization, typer.Option(help="How far onnxruntime may rewrite the graph.")] = "all",
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime.")] = 1,
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes to check besides 1, 2, 3, 7, 64 and all, with commas.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare layer by layer, also where the answers agree.")
    ] = False,
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, max=100, help="Percentage points that a lossy variant may lose.")
    ] = 0.1,
    dataset: Annotated[
        str | None, dataset_option("For an ONNX file (default: the one that it names), or a bundle made of a folder.")
    ] = None,
    normalize: NormalizeModel = None,
    data_dir: DataDir = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the images nearest to a change of decision.")] = None,
    json: Json = False,
) -> None:
    """Check hashes, logits, every decision and accuracy. Exit 1 if anything is wrong, 3 if a byte was changed."""
    from mnist_edge.cpus import require_cpus
    from mnist_edge.model_kind import require_model_kind
    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.parity import parity_table
    from mnist_edge.runtime.session import require_provider
    from mnist_edge.verification.verify import VerifyOptions
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.verify import verify_file, verify_folder

    require_plot(plot)
    require_provider(provider)
    require_cpus(threads)
    options = VerifyOptions(
        session=SessionSettings(provider=provider, threads=threads, optimization=optimization),
        batches=() if batch is None else choices(batch, "--batch"),
        max_drop=max_accuracy_drop / 100,
        layers=layers,
        normalization=normalize,
    )
    chosen = model or newest_bundle(say)
    if chosen.exists() and require_model_kind(chosen, "onnx", "bundle", "run folder") == "onnx":
        with status(f"verifying {chosen}"):
            report, reference = verify_file(chosen, against, options, dataset, data_dir, say)
    elif normalize is not None and against is None:
        raise UsageError("--normalize is for an ONNX file or a .pth; a bundle states its own", hint="leave it out")
    else:
        with status(f"verifying {chosen}"):
            report, reference = verify_folder(chosen, against, options, dataset, data_dir, say)
    if plot is not None:
        from mnist_edge.reporting.plots.margins import margin_sheet

        counted = reference.test_set or reference.golden
        say(f"wrote {margin_sheet(report.variants, counted.images, counted.logits, plot)}")
    emit(report, json, parity_table)
    if not report.passed:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in report.variants if v.reason)
        say(f"mnist-edge: {report.model} does not decide as {reference.said}: {reasons}")
        raise typer.Exit(1)
    say_next("bench", chosen, as_json=json)
