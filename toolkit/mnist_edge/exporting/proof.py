"""Compare staged variants with their references, and publish a bundle with what was measured of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.bundle.publish import publish, write_files
from mnist_edge.contract import MAX_DROP
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.bundle import ExportReport, Variant
from mnist_edge.records.data import EvaluationSet, SelectionSplit
from mnist_edge.records.verification import ParityReport
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification.calibration import fit_temperature
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.requirement import TOLERANCE
from mnist_edge.verification.verify import VerifyOptions, verify_bundle

BATCH = 1000
"""Images a run on the selection split."""


def require_parity(
    bundle: Bundle, variants: Iterable[Variant], dataset: EvaluationSet | None, hint: str = "choose other settings"
) -> ParityReport:
    """Compare variants of a staged bundle with their references.

    Raises:
        CheckFailedError: one does not meet its requirement.
    """
    report = verify_staged(bundle, variants, dataset)
    failed = next((variant for variant in report.variants if not variant.passed), None)
    if failed is not None:
        raise CheckFailedError(
            f"{failed.name} does not predict as its reference does: {failed.reason}; nothing was published", hint=hint
        )
    return report


def verify_staged(bundle: Bundle, variants: Iterable[Variant], dataset: EvaluationSet | None) -> ParityReport:
    """Compare variants with their references, each with the loss of accuracy that it is allowed."""
    reports = []
    for variant in variants:
        drop = MAX_DROP if variant.max_accuracy_drop is None else variant.max_accuracy_drop
        options = VerifyOptions(max_drop=drop)
        reports.append(verify_bundle(bundle, recorded_reference(bundle, dataset), options, [variant]))
    return joined(reports)


def joined(reports: Sequence[ParityReport]) -> ParityReport:
    """Return one report on the variants of several reports on one bundle; at least one."""
    return dataclasses.replace(
        reports[0],
        passed=all(report.passed for report in reports),
        variants=tuple(variant for report in reports for variant in report.variants),
    )


def publish_proven(
    bundle: Bundle,
    parity: ParityReport,
    output: Path,
    selection: SelectionSplit | None,
    dropped: dict[str, str] | None = None,
) -> ExportReport:
    """Write the manifest with what was measured of the variants that were compared, and publish the folder."""
    parity = dataclasses.replace(parity, model=str(output))
    content = parity.to_json()
    known = {entry["name"]: entry for entry in bundle.manifest.parity.get("variants", ())}
    known |= {entry["name"]: entry for entry in content["variants"]}
    names = [variant.name for variant in bundle.manifest.variants]
    recorded = {"settings": content["settings"], "variants": [known[name] for name in names if name in known]}
    variants = tuple(_measured(bundle, variant, parity, selection) for variant in bundle.manifest.variants)
    manifest = dataclasses.replace(bundle.manifest, parity=recorded, variants=variants)
    write_files(bundle.folder, {MANIFEST: manifest_bytes(manifest)})
    publish(bundle.folder, output)
    return ExportReport(
        bundle=output,
        dataset=manifest.dataset,
        input=manifest.input,
        variants=variants,
        choice=manifest.choice,
        parity=parity,
        accuracy=manifest.accuracy,
        dropped=dropped or {},
    )


def _measured(bundle: Bundle, variant: Variant, parity: ParityReport, selection: SelectionSplit | None) -> Variant:
    """Return a variant with its measurements, if the report has it, otherwise as it is."""
    found = next((entry for entry in parity.variants if entry.name == variant.name), None)
    if found is None:
        return variant
    on_test_set = parity.test_set and found.accuracy is not None
    if selection is not None:
        logits = _selection_logits(bundle.file(variant), selection)
        variant = dataclasses.replace(
            variant,
            selection_accuracy=_accuracy(logits, selection),
            temperature=fit_temperature(logits, selection.labels),
        )
    return dataclasses.replace(
        variant,
        passed=found.passed,
        accuracy=found.accuracy.variant if on_test_set and found.accuracy is not None else None,
        flips=found.flips if on_test_set else None,
    )


def require_equal_logits(name: str, model: bytes, images: Images, expected: Logits) -> None:
    """Raise CheckFailedError unless onnxruntime computes a network's logits, to the tolerance of an exact variant.

    Args:
        name: of the variant.
        model: content of its ONNX file.
        images: uint8 (N, 28, 28).
        expected: float32 (N, 10), PyTorch's.
    """
    found = open_classifier(model).logits(images, batch=BATCH)
    allowed = TOLERANCE * np.maximum(1, np.abs(expected).max(axis=1, keepdims=True))
    wrong = ~(np.abs(found - expected) <= allowed)  # true for NaN as well
    if wrong.any():
        raise CheckFailedError(
            f"{name}: onnxruntime and PyTorch differ on {wrong.any(axis=1).sum()} of {len(images)} images",
            hint="try another --opset, or report this as a bug",
        )


def selection_accuracy(model: Path | bytes, selection: SelectionSplit) -> float:
    """Return a model's accuracy on images held out of training, a fraction of 1."""
    return _accuracy(_selection_logits(model, selection), selection)


def _selection_logits(model: Path | bytes, selection: SelectionSplit) -> Logits:
    return open_classifier(model).logits(selection.images, batch=BATCH)


def _accuracy(logits: Logits, selection: SelectionSplit) -> float:
    return float((logits.argmax(axis=1) == selection.labels).mean())
