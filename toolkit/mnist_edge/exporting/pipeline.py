"""Build the variants of a bundle, compare them with their references, and publish those that pass.

The bundle folder is created or replaced atomically.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from mnist_edge.bundle.folder import Bundle, is_bundle, load_bundle
from mnist_edge.bundle.golden import (
    GOLDEN,
    Golden,
    golden_bytes,
    golden_inputs,
    layer_rows,
    sha256_array,
    sha256_of_test_set,
)
from mnist_edge.bundle.manifest import MANIFEST, Manifest, is_variant_name, manifest_bytes
from mnist_edge.contract import INPUTS, LABELS, PYTORCH, InputKind, Normalization
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.exporting import graph
from mnist_edge.exporting.publish import MODEL_FILE, publish, refuse_unexpected_files, staging, write_files
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import ExportReport, Variant, VariantSpec
from mnist_edge.records.data import Dataset, EvaluationSet
from mnist_edge.records.verification import ParityReport
from mnist_edge.runtime.session import require_provider
from mnist_edge.training.model import reference_logits, reference_pre_activations
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.requirement import MAX_DROP
from mnist_edge.verification.verify import VerifyOptions, verify_bundle

FP32 = VariantSpec(name="fp32", precision="fp32", requirement="exact")
"""The variant that `export` itself makes; its file is MODEL_FILE."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export and where to."""

    model: nn.Sequential
    dataset: Dataset
    output: Path
    input: InputKind
    opset: int
    normalization: Normalization = "seed"


def export_bundle(request: ExportRequest, notify: Callable[[str], None] = lambda _line: None) -> ExportReport:
    """Export a network to a bundle folder, which is replaced atomically.

    Variants that were added to the bundle before are kept where it holds the same weights, input and dataset, and
    they pass again; the others are dropped, with the reason in the report.

    Raises:
        CheckFailedError: the exported graph does not predict as PyTorch does; the previous bundle stays.
        UsageError: `output` holds something that is not a bundle.
        UnavailableError: onnxruntime is missing, or the folder cannot be written or is in use.
    """
    require_provider("cpu")
    refuse_unexpected_files(request.output)
    with staging(request.output) as staged:
        origin = graph.Origin(
            dataset=request.dataset.name,
            weights_sha256=graph.weights_sha256(request.model),
            normalization=request.normalization,
        )
        notify(f"running PyTorch on {len(request.dataset.test_images):,} test images")
        golden = golden_of(request.model, request.dataset, origin)
        notify("exporting the graph with torch.onnx")
        model = graph.export_graph(request.model, request.input, origin, request.opset)
        packed = golden_bytes(golden)
        first = _variant(FP32, MODEL_FILE, model)
        manifest = Manifest(
            dataset=request.dataset.name,
            input=request.input,
            input_description=INPUTS[request.input],
            labels=LABELS[request.dataset.name],
            normalization=origin.input_normalization(request.input),
            opset=request.opset,
            weights_sha256=origin.weights_sha256,
            versions=graph.versions(),
            accuracy=float((golden.test_logits.argmax(axis=1) == request.dataset.test_labels).mean()),
            parity={},
            variants=(first,),
            golden_sha256=sha256_bytes(packed),
        )
        write_files(staged, {MODEL_FILE: model, GOLDEN: packed})
        bundle = Bundle(folder=staged, manifest=manifest, golden=golden)
        notify("comparing onnxruntime with PyTorch")
        parity = require_parity(bundle, [first], request.dataset)
        bundle, kept, dropped = _keep_variants(request.output, bundle, request.dataset)
        return _finish(bundle, [parity, *kept], request.output, dropped)


def add_variant(folder: Path, spec: VariantSpec, model: bytes, dataset: EvaluationSet | None = None) -> ExportReport:
    """Add a model to a bundle, or replace the one of that name, if it passes; the folder is replaced atomically.

    Args:
        folder: the bundle.
        spec: name, precision, requirement and reference of the new variant.
        model: content of its file.
        dataset: predictions are compared on its test set; golden inputs alone are too few to show that a lossy variant
            is as accurate.

    Raises:
        CheckFailedError: the variant, or one that refers to it, does not meet its requirement; the bundle stays.
        UsageError: the name is that of the variant that `export` makes, or the reference is no variant before it.
        BadFileError: the bundle is damaged, or the model does not have the input and output that the manifest states.
        UnavailableError: onnxruntime is missing, or the folder cannot be written or is in use.
    """
    require_provider("cpu")
    if spec.name == FP32.name:
        raise UsageError(f"the variant {FP32.name} is made by mnist-edge export", hint="choose another name")
    if not is_variant_name(spec.name):
        raise UsageError(
            f"{spec.name!r} is no name of a variant", hint="lower-case letters, digits, '.', '_' and '-', at most 64"
        )
    if spec.requirement != "exact" and spec.max_accuracy_drop is None:
        spec = dataclasses.replace(spec, max_accuracy_drop=MAX_DROP)
    with staging(folder) as staged:
        before = load_bundle(folder)
        variant = _variant(spec, f"{spec.name}.onnx", model)
        variants = list(before.manifest.variants)
        place = next((i for i, other in enumerate(variants) if other.name == spec.name), len(variants))
        references = (PYTORCH, *(other.name for other in variants[:place]))
        if spec.reference not in references:
            raise UsageError(
                f"the reference {spec.reference!r} of {spec.name} is not in {folder}",
                hint=f"one of {', '.join(references)}",
            )
        variants[place : place + 1] = [variant]
        changed = _with_dependents(variant, variants)
        write_files(staged, {name: (folder / name).read_bytes() for name in (GOLDEN, *_files(variants, variant))})
        write_files(staged, {variant.file: model})
        manifest = dataclasses.replace(before.manifest, variants=tuple(variants))
        bundle = Bundle(folder=staged, manifest=manifest, golden=before.golden)
        return _finish(bundle, [require_parity(bundle, changed, dataset)], folder, {})


def require_parity(bundle: Bundle, variants: Iterable[Variant], dataset: EvaluationSet | None) -> ParityReport:
    """Compare variants of a staged bundle with their references.

    Raises:
        CheckFailedError: one does not meet its requirement.
    """
    report = _verify(bundle, variants, dataset)
    failed = next((variant for variant in report.variants if not variant.passed), None)
    if failed is not None:
        raise CheckFailedError(
            f"{failed.name} does not predict as its reference does: {failed.reason}; nothing was published",
            hint="try another --opset, or report this as a bug"
            if failed.name == FP32.name
            else "choose other settings",
        )
    return report


def _verify(bundle: Bundle, variants: Iterable[Variant], dataset: EvaluationSet | None) -> ParityReport:
    reports = []
    for variant in variants:
        drop = MAX_DROP if variant.max_accuracy_drop is None else variant.max_accuracy_drop
        options = VerifyOptions(max_drop=drop)
        reports.append(verify_bundle(bundle, recorded_reference(bundle, dataset), options, [variant]))
    return _joined(reports)


def _joined(reports: list[ParityReport]) -> ParityReport:
    return dataclasses.replace(
        reports[0],
        passed=all(report.passed for report in reports),
        variants=tuple(variant for report in reports for variant in report.variants),
    )


def _keep_variants(output: Path, bundle: Bundle, dataset: Dataset) -> tuple[Bundle, list[ParityReport], dict[str, str]]:
    """Add to a staged bundle the variants in `output`, other than FP32, that still meet their requirement.

    Returns:
        The bundle with the variants that were kept, their reports, and why each other one was dropped, by name.
    """
    if not is_bundle(output):
        return bundle, [], {}
    try:
        before = load_bundle(output)
    except (BadFileError, UnavailableError):  # nothing in a damaged bundle is worth keeping
        return bundle, [], {}
    kept: list[ParityReport] = []
    dropped: dict[str, str] = {}
    reason = _not_comparable(before.manifest, bundle.manifest)
    for variant in before.manifest.variants:
        if variant.name == FP32.name:
            continue
        if reason or variant.reference in dropped:
            dropped[variant.name] = reason or f"its reference {variant.reference} was dropped"
            continue
        write_files(bundle.folder, {variant.file: before.file(variant).read_bytes()})
        manifest = dataclasses.replace(bundle.manifest, variants=(*bundle.manifest.variants, variant))
        tried = dataclasses.replace(bundle, manifest=manifest)
        report = _verify(tried, [variant], dataset)
        if report.passed:
            bundle = tried
            kept.append(report)
        else:
            (bundle.folder / variant.file).unlink()
            dropped[variant.name] = report.variants[0].reason
    return bundle, kept, dropped


def _not_comparable(before: Manifest, now: Manifest) -> str:
    for key in ("weights_sha256", "input", "dataset", "normalization"):
        if getattr(before, key) != getattr(now, key):
            what = "weights" if key == "weights_sha256" else key
            return f"it was made for another {what}" if what != "weights" else "it was made from other weights"
    return ""


def _with_dependents(variant: Variant, variants: list[Variant]) -> list[Variant]:
    """Return a variant and all that refer to it, directly or not; `variants` are in the order of the manifest."""
    found = [variant]
    for other in variants:
        if other.reference in {known.name for known in found} and other not in found:
            found.append(other)
    return found


def _files(variants: list[Variant], new: Variant) -> list[str]:
    return [variant.file for variant in variants if variant is not new]


def _variant(spec: VariantSpec, file: str, model: bytes) -> Variant:
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(VariantSpec)}
    return Variant(**fields, file=file, bytes=len(model), sha256=sha256_bytes(model))


def _finish(bundle: Bundle, reports: list[ParityReport], output: Path, dropped: dict[str, str]) -> ExportReport:
    """Write the manifest with the results of the comparison, and publish the folder."""
    parity = dataclasses.replace(_joined(reports), model=str(output))
    content = parity.to_json()
    known = {entry["name"]: entry for entry in bundle.manifest.parity.get("variants", ())}
    known |= {entry["name"]: entry for entry in content["variants"]}
    names = [variant.name for variant in bundle.manifest.variants]
    recorded = {"settings": content["settings"], "variants": [known[name] for name in names if name in known]}
    manifest = dataclasses.replace(bundle.manifest, parity=recorded)
    write_files(bundle.folder, {MANIFEST: manifest_bytes(manifest)})
    publish(bundle.folder, output)
    return ExportReport(
        bundle=output,
        dataset=manifest.dataset,
        input=manifest.input,
        variants=manifest.variants,
        parity=parity,
        accuracy=manifest.accuracy,
        dropped=dropped,
    )


def golden_of(model: nn.Sequential, dataset: Dataset, origin: graph.Origin) -> Golden:
    """Return the golden inputs of a test set with a network's outputs."""
    images, labels = golden_inputs(dataset.test_images, dataset.test_labels)
    rows = layer_rows(labels)
    pre_activations = reference_pre_activations(model, images[rows], normalization=origin.normalization)
    return Golden(
        images=images,
        labels=labels,
        logits=reference_logits(model, images, normalization=origin.normalization),
        test_logits=reference_logits(model, dataset.test_images, normalization=origin.normalization),
        test_sha256=sha256_of_test_set(dataset.test_images, dataset.test_labels),
        weights_sha256=sha256_array(origin.weights_sha256),
        layer_rows=rows,
        layer_widths=np.array([values.shape[1] for values in pre_activations], dtype=np.int64),
        pre_activations=np.concatenate(pre_activations, axis=1),
    )
