"""Build a bundle, prove it, publish it: in that order, and nothing is published unproven."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from mnist_edge.bundle.folder import is_bundle, load_bundle
from mnist_edge.bundle.golden import (
    GOLDEN,
    Golden,
    golden_bytes,
    golden_inputs,
    sha256_array,
    sha256_of_test_set,
    stage_rows,
)
from mnist_edge.bundle.manifest import MANIFEST, Manifest, manifest_bytes
from mnist_edge.contract import LABELS, InputKind, Normalization, Precision
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.exporting import graph
from mnist_edge.files import ensure_folder, publish_folder, sha256_bytes
from mnist_edge.records.bundle import ExportReport, VariantFile
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.verification import ParityReport
from mnist_edge.runtime.classifier import describe, open_classifier
from mnist_edge.runtime.session import RefusedModelError, require_provider
from mnist_edge.training.model import reference_logits, reference_sums
from mnist_edge.verification.parity import Reference, check_parity, refused

VARIANT: Precision = "fp32"
MODEL_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export and where to."""

    model: nn.Sequential
    dataset: Dataset
    output: Path
    input: InputKind
    opset: int
    normalization: Normalization = "seed"


def export_bundle(order: ExportRequest) -> ExportReport:
    """Export a network to a bundle folder, which appears whole and proven or not at all.

    Raises:
        CheckFailedError: the exported graph does not answer as PyTorch; the previous bundle stays.
        UsageError: `output` holds something that is not a bundle.
        UnavailableError: onnxruntime is missing, or the folder cannot be written or is in use.
    """
    require_provider("cpu")
    _refuse_unexpected_files(order.output)
    parent = ensure_folder(order.output.resolve().parent)
    origin = graph.Origin(
        dataset=order.dataset.name,
        weights_sha256=graph.weights_sha256(order.model),
        normalization=order.normalization,
    )
    golden = _golden(order.model, order.dataset, origin)
    data = graph.export_graph(order.model, order.input, origin, order.opset)
    variant = VariantFile(name=VARIANT, precision=VARIANT, file=MODEL_FILE, bytes=len(data), sha256=sha256_bytes(data))
    parity, description = _prove(data, order, golden)
    accuracy = float((golden.test_logits.argmax(axis=1) == order.dataset.test_labels).mean())
    packed = golden_bytes(golden)
    manifest = Manifest(
        dataset=order.dataset.name,
        input=order.input,
        input_description=description,
        labels=LABELS[order.dataset.name],
        normalization=origin.input_normalization(order.input),
        opset=order.opset,
        weights_sha256=origin.weights_sha256,
        versions=graph.versions(),
        accuracy=accuracy,
        parity={"settings": parity.to_json()["settings"], "variants": parity.to_json()["variants"]},
        variants=(variant,),
        golden_sha256=sha256_bytes(packed),
    )
    _publish({MODEL_FILE: data, GOLDEN: packed, MANIFEST: manifest_bytes(manifest)}, parent, order.output)
    return ExportReport(
        bundle=order.output,
        dataset=order.dataset.name,
        input=order.input,
        variants=(variant,),
        parity=parity,
        accuracy=accuracy,
    )


def _golden(model: nn.Sequential, dataset: Dataset, origin: graph.Origin) -> Golden:
    images, labels = golden_inputs(dataset.test_images, dataset.test_labels)
    rows = stage_rows(labels)
    sums = reference_sums(model, images[rows], normalization=origin.normalization)
    return Golden(
        images=images,
        labels=labels,
        logits=reference_logits(model, images, normalization=origin.normalization),
        test_logits=reference_logits(model, dataset.test_images, normalization=origin.normalization),
        test_sha256=sha256_of_test_set(dataset.test_images, dataset.test_labels),
        weights_sha256=sha256_array(origin.weights_sha256),
        stage_rows=rows,
        stage_widths=np.array([values.shape[1] for values in sums], dtype=np.int64),
        stage_sums=np.concatenate(sums, axis=1),
    )


def _prove(data: bytes, order: ExportRequest, golden: Golden) -> tuple[ParityReport, str]:
    """Hold the exported bytes against PyTorch, or raise; also returns the input in words."""
    reference = Reference(images=golden.images, labels=golden.labels, logits=golden.logits)
    test_set = Reference(images=order.dataset.test_images, labels=order.dataset.test_labels, logits=golden.test_logits)
    description = ""
    try:
        classifier = open_classifier(data, name=MODEL_FILE)
        description = describe(classifier.input)
        found = check_parity(VARIANT, classifier, reference, test_set)
    except RefusedModelError as error:
        found = refused(VARIANT, error.message, len(test_set.images), VARIANT)
    if not found.passed:
        raise CheckFailedError(
            f"{VARIANT} does not answer as PyTorch does: {found.reason}; nothing was published",
            hint="try another --opset, or report this as a bug",
        )
    report = ParityReport(
        passed=True,
        model=str(order.output),
        dataset=order.dataset.name,
        settings=SessionSettings(),
        reference="PyTorch, live",
        test_set=True,
        variants=(found,),
    )
    return report, description


def _refuse_unexpected_files(output: Path) -> None:
    """A folder is replaced only if every file in it was put there by an export."""
    if not output.exists():
        return
    hint = "choose another folder with --output"
    if not output.is_dir() or output.is_symlink():
        raise UsageError(f"{output} is not a folder", hint=hint)
    unexpected = sorted(entry.name for entry in output.iterdir() if entry.name not in {MODEL_FILE, GOLDEN, MANIFEST})
    if unexpected or (not is_bundle(output) and any(output.iterdir())):
        found = unexpected[0] if unexpected else "files without a manifest"
        raise UsageError(f"{output} holds what no export put there ({found}); it is not replaced", hint=hint)


def _publish(content: dict[str, bytes], parent: Path, output: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=parent) as scratch:
        staged = Path(scratch) / output.name
        ensure_folder(staged)
        for name, data in content.items():
            (staged / name).write_bytes(data)
        load_bundle(staged)
        publish_folder(staged, parent / output.name)
