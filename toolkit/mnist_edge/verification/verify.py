"""Verify a whole bundle, or one model against another: answers first, then where they go wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.golden import NO_LABEL, layer_rows, sha256_of_test_set
from mnist_edge.contract import DatasetName, Normalization, Precision
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.bundle import Variant
from mnist_edge.records.data import EvaluationSet
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.verification import LayerReport, ParityReport, VariantParity
from mnist_edge.runtime.classifier import Classifier, open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.verification.consistency import mismatch, misstated_accuracy, misstated_precision, require_contract
from mnist_edge.verification.layers import Floats, ReferenceStages, compare_layers
from mnist_edge.verification.parity import MAX_DROP, Reference, Requirement, check_parity, refused
from mnist_edge.verification.stages import precision_of, run_stages

Inside = tuple[tuple[Floats | None, ...], tuple[Floats | None, ...]]
"""Of each layer (N, units): what it sums up to, and what the next one is fed."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What the model will be deployed with, and how hard to look.

    Attributes:
        session: how the model is opened.
        batches: batch sizes to check besides 1, 2, 3, 7, 64 and all.
        max_drop: accuracy that a lossy variant may lose, as a fraction of 1.
        layers: compare the stages inside also where the answers agree.
        normalization: what a float model expects of its pixels, where it does not say so itself.
    """

    session: SessionSettings = field(default_factory=SessionSettings)
    batches: tuple[int, ...] = ()
    max_drop: float = MAX_DROP
    layers: bool = False
    normalization: Normalization | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceOutputs:
    """What every variant is held against, and where it comes from, for the report.

    Attributes:
        golden: run at several batch sizes.
        test_set: None where it is not at hand.
        stages: the reference's inside for a few images; None where it is not known.
        other_test_set: whether the test set at hand is another one than the bundle's answers are for.
    """

    golden: Reference
    test_set: Reference | None
    stages: ReferenceStages | None
    said: str
    other_test_set: bool = False


def golden_reference(bundle: Bundle) -> Reference:
    """The golden inputs with the answers that they carry."""
    golden = bundle.golden
    return Reference(images=golden.images, labels=golden.labels, logits=golden.logits)


def golden_stages(bundle: Bundle) -> ReferenceStages:
    """The network's inside as the golden file keeps it."""
    golden = bundle.golden
    sums = tuple(np.split(golden.pre_activations, np.cumsum(golden.layer_widths)[:-1], axis=1))
    return ReferenceStages(
        images=golden.images[golden.layer_rows],
        real=golden.labels[golden.layer_rows] != NO_LABEL,
        sums=sums,
        activations=with_relu(sums)[1],
    )


def with_relu(sums: tuple[Floats, ...]) -> Inside:
    """The inside of a network with a ReLU after every layer but the last."""
    return sums, tuple(np.maximum(values, 0) for values in sums[:-1])


def reference_on_test_set(bundle: Bundle, dataset: EvaluationSet) -> Reference | None:
    """The test set with the answers that the bundle carries for it; None where they are for other images."""
    if not np.array_equal(sha256_of_test_set(dataset.test_images, dataset.test_labels), bundle.golden.test_sha256):
        return None
    return Reference(images=dataset.test_images, labels=dataset.test_labels, logits=bundle.golden.test_logits)


def recorded_reference(bundle: Bundle, dataset: EvaluationSet | None) -> ReferenceOutputs:
    """What the bundle itself carries."""
    test_set = None if dataset is None else reference_on_test_set(bundle, dataset)
    return ReferenceOutputs(
        golden=golden_reference(bundle),
        test_set=test_set,
        stages=golden_stages(bundle),
        said="PyTorch's answers in golden.npz",
        other_test_set=dataset is not None and test_set is None,
    )


def live_reference(
    images: Images,
    labels: Images,
    dataset: EvaluationSet | None,
    answer: Callable[[Images], Logits],
    inside: Callable[[Images], Inside | None],
    said: str,
) -> ReferenceOutputs:
    """What another model answers, asked live.

    Args:
        images, labels: golden inputs, uint8 (M, 28, 28) and (M,).
        dataset: whose test set is asked too.
        answer: uint8 (N, 28, 28) to logits float32 (N, 10).
        inside: the same to the stages, or None where they cannot be had.
        said: what that model is, for the report.
    """
    rows = layer_rows(labels)
    stages = inside(images[rows])
    return ReferenceOutputs(
        golden=Reference(images=images, labels=labels, logits=answer(images)),
        test_set=None
        if dataset is None
        else Reference(images=dataset.test_images, labels=dataset.test_labels, logits=answer(dataset.test_images)),
        stages=None
        if stages is None
        else ReferenceStages(images=images[rows], real=labels[rows] != NO_LABEL, sums=stages[0], activations=stages[1]),
        said=said,
    )


def onnx_reference(
    other: Path, images: Images, labels: Images, dataset: EvaluationSet | None, normalization: Normalization | None
) -> ReferenceOutputs:
    """What another ONNX file answers on the CPU."""
    classifier = open_classifier(other, normalization=normalization)

    def inside(pictures: Images) -> Inside | None:
        try:
            stages = run_stages(other, pictures, normalization)
        except RefusedModelError:
            return None
        return stages.sums, stages.fed[1:]

    return live_reference(
        images,
        labels,
        dataset,
        lambda pictures: classifier.logits(pictures, batch=1000),
        inside,
        str(other),
    )


def verify_bundle(
    bundle: Bundle, truth: ReferenceOutputs, options: VerifyOptions, variants: Sequence[Variant] | None = None
) -> ParityReport:
    """Check variants of a bundle, whose bytes have been checked; all by default.

    Raises:
        BadFileError: a model breaks the contract of its manifest, or contradicts it.
        UnavailableError: the provider cannot be had.
    """
    manifest = bundle.manifest
    found = tuple(
        _check(variant.name, bundle.file(variant), variant.precision, truth, options, bundle)
        for variant in (manifest.variants if variants is None else variants)
    )
    return _report(str(bundle.folder), manifest.dataset, truth, options, found)


def verify_model(model: Path, dataset: DatasetName, truth: ReferenceOutputs, options: VerifyOptions) -> ParityReport:
    """Check one ONNX file of any origin; what it computes in is read from its graph.

    Raises:
        UnavailableError: the provider cannot be had.
        BadFileError: not an image classifier.
        UsageError: a float model that does not say how it wants its pixels.
    """
    variant = _check(model.stem, model, precision_of(model), truth, options, None)
    return _report(str(model), dataset, truth, options, (variant,))


def _report(
    model: str,
    dataset: DatasetName,
    truth: ReferenceOutputs,
    options: VerifyOptions,
    variants: tuple[VariantParity, ...],
) -> ParityReport:
    return ParityReport(
        passed=bool(variants) and all(variant.passed for variant in variants),
        model=model,
        dataset=dataset,
        settings=options.session,
        reference=truth.said,
        test_set=truth.test_set is not None,
        variants=variants,
    )


def _check(
    name: str, file: Path, precision: Precision, truth: ReferenceOutputs, options: VerifyOptions, bundle: Bundle | None
) -> VariantParity:
    requirement = Requirement(precision=precision, max_drop=options.max_drop, batches=options.batches)
    doubts: list[str] = []
    try:
        classifier = open_classifier(file, options.session, normalization=options.normalization)
        if bundle is not None:
            require_contract(bundle, classifier)
            doubts = [*_contradictions(bundle, classifier, truth), misstated_precision(file, precision)]
        found = check_parity(name, classifier, truth.golden, truth.test_set, requirement)
    except RefusedModelError as error:
        found = refused(name, error.message, len((truth.test_set or truth.golden).images), precision)
    return _add_reasons(found, doubts, _look_inside(found, file, truth, options))


def _contradictions(bundle: Bundle, classifier: Classifier, truth: ReferenceOutputs) -> list[str]:
    """What the parts of a bundle, and the test set at hand, say against each other."""
    golden = bundle.golden
    if truth.other_test_set:
        told = f"golden.npz holds PyTorch's answers for another test set than the {bundle.manifest.dataset} at hand"
        return [mismatch(bundle, classifier), told]
    labels = golden.labels[golden.labels != NO_LABEL] if truth.test_set is None else truth.test_set.labels
    return [mismatch(bundle, classifier), misstated_accuracy(bundle, labels)]


def _look_inside(
    found: VariantParity, file: Path, truth: ReferenceOutputs, options: VerifyOptions
) -> LayerReport | None:
    """Compare the stages on failure and on request."""
    if truth.stages is None or (found.passed and not options.layers):
        return None
    try:
        return compare_layers(file, found.precision, truth.stages, options.normalization)
    except RefusedModelError:
        return None
    except ModuleNotFoundError:
        if options.layers:
            raise
        return None


def _add_reasons(found: VariantParity, doubts: list[str], layers: LayerReport | None) -> VariantParity:
    reasons = [reason for reason in (*doubts, found.reason) if reason]
    # Layers rescaled against each other answer alike: what fails is the answer, and the layer says why.
    # Another architecture fails by itself: it may know the images at hand by heart.
    if layers is not None and layers.symptom and (reasons or layers.first is None):
        where = "" if layers.first is None else f"layer {layers.first} is the first that drifts, "
        reasons.append(f"{where}{layers.symptom}: {layers.detail}")
    return dataclasses.replace(found, layers=layers, passed=not reasons, reason="; ".join(reasons))
