"""`mnist-edge eval`: accuracy, per-class figures and confusion matrix of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, NormalizeModel, Timeout, dataset_option, require_plot
from mnist_edge.cli.recording import file_name, recording
from mnist_edge.contract import ProviderName


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder, checkpoint, .pth, bundle folder or any ONNX file.")],
    *,
    variant: Annotated[
        str | None,
        typer.Option(help="A model of the bundle, by name. Default: the one that tune chose, else its first."),
    ] = None,
    dataset: Annotated[str | None, dataset_option("Default: the model's.")] = None,
    data_dir: DataDir = None,
    provider: Annotated[
        ProviderName | None,
        typer.Option(help="Execution provider of an ONNX model; no other is used. Default: as tuned, else cpu."),
    ] = None,
    normalize: NormalizeModel = None,
    timeout: Timeout = 60.0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the confusion matrix and the calibration into this file (.png, .svg, .pdf)."),
    ] = None,
    json: Json = False,
) -> None:
    """Report accuracy, calibration, per-class recall and precision, and the confusion matrix on the test set."""
    from mnist_edge.model_kind import model_kind
    from mnist_edge.reporting.console import emit, say, say_next, status
    from mnist_edge.reporting.tables.evaluation import eval_table
    from mnist_edge.workflow.evaluate import evaluate as evaluate_stage

    require_plot(plot)
    with recording(model, "eval") as keep, status(f"evaluating {model}"):
        report = evaluate_stage(
            model,
            variant=variant,
            dataset=dataset,
            data_dir=data_dir,
            provider=provider,
            normalization=normalize,
            timeout=timeout,
            notify=say,
        )
        named = [provider, *((f"on {dataset}",) if dataset else ())]
        keep(report, file_name("-".join(["eval", *filter(None, [report.variant, *named])])))
    if plot is not None:
        from mnist_edge.reporting.plots.evaluation import evaluation

        say(f"wrote {evaluation(report, plot)}")
    emit(report, json, eval_table)
    kind = model_kind(model)
    if kind == "onnx":
        say_next("bench", model, as_json=json)
    elif kind == "bundle":
        say_next("verify", model, as_json=json)
    else:
        stated = () if normalize is None else ("--normalize", normalize)
        say_next("export", "--run", model, *stated, as_json=json)
