"""Compare one model's logits with the reference's: count, shape, finiteness, every value, every prediction.

`np.allclose` would broadcast and pass on zero rows, and a mean error hides a single wrong image. So count and shape come
first, then finiteness, then the largest error, then the predictions one by one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.errors import UsageError
from mnist_edge.pixels import Logits, logits_sha256
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.predictor import Predictor
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.stats import upper_bound95
from mnist_edge.verification.margins import compare_margins
from mnist_edge.verification.paired import inferiority, paired_accuracy
from mnist_edge.verification.reference import Reference
from mnist_edge.verification.requirement import BATCHES, EXACT, TOLERANCE, Requirement
from mnist_edge.verification.symptoms import drift

TEST_BATCH = 1000
"""Images a run on the test set: the activations of 10,000 at once would take 90 MB."""


@dataclass
class _Comparison:
    """Errors and result of the comparisons so far; the first reason for failure is kept."""

    requirement: Requirement
    reason: str = ""
    errors: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return self.requirement.kind == "exact"

    def fail(self, reason: str) -> None:
        self.reason = self.reason or reason

    def rows(self, reference: Reference) -> NDArray[np.intp]:
        """Return the images whose logits count.

        For a lossy model, only those with a label: a quantiser is calibrated on images, not on random pixels.
        """
        real = reference.labels != NO_LABEL
        return np.flatnonzero(real if real.any() and not self.exact else np.ones(len(real), bool))


def check_parity(
    name: str,
    predictor: Predictor,
    golden: Reference | None,
    test_set: Reference | None,
    requirement: Requirement = EXACT,
) -> VariantParity:
    """Compare a model with its reference on the golden inputs, and on the test set where it is available.

    Args:
        name: of the variant.
        predictor: the model, in whatever runtime.
        golden: run at batch 1, 2, 3, 7, 64, all and those requested (a fixed-batch model at its own); None where only
            outputs for the test set were recorded.
        test_set: all test images; flips and accuracy are then counted on these.
        requirement: what it must prove.

    Returns:
        The result; `passed` is False, with a reason, at the first check that fails.

    Raises:
        UsageError: a requested batch cannot be run: it is larger than the golden inputs, or other than the only size
            that the model takes.
    """
    compared = [reference for reference in (golden, test_set) if reference is not None]
    if not compared or min(len(reference.images) for reference in compared) == 0:
        return failed_parity(name, requirement, "there is no image to compare", 0)
    comparison = _Comparison(requirement=requirement)
    batches: tuple[int, ...] = ()
    logits: Logits | None = None
    if golden is not None:
        batches = _batches(predictor.fixed_batch, len(golden.images), requirement)
        logits = _run_golden(predictor, golden, batches, comparison)
    golden_passed = golden is not None and not comparison.reason
    if test_set is not None:
        logits = None
        try:
            logits = predictor.logits(test_set.images, batch=TEST_BATCH)
            _compare(logits, test_set, "on the test set", comparison)
            if requirement.outputs_sha256 is not None:
                _compare_bytes(logits, requirement.outputs_sha256.test, "on the test set", comparison)
        except RefusedModelError as error:
            comparison.fail(error.message)
        if golden_passed and comparison.reason:
            comparison.reason += "; the golden inputs alone pass: it may have memorised them"
    return _result(name, comparison, compared[-1], logits, batches)


def failed_parity(name: str, requirement: Requirement, reason: str, images: int) -> VariantParity:
    """Return the result of a model that cannot be run: every prediction counts as a flip."""
    return VariantParity(
        name=name,
        precision=requirement.precision,
        requirement=requirement.kind,
        reference="",
        images=images,
        flips=images,
        flip_rate_upper95=1.0,
        ties=0,
        max_abs_error=None,
        max_relative_error=None,
        accuracy=None,
        margins=None,
        batches=(),
        layers=None,
        passed=False,
        reason=reason,
    )


def _batches(fixed: int | None, images: int, requirement: Requirement) -> tuple[int, ...]:
    """Return the batch sizes to run, each once, and only those that there are images for."""
    if not requirement.all_batches:
        return ()
    requested = requirement.batches
    if fixed:
        if set(requested) - {fixed}:
            raise UsageError(f"the model takes only batch {fixed}", hint=f"--batch {fixed}, or leave it out")
        return (fixed,)
    if max(requested, default=0) > images:
        raise UsageError(
            f"batch {max(requested)} cannot be run: there are {images} golden images",
            hint=f"--batch {images} is the largest",
        )
    return tuple(dict.fromkeys((*(batch for batch in BATCHES if batch <= images), *requested, images)))


def _run_golden(
    predictor: Predictor, golden: Reference, batches: tuple[int, ...], comparison: _Comparison
) -> Logits | None:
    """Compare the golden inputs at every batch size; return the logits of the last one, None where a size failed."""
    logits: Logits | None = None
    first: Logits | None = None
    failed: dict[int | None, str] = {}
    for batch in batches or (None,):
        try:
            logits = predictor.logits(golden.images, batch)
        except RefusedModelError as error:
            failed[batch] = error.message
            continue
        where = "on the golden inputs" if batch is None else f"at batch {batch}"
        _compare(logits, golden, where, comparison)
        if comparison.requirement.outputs_sha256 is not None:
            _compare_bytes(logits, comparison.requirement.outputs_sha256.golden, where, comparison)
        if comparison.requirement.kind == "accuracy" and not comparison.reason:
            first = logits if first is None else first
            _compare_batches(logits, first, where, comparison)
    if failed:
        batch, message = next(iter(failed.items()))
        ran = [str(size) for size in batches if size not in failed]
        only = f"it runs only at batch {', '.join(ran)}, its batch size is baked in: " if ran else ""
        comparison.fail(message if batch is None else f"at batch {batch} {only}{message}")
        return None
    return logits


def _compare(logits: Logits, reference: Reference, where: str, comparison: _Comparison) -> None:
    """Record the largest errors, and the reason if a check fails; for `accuracy`, check shape and finiteness only."""
    problem = _malformed(logits, reference.logits, where)
    if problem or comparison.requirement.kind == "accuracy":
        comparison.fail(problem)
        return
    rows = comparison.rows(reference)
    expected = reference.logits[rows].astype(np.float64)  # (R, 10)
    found = logits[rows].astype(np.float64)
    difference = np.abs(found - expected)
    relative = difference.max(axis=1) / np.maximum(1.0, np.abs(expected).max(axis=1))  # (R,)
    comparison.errors.append(float(difference.max()))
    comparison.relative.append(float(relative.max()))
    if not comparison.exact:
        drifted, allowed = drift(found, expected), comparison.requirement.allowed_drift
        if drifted > allowed:
            precision = comparison.requirement.precision
            comparison.fail(f"{where} logits drift by {drifted:.2g}, {precision} explains {allowed:g}")
    elif relative.max() > TOLERANCE:
        worst = int(relative.argmax())
        flips = int((logits.argmax(axis=1) != reference.logits.argmax(axis=1)).sum())
        comparison.fail(
            f"{where} logits differ by up to {difference.max():.3g} (image {worst}: {relative[worst]:.2g} of its largest, "
            f"allowed {TOLERANCE:g}), and {flips} of {len(logits)} predictions"
        )


def _compare_batches(logits: Logits, first: Logits, where: str, comparison: _Comparison) -> None:
    """Compare a model that must meet accuracy alone with its own logits at the first batch size."""
    drifted, allowed = drift(logits.astype(np.float64), first.astype(np.float64)), comparison.requirement.allowed_drift
    if drifted > allowed:
        comparison.fail(f"{where} its logits drift by {drifted:.2g} from its own at another batch size")


def _compare_bytes(logits: Logits, recorded: str, where: str, comparison: _Comparison) -> None:
    found = logits_sha256(logits)
    if found != recorded:
        comparison.fail(
            f"{where} logits are not the recorded bytes: their sha256 is {found[:16]}..., expected {recorded[:16]}..."
        )


def _malformed(logits: Logits, expected: Logits, where: str) -> str:
    """Return how shape or values are wrong, in a sentence, or an empty string."""
    if logits.shape != expected.shape:
        return f"{where} it returns {logits.shape}, the reference {expected.shape}"
    if not np.isfinite(logits).all():
        bad = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        return f"{where} the logits of image {bad} are NaN or infinite"
    if not np.isfinite(expected).all():
        return f"{where} the reference's own logits are NaN or infinite: there is nothing to compare with"
    return ""


def _result(
    name: str, comparison: _Comparison, counted: Reference, logits: Logits | None, batches: tuple[int, ...]
) -> VariantParity:
    requirement, images = comparison.requirement, len(counted.images)
    if logits is None or _malformed(logits, counted.logits, ""):
        found = failed_parity(name, requirement, comparison.reason, images)
        return dataclasses.replace(
            found,
            max_abs_error=max(comparison.errors, default=None),
            max_relative_error=max(comparison.relative, default=None),
            batches=batches,
        )
    predicted = np.asarray(logits.argmax(axis=1))
    changed = set(np.flatnonzero(predicted != counted.logits.argmax(axis=1)).tolist())
    margins = None
    if requirement.kind != "accuracy":
        margins = compare_margins(counted.logits, predicted, max(comparison.errors), comparison.rows(counted))
    # Only an error within the tolerance makes a tie: a broken model is not excused by the size of its error.
    within_tolerance = comparison.exact and not comparison.reason
    ties = changed & {image.image for image in margins.small} if within_tolerance and margins else set()
    flips = len(changed - ties)
    accuracy = paired_accuracy(predicted, counted.logits, counted.labels, requirement.max_drop)
    if comparison.exact and flips:
        comparison.fail(f"{flips} of {images} predictions differ from the reference's")
    if not comparison.exact:
        comparison.fail(inferiority(accuracy))
    return VariantParity(
        name=name,
        precision=requirement.precision,
        requirement=requirement.kind,
        reference="",
        images=images,
        flips=flips,
        flip_rate_upper95=upper_bound95(flips, images),
        ties=len(ties),
        max_abs_error=max(comparison.errors, default=None),
        max_relative_error=max(comparison.relative, default=None),
        accuracy=accuracy,
        margins=margins,
        batches=batches,
        layers=None,
        passed=comparison.reason == "",
        reason=comparison.reason,
        outputs_sha256=logits_sha256(logits),
    )
