"""`mnist-edge eval`: accuracy, per-class figures and confusion matrix of any model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, dataset_option, picture
from mnist_edge.contract import Normalization, ProviderName
from mnist_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from mnist_edge.pixels import Logits
    from mnist_edge.records.data import Dataset


def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder, checkpoint, .pth, bundle folder or any ONNX file.")],
    *,
    dataset: Annotated[str | None, dataset_option("Default: the model's.")] = None,
    data_dir: DataDir = None,
    provider: Annotated[ProviderName, typer.Option(help="For an ONNX file; no other is used.")] = "cpu",
    normalize: Annotated[
        Normalization | None, typer.Option(help="What a float ONNX file expects of its pixels, where it does not say.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the confusion matrix and the reliability into this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Accuracy, calibration, per-class figures and confusion matrix on the test set."""
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.evaluation import eval_table
    from mnist_edge.verification.accuracy import evaluate as judge

    picture(plot)
    data, logits = _answers(model, dataset, data_dir, provider, normalize)
    report = judge(model, logits, data)
    if plot is not None:
        from mnist_edge.reporting.plots.evaluation import evaluation

        say(f"wrote {evaluation(report, plot)}")
    emit(report, json, eval_table)


def _answers(
    model: Path,
    dataset: str | None,
    data_dir: Path | None,
    provider: ProviderName,
    normalize: Normalization | None,
) -> tuple[Dataset, Logits]:
    """Load whatever `model` is, and run the test set through it."""
    from mnist_edge.bundle.folder import is_bundle, load_bundle
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.reporting.console import say

    if not model.exists():
        raise UnavailableError(
            f"{model} does not exist", hint="give a run folder, checkpoint, .pth, bundle or ONNX file"
        )
    if model.suffix == ".onnx" or is_bundle(model):
        from mnist_edge.runtime.classifier import dataset_of, open_classifier

        path = model
        if is_bundle(model):
            bundle = load_bundle(model)
            path = bundle.file(bundle.manifest.variants[0])
        classifier = open_classifier(path, SessionSettings(provider=provider), normalization=normalize)
        data = load_dataset(dataset or dataset_of(classifier) or "mnist", data_dir, say)
        return data, classifier.logits(data.test_images, batch=1000)
    if normalize is not None:
        raise UsageError("--normalize is for ONNX files; a checkpoint knows its own", hint="leave --normalize out")
    from mnist_edge.training.checkpoint import read_model
    from mnist_edge.training.model import reference_logits

    network, trained_on = read_model(model)
    data = load_dataset(dataset or trained_on or "mnist", data_dir, say)
    return data, reference_logits(network, data.test_images)
