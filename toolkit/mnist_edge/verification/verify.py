"""Verify the variants of a bundle, any ONNX file, or recorded outputs: logits first, then the layers of what failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import (
    MAX_DROP,
    PYTORCH,
    ArithmeticName,
    DatasetName,
    Normalization,
    Precision,
    RequirementKind,
)
from mnist_edge.records.bundle import Variant
from mnist_edge.records.data import StoredSet
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.verification import LayerReport, ParityReport, VariantParity
from mnist_edge.runtime.classifier import TIMEOUT_SECONDS, Classifier, open_classifier
from mnist_edge.runtime.recorded import RecordedOutputs
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.verification.certified import ONLY_OUTPUTS, Certification, certify_model
from mnist_edge.verification.consistency import (
    contradictions,
    mismatch,
    misstated_variant,
    require_contract,
    wrong_accuracy,
)
from mnist_edge.verification.layers import NO_COMMON_LAYERS, compare_layers
from mnist_edge.verification.parity import TEST_BATCH, check_parity, failed_parity
from mnist_edge.verification.precision import precision_of
from mnist_edge.verification.reference import (
    ReferenceOutputs,
    StoredReference,
    live_on,
    onnx_reference,
    recorded_on,
    recorded_reference,
)
from mnist_edge.verification.requirement import Requirement, requirement_of, with_tf32


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Settings that the model will be deployed with, and how much to check.

    Attributes:
        session: how a model is opened.
        named: settings that the user named. The variants of a bundle are then opened with their recorded settings and
            these; None opens all of them as `session` says.
        batches: batch sizes to check besides 1, 2, 3, 7, 64 and all.
        max_drop: accuracy that a variant may lose, as a fraction of 1, where it is not exact.
        layers: compare layer outputs also where the logits agree.
        normalization: what a float model expects of its pixels, where it does not state it.
        timeout: seconds that one run may take.
        arithmetic: that predictions are certified for; None takes that of the session.
    """

    session: SessionSettings = field(default_factory=SessionSettings)
    named: Mapping[str, Any] | None = None
    batches: tuple[int, ...] = ()
    max_drop: float = MAX_DROP
    layers: bool = False
    normalization: Normalization | None = None
    timeout: float = TIMEOUT_SECONDS
    arithmetic: ArithmeticName | None = None

    @property
    def certified_arithmetic(self) -> ArithmeticName:
        """The arithmetic that predictions are certified for."""
        return self.arithmetic or ("tf32" if self.session.tf32 else "fp32")

    def of_variant(self, variant: Variant) -> VerifyOptions:
        """Return the options with the settings of a variant's session."""
        if self.named is None:
            return self
        return dataclasses.replace(self, session=variant.settings.with_named(self.named), named=None)

    def requirement(self, kind: RequirementKind, precision: Precision) -> Requirement:
        """Return the requirement of a model that runs with these settings."""
        if self.session.tf32:
            kind, precision = with_tf32(kind, precision)
        return Requirement(kind=kind, precision=precision, max_drop=self.max_drop, batches=self.batches)

    def requirement_of_variant(self, variant: Variant) -> Requirement:
        """Return the requirement of a variant that runs with these settings."""
        requirement = self.requirement(variant.requirement, variant.precision)
        return dataclasses.replace(requirement, outputs_sha256=variant.outputs_sha256)


def verify_bundle(
    bundle: Bundle, reference: ReferenceOutputs, options: VerifyOptions, variants: Sequence[Variant] | None = None
) -> ParityReport:
    """Check variants of a bundle, whose bytes have been checked; all by default.

    Args:
        bundle: holds the files.
        reference: where it is the recorded one, a variant that names another variant as its reference is compared with
            that one, run on the CPU; otherwise every variant is compared with `reference`.
        options: settings and how much to check.
        variants: of the bundle.

    Raises:
        BadFileError: a model contradicts its manifest.
        UnavailableError: the provider is not available.
    """
    chosen = bundle.manifest.variants if variants is None else variants
    found = tuple(_verify_variant(bundle, variant, reference, options.of_variant(variant)) for variant in chosen)
    return _report(str(bundle.folder), bundle.manifest.dataset, reference, found)


def verify_model(
    model: Path, dataset: DatasetName, reference: ReferenceOutputs, options: VerifyOptions
) -> ParityReport:
    """Check one ONNX file of any origin; its precision is read from its graph.

    Raises:
        UnavailableError: the provider is not available.
        BadFileError: not an image classifier.
        UsageError: a float model that does not state how its pixels are normalised.
    """
    precision = precision_of(model)
    requirement = options.requirement(requirement_of(precision), precision)
    found = _check(model.stem, model, requirement, reference, options, lambda _: ([], reference))
    return _report(str(model), dataset, reference, (found,))


def verify_outputs(
    bundle: Bundle, variant: Variant, outputs: RecordedOutputs, reference: ReferenceOutputs, options: VerifyOptions
) -> ParityReport:
    """Check recorded outputs, of any runtime, against a variant's requirement.

    Args:
        bundle: holds the golden inputs and the reference.
        variant: whose requirement the outputs must meet.
        outputs: for the golden inputs, the test set, or both.
        reference: of the bundle.
        options: for the accuracy that may be lost.
    """
    requirement = Requirement(
        kind=variant.requirement,
        precision=variant.precision,
        max_drop=options.max_drop,
        outputs_sha256=variant.outputs_sha256,
        all_batches=False,
    )
    chosen = reference_of(bundle, variant, reference)
    test_set = chosen.test_set if chosen.test_set is not None and outputs.covers(chosen.test_set.images) else None
    golden = chosen.golden if outputs.covers(chosen.golden.images) else None
    found = check_parity(variant.name, outputs, golden, test_set, requirement)
    compared = dataclasses.replace(reference, test_set=test_set)
    problems = [mismatch(bundle), wrong_accuracy(bundle, reference)]
    found = dataclasses.replace(found, reference=chosen.description, certificate_reason=ONLY_OUTPUTS)
    found = _with_reasons(found, problems, None)
    report = _report(str(bundle.folder), bundle.manifest.dataset, compared, (found,))
    return dataclasses.replace(report, outputs=outputs.name)


def reference_of(bundle: Bundle, variant: Variant, reference: ReferenceOutputs) -> ReferenceOutputs:
    """Return what a variant is compared with: the outputs of the variant that it names, or `reference`.

    Raises:
        RefusedModelError: onnxruntime cannot run the other variant.
        BadFileError: the other variant contradicts its manifest.
    """
    if variant.reference == PYTORCH or not reference.recorded:
        return reference
    other = bundle.variant(variant.reference)
    require_contract(bundle, open_classifier(bundle.file(other)))
    golden, test_set = reference.golden, reference.test_set
    outputs = onnx_reference(
        bundle.file(other),
        (golden.images, golden.labels),
        None if test_set is None else (test_set.images, test_set.labels),
        description=f"the variant {other.name}",
        stored=None if reference.stored is None else reference.stored.data,
    )
    return dataclasses.replace(
        outputs, other_test_set=reference.other_test_set, stored=with_logits_of(reference.stored, outputs.stored)
    )


def stored_reference(bundle: Bundle, data: StoredSet) -> ReferenceOutputs:
    """Return what a bundle is compared with on a set that stays in its file.

    On the test set that it was exported with, that is what it records of PyTorch. On any other set it is its first
    variant, run on the CPU: the one that `export` compared with PyTorch logit by logit.

    Raises:
        RefusedModelError: onnxruntime cannot run that variant.
        BadFileError: it contradicts its manifest.
    """
    reference = recorded_reference(bundle, None)
    recorded = recorded_on(bundle, data)
    if recorded is not None:
        return dataclasses.replace(reference, stored=recorded)
    first = bundle.manifest.variants[0]
    classifier = open_classifier(bundle.file(first))
    require_contract(bundle, classifier)
    return dataclasses.replace(
        reference,
        stored=live_on(data, lambda images: classifier.logits(images, batch=TEST_BATCH)),
        description=f"{reference.description}; on the given set, the variant {first.name} on the CPU",
    )


def with_logits_of(known: StoredReference | None, other: StoredReference | None) -> StoredReference | None:
    """Return a stored set with the logits of another reference, which does not know whose test set it is."""
    return None if known is None or other is None else dataclasses.replace(other, own=known.own)


def _report(
    model: str,
    dataset: DatasetName,
    reference: ReferenceOutputs,
    variants: tuple[VariantParity, ...],
) -> ParityReport:
    settings = {variant.settings for variant in variants}
    return ParityReport(
        passed=bool(variants) and all(variant.passed for variant in variants),
        model=model,
        dataset=dataset,
        settings=settings.pop() if len(settings) == 1 else None,
        outputs=None,
        reference=reference.description,
        test_set=reference.counted is not reference.golden,
        own_test_set=reference.stored is None or reference.stored.own,
        variants=variants,
    )


def _verify_variant(
    bundle: Bundle, variant: Variant, reference: ReferenceOutputs, options: VerifyOptions
) -> VariantParity:
    def prepare(classifier: Classifier) -> tuple[Sequence[str], ReferenceOutputs]:
        problems = contradictions(bundle, variant, classifier, reference)
        return problems, reference_of(bundle, variant, reference)

    requirement = options.requirement_of_variant(variant)
    found = _check(variant.name, bundle.file(variant), requirement, reference, options, prepare)
    own = reference.test_set is not None if reference.stored is None else reference.stored.own
    if found.passed and own:
        problem = misstated_variant(variant, found.accuracy)
        found = dataclasses.replace(found, passed=not problem, reason=problem)
    return found


def _check(
    name: str,
    file: Path,
    requirement: Requirement,
    reference: ReferenceOutputs,
    options: VerifyOptions,
    prepare: Callable[[Classifier], tuple[Sequence[str], ReferenceOutputs]],
) -> VariantParity:
    """Open a model and compare it.

    Args:
        prepare: returns the problems of the open model other than its logits, and its reference.
    """
    problems: Sequence[str] = ()
    certification = Certification(None, "the model cannot be run")
    try:
        classifier = open_classifier(
            file, options.session, normalization=options.normalization, timeout=options.timeout
        )
        problems, reference = prepare(classifier)
        test_set = reference.stored or reference.test_set
        found = check_parity(name, classifier, reference.golden, test_set, requirement)
        certification = certify_model(file, classifier, reference, requirement.kind, options.certified_arithmetic)
    except RefusedModelError as error:
        found = failed_parity(name, requirement, error.message, len(reference.counted))
    found = dataclasses.replace(
        found,
        reference=reference.description,
        settings=options.session,
        certificate=certification.certificate,
        certificate_reason=certification.reason,
    )
    return _with_reasons(found, problems, _layers(found, file, requirement, reference, options))


def _layers(
    found: VariantParity, file: Path, requirement: Requirement, reference: ReferenceOutputs, options: VerifyOptions
) -> LayerReport | None:
    """Compare layer outputs on failure and on request."""
    # An integer network has its units rescaled, so its layers would seem to drift.
    wanted = options.layers or not (found.passed or requirement.outputs_sha256)
    if reference.layers is None or not wanted:
        return None
    if requirement.kind == "accuracy":
        return NO_COMMON_LAYERS if options.layers else None
    try:
        return compare_layers(file, requirement, reference.layers, options.session, options.normalization)
    except RefusedModelError:
        return None
    except ModuleNotFoundError:
        if options.layers:
            raise
        return None


def _with_reasons(found: VariantParity, problems: Sequence[str], layers: LayerReport | None) -> VariantParity:
    reasons = list(dict.fromkeys(reason for reason in (*problems, found.reason) if reason))
    # Layers may be rescaled against each other without changing the logits, so a drifting layer alone is no failure: it
    # explains one. Another architecture is: it may have memorised the images.
    if layers is not None and layers.symptom and (reasons or layers.first is None):
        where = "" if layers.first is None else f"layer {layers.first} is the first to drift, "
        reasons.append(f"{where}{layers.symptom}: {layers.detail}")
    return dataclasses.replace(found, layers=layers, passed=not reasons, reason="; ".join(reasons))
