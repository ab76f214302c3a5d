"""`mnist-edge verify`: hold a bundle against PyTorch's answers, on a machine that needs no PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, choices, dataset_option, newest_with, picture
from mnist_edge.contract import DatasetName, Normalization, Optimization, ProviderName
from mnist_edge.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from mnist_edge.pixels import Images
    from mnist_edge.records.data import Dataset
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.verification.verify import ReferenceOutputs, VerifyOptions


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
    normalize: Annotated[
        Normalization | None, typer.Option(help="What a float ONNX file expects of its pixels, where it does not say.")
    ] = None,
    data_dir: DataDir = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the images nearest to a change of decision.")] = None,
    json: Json = False,
) -> None:
    """Check hashes, logits, every decision and accuracy. Exit 1 if anything is wrong, 3 if a byte was changed."""
    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.parity import parity_table
    from mnist_edge.runtime.session import require_cpus, require_provider
    from mnist_edge.verification.verify import VerifyOptions

    picture(plot)
    require_provider(provider)
    require_cpus(threads)
    options = VerifyOptions(
        session=SessionSettings(provider=provider, threads=threads, optimization=optimization),
        batches=() if batch is None else choices(batch, "--batch"),
        max_drop=max_accuracy_drop / 100,
        layers=layers,
        normalization=normalize,
    )
    chosen = model or newest_bundle()
    if chosen.suffix == ".onnx":
        report, truth = verify_file(chosen, against, options, dataset, data_dir)
    elif normalize is not None:
        raise UsageError("--normalize is for ONNX files; a bundle knows its own", hint="leave it out")
    else:
        report, truth = verify_stage(chosen, against, options, dataset, data_dir)
    if plot is not None:
        from mnist_edge.reporting.plots.margins import margin_sheet

        counted = truth.test_set or truth.golden
        say(f"wrote {margin_sheet(report.variants, counted.images, counted.logits, plot)}")
    emit(report, json, parity_table)
    if not report.passed:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in report.variants if v.reason)
        say(f"mnist-edge: {report.model} does not decide as {truth.said}: {reasons}")
        raise typer.Exit(1)


def verify_stage(
    folder: Path, against: Path | None, options: VerifyOptions, dataset: str | None, data_dir: Path | None
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify a bundle on the golden inputs, and on the test set where it is at hand; `dataset` is a bundle's folder."""
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.verification.verify import recorded_reference, verify_bundle

    bundle = load_bundle(folder)
    name = bundle.manifest.dataset
    if dataset is not None and name != "folder":
        raise UsageError(f"--dataset cannot change: the bundle is of {name}", hint="leave it out")
    data = _test_set(name, data_dir) if dataset is None else load_dataset(dataset, data_dir, may_download=False)
    truth = recorded_reference(bundle, data)
    if dataset is not None and truth.test_set is None:
        raise UsageError(
            f"--dataset {dataset} holds another test set than {folder} was made with",
            hint="name the folder that it was trained on, or leave it out to compare the golden inputs only",
        )
    if against is not None:
        golden, other = bundle.golden, truth.other_test_set
        truth = replace(_reference_of(against, golden.images, golden.labels, data, options), other_test_set=other)
    return verify_bundle(bundle, truth, options), truth


def verify_file(
    model: Path, against: Path | None, options: VerifyOptions, dataset: str | None, data_dir: Path | None
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify an ONNX file of any origin against another model, on a test set."""
    from mnist_edge.bundle.golden import golden_inputs
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.reporting.console import say
    from mnist_edge.runtime.classifier import dataset_of, open_classifier
    from mnist_edge.verification.verify import verify_model

    if against is None:
        raise UsageError(f"{model} brings no reference", hint="--against OTHER.onnx, or a checkpoint, or name a bundle")
    classifier = open_classifier(model, options.session)
    data = load_dataset(dataset or dataset_of(classifier) or "auto", data_dir, say)
    images, labels = golden_inputs(data.test_images, data.test_labels)
    truth = _reference_of(against, images, labels, data, options)
    return verify_model(model, data.name, truth, options), truth


def _reference_of(
    against: Path, images: Images, labels: Images, data: Dataset | None, options: VerifyOptions
) -> ReferenceOutputs:
    """What the model that is compared with answers: an ONNX file, or PyTorch, live."""
    from mnist_edge.verification.verify import onnx_reference

    if against.suffix == ".onnx":
        return onnx_reference(against, images, labels, data, options.normalization)
    from mnist_edge.training.checkpoint import read_model
    from mnist_edge.training.model import reference_logits, reference_sums
    from mnist_edge.verification.verify import live_reference, with_relu

    network, _ = read_model(against)
    return live_reference(
        images,
        labels,
        data,
        lambda pictures: reference_logits(network, pictures),
        lambda pictures: with_relu(reference_sums(network, pictures)),
        f"PyTorch, live, {against}",
    )


def _test_set(name: DatasetName, data_dir: Path | None) -> Dataset | None:
    """The bundle's dataset where it is at hand; a device need not have it, and nothing is downloaded."""
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.reporting.console import say

    try:
        return load_dataset(name, data_dir, may_download=False)
    except UnavailableError as error:
        if data_dir is not None:
            raise
        say(f"only the golden inputs are compared: {error.message}")
        return None


def newest_bundle() -> Path:
    """Return the bundle in `exported/` whose manifest was written last; errors as `newest_with`."""
    from mnist_edge.bundle.manifest import MANIFEST
    from mnist_edge.cli.export import EXPORTED

    return newest_with(MANIFEST, EXPORTED, "mnist-edge export, or name a bundle folder")
