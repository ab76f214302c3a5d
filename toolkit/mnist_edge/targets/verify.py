"""Verify what a target makes of a variant: build it, run it on a device, and compare its logits with those it owes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.errors import UsageError
from mnist_edge.pixels import logits_sha256
from mnist_edge.records.bundle import Variant
from mnist_edge.records.verification import ParityReport, VariantParity
from mnist_edge.runtime.classifier import TIMEOUT_SECONDS, open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.bounded import Recorder, beyond_bound
from mnist_edge.targets.golden import golden_rows
from mnist_edge.targets.owed import Owed, owed_outputs
from mnist_edge.targets.target import Target, TargetProgram
from mnist_edge.verification.certified import ONLY_PROGRAM, PROGRAM_WITHIN
from mnist_edge.verification.consistency import contradictions, misstated_variant
from mnist_edge.verification.parity import check_parity, failed_parity
from mnist_edge.verification.reference import ReferenceOutputs
from mnist_edge.verification.requirement import Requirement


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What is run, and where.

    Attributes:
        device: of the target.
        built: a folder that was built before; None builds one for the verification.
        images: test images to run, and at most as many golden ones; None for all.
        timeout: seconds that one run may take, besides those that a slow device needs for its images.
    """

    device: str
    built: Path | None = None
    images: int | None = None
    timeout: float = TIMEOUT_SECONDS


def expressible(
    bundle: Bundle, variants: Sequence[Variant], target: Target, notify: Callable[[str], None]
) -> tuple[Variant, ...]:
    """Return the variants that a target can express, and report the others.

    Raises:
        UsageError: it can express none of them.
    """
    found: list[Variant] = []
    refused: list[UsageError] = []
    for variant in variants:
        try:
            target.require_expressible(bundle, variant)
            found.append(variant)
        except UsageError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for refusal in refused:
        notify(f"left out: {refusal.message}")
    return tuple(found)


def verify_programs(
    bundle: Bundle,
    variants: Sequence[Variant],
    target: Target,
    reference: ReferenceOutputs,
    options: TargetOptions,
) -> ParityReport:
    """Compare the logits of a target's programs with those that they owe.

    Args:
        bundle: holds the variants.
        variants: that the programs are generated from; one where `options.built` names a folder.
        target: builds and opens the folders.
        reference: PyTorch's outputs as the bundle records them.
        options: device, folder and number of images.

    Raises:
        UsageError: the target cannot express a variant.
        BadFileError: a model contradicts its manifest.
        UnavailableError: the device lacks a compiler or an emulator.
    """
    found = tuple(_verify_variant(bundle, variant, target, reference, options) for variant in variants)
    return ParityReport(
        passed=bool(found) and all(variant.passed for variant in found),
        model=str(options.built or bundle.folder),
        dataset=bundle.manifest.dataset,
        settings=None,
        outputs=None,
        reference=reference.description,
        test_set=reference.test_set is not None and options.device not in target.golden_only,
        target=target.name,
        device=options.device,
        variants=found,
    )


def compared_images(
    bundle: Bundle, target: Target, reference: ReferenceOutputs, options: TargetOptions
) -> ReferenceOutputs:
    """Return a reference with the images alone that programs are run on, in the order in which a report numbers them."""
    every = Owed(golden=reference.golden, test_set=reference.test_set, description="", equal=False)
    run = _run_images(every, bundle, target, options)
    return dataclasses.replace(reference, golden=run.golden, test_set=run.test_set)


def _run_images(owed: Owed, bundle: Bundle, target: Target, options: TargetOptions) -> Owed:
    """Return what is owed for the images that a program is run on."""
    if options.device in target.golden_only:
        return owed.golden_rows(golden_rows(bundle.golden.labels))
    return owed.first(options.images)


def _verify_variant(
    bundle: Bundle, variant: Variant, target: Target, reference: ReferenceOutputs, options: TargetOptions
) -> VariantParity:
    """Compare one program, after what the bundle states of its variant: it is compared with the variant's own integers."""
    owed = owed_outputs(bundle, variant, reference)
    problem = _contradiction(bundle, variant, reference) or owed.misrecorded(variant.outputs_sha256)
    whole = options.images is None and options.device not in target.golden_only
    owed = _run_images(owed, bundle, target, options)
    requirement = Requirement(
        kind="exact",
        precision=variant.precision,
        all_batches=target.all_batches,
        outputs_sha256=variant.outputs_sha256 if whole else None,
    )
    within = False
    with tempfile.TemporaryDirectory(prefix="mnist-edge-target-") as place:
        folder = options.built or Path(place) / f"{target.name}{target.suffix}"
        if options.built is None:
            target.build(bundle, variant, folder)
        try:
            with target.open(folder, options.device, options.timeout) as program:
                recorder = Recorder(predictor=program)
                found = check_parity(variant.name, recorder, owed.golden, owed.test_set, requirement)
                problem = problem or found.reason or _inequality(found, owed)
                beyond = beyond_bound(bundle.file(variant), recorder.runs)
                within = beyond == ""
                problem = problem or beyond or ""
                problem = problem or _self_test_problem(program, bundle)
                if whole and owed.test_set is not None:
                    problem = problem or misstated_variant(variant, found.accuracy)
        except RefusedModelError as error:
            problem = problem or error.message
            found = failed_parity(variant.name, requirement, problem, len((owed.test_set or owed.golden).images))
    return dataclasses.replace(
        found,
        reference=owed.description,
        certificate_reason=PROGRAM_WITHIN if within else ONLY_PROGRAM,
        passed=not problem,
        reason=problem,
    )


def _contradiction(bundle: Bundle, variant: Variant, reference: ReferenceOutputs) -> str:
    """Return what the bundle states wrongly of a variant, or an empty string."""
    try:
        classifier = open_classifier(bundle.file(variant))
    except RefusedModelError as error:
        return error.message
    return "; ".join(contradictions(bundle, variant, classifier, reference))


def _inequality(found: VariantParity, owed: Owed) -> str:
    """Return how logits that must be equal differ, or an empty string."""
    if not owed.equal or found.max_abs_error == 0:
        return ""
    return f"logits differ by up to {found.max_abs_error:.3g}; integers owe the same bytes"


def _self_test_problem(program: TargetProgram, bundle: Bundle) -> str:
    """Return what is wrong with the self-test of a program whose logits are right, or an empty string.

    It runs on the same device, so its sha256 must be that of the logits that the program returns for the same images.
    """
    reported = program.self_test()
    if reported is None:
        return ""
    images = bundle.golden.images[golden_rows(bundle.golden.labels)]
    if reported.images != len(images):
        return f"its self-test runs {reported.images} golden images, expected {len(images)}"
    expected = logits_sha256(program.logits(images))
    if reported.sha256 != expected:
        return f"its self-test runs other images: sha256 {reported.sha256[:16]}..., expected {expected[:16]}..."
    return ""
