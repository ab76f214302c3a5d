"""Compare one model's logits with the reference's: count, shape, finiteness, every value, every prediction.

`np.allclose` would broadcast and pass on zero rows, and a mean error hides a single wrong image. So count and shape come
first, then finiteness, then the largest error, then the predictions one by one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.errors import UsageError
from mnist_edge.pixels import Logits, logits_bytes
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.predictor import Predictor
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.stats import upper_bound95
from mnist_edge.verification.margins import MarginCounter, top2_margins
from mnist_edge.verification.paired import PairedCounts, inferiority
from mnist_edge.verification.reference import Reference, StoredReference
from mnist_edge.verification.requirement import BATCHES, EXACT, TOLERANCE, Requirement
from mnist_edge.verification.symptoms import Drift, drift

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


class _Tally:
    """Logits of a model and of its reference on one set of images, compared part by part.

    Attributes:
        malformed: how shape or values are wrong, in a sentence; nothing is counted from then on.
        images, changed: how many were compared, and how many of their predictions differ.
        largest_changed: largest margin of the reference among those.
        paired: predictions and labels.
        margins: of the reference.
    """

    def __init__(self, requirement: Requirement) -> None:
        self.requirement = requirement
        self.malformed = ""
        self.images = self.changed = 0
        self.largest_changed = 0.0
        self.paired = PairedCounts()
        self.margins = MarginCounter()
        self._digest = hashlib.sha256()
        self._drift = Drift()
        self._error = self._relative = 0.0
        self._worst = 0

    @property
    def sha256(self) -> str:
        """Of the model's logits, as `pixels.logits_sha256` computes it."""
        return self._digest.hexdigest()

    def add(self, logits: Logits, reference: Reference) -> None:
        """Compare the next images."""
        self.malformed = self.malformed or _malformed(logits, reference.logits, self.images)
        if self.malformed:
            return
        predicted, expected = np.asarray(logits.argmax(axis=1)), np.asarray(reference.logits.argmax(axis=1))
        rows = _measured_rows(reference, self.requirement)
        if self.requirement.kind != "accuracy":
            self._measure(logits[rows].astype(np.float64), reference.logits[rows].astype(np.float64), rows)
            self.margins.add(reference.logits, predicted, rows)
        changed = predicted != expected
        if changed.any():
            margins = top2_margins(reference.logits[changed])
            self.largest_changed = max(self.largest_changed, float(margins.max()))
        self.changed += int(changed.sum())
        self.paired.add(predicted, expected, reference.labels)
        self._digest.update(logits_bytes(logits))
        self.images += len(logits)

    def _measure(self, found: NDArray[np.float64], expected: NDArray[np.float64], rows: NDArray[np.intp]) -> None:
        difference = np.abs(found - expected)  # (R, 10)
        relative = difference.max(axis=1) / np.maximum(1.0, np.abs(expected).max(axis=1))  # (R,)
        if relative.max() > self._relative:
            self._relative, self._worst = float(relative.max()), self.images + int(rows[relative.argmax()])
        self._error = max(self._error, float(difference.max()))
        self._drift.add(found, expected)

    def judge(self, where: str, comparison: _Comparison) -> None:
        """Record the largest errors, and the reason if a check fails; for `accuracy`, check shape and finiteness only."""
        if self.malformed or self.requirement.kind == "accuracy":
            comparison.fail(self.malformed and f"{where} {self.malformed}")
            return
        comparison.errors.append(self._error)
        comparison.relative.append(self._relative)
        if not comparison.exact:
            drifted, allowed = self._drift.value, self.requirement.allowed_drift
            if drifted > allowed:
                precision = self.requirement.precision
                comparison.fail(f"{where} logits drift by {drifted:.2g}, {precision} explains {allowed:g}")
        elif self._relative > TOLERANCE:
            comparison.fail(
                f"{where} logits differ by up to {self._error:.3g} (image {self._worst}: {self._relative:.2g} of its "
                f"largest, allowed {TOLERANCE:g}), and {self.changed} of {self.images} predictions"
            )

    def judge_bytes(self, recorded: str, where: str, comparison: _Comparison) -> None:
        """Record a failure where the logits are not those of this sha256."""
        if self.sha256 != recorded:
            comparison.fail(
                f"{where} logits are not the recorded bytes: their sha256 is {self.sha256[:16]}..., expected "
                f"{recorded[:16]}..."
            )


def _measured_rows(reference: Reference, requirement: Requirement) -> NDArray[np.intp]:
    """Return the images whose logits count.

    For a lossy model, only those with a label: a quantiser is calibrated on images, not on random pixels.
    """
    real = reference.labels != NO_LABEL
    return np.flatnonzero(real if real.any() and requirement.kind != "exact" else np.ones(len(real), bool))


def check_parity(
    name: str,
    predictor: Predictor,
    golden: Reference | None,
    test_set: Reference | StoredReference | None,
    requirement: Requirement = EXACT,
) -> VariantParity:
    """Compare a model with its reference on the golden inputs, and on the test set where it is available.

    Args:
        name: of the variant.
        predictor: the model, in whatever runtime.
        golden: run at batch 1, 2, 3, 7, 64, all and those requested (a fixed-batch model at its own); None where only
            outputs for the test set were recorded.
        test_set: all test images; flips and accuracy are then counted on these. Those of a file are run part by part.
        requirement: what it must prove.

    Returns:
        The result; `passed` is False, with a reason, at the first check that fails.

    Raises:
        UsageError: a requested batch cannot be run: it is larger than the golden inputs, or other than the only size
            that the model takes.
    """
    compared = [reference for reference in (golden, test_set) if reference is not None]
    if not compared or min(len(reference) for reference in compared) == 0:
        return failed_parity(name, requirement, "there is no image to compare", 0)
    comparison = _Comparison(requirement=requirement)
    batches: tuple[int, ...] = ()
    tally: _Tally | None = None
    if golden is not None:
        batches = _batches(predictor.fixed_batch, len(golden.images), requirement)
        tally = _run_golden(predictor, golden, batches, comparison)
    golden_passed = golden is not None and not comparison.reason
    if test_set is not None:
        tally = _run_test_set(predictor, test_set, comparison)
        if golden_passed and comparison.reason:
            comparison.reason += "; the golden inputs alone pass: it may have memorised them"
    return _result(name, comparison, len(compared[-1]), tally, batches)


def _run_test_set(
    predictor: Predictor, test_set: Reference | StoredReference, comparison: _Comparison
) -> _Tally | None:
    """Compare the test set; return None where a part of it cannot be run."""
    tally = _Tally(comparison.requirement)
    try:
        for part in test_set.parts():
            tally.add(predictor.logits(part.images, batch=TEST_BATCH), part)
    except RefusedModelError as error:
        comparison.fail(error.message)
        return None
    tally.judge("on the test set", comparison)
    own = not isinstance(test_set, StoredReference) or test_set.own
    if comparison.requirement.outputs_sha256 is not None and own:
        tally.judge_bytes(comparison.requirement.outputs_sha256.test, "on the test set", comparison)
    return tally


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
) -> _Tally | None:
    """Compare the golden inputs at every batch size; return the comparison of the last one, None where a size failed."""
    tally: _Tally | None = None
    first: Logits | None = None
    failed: dict[int | None, str] = {}
    for batch in batches or (None,):
        try:
            logits = predictor.logits(golden.images, batch)
        except RefusedModelError as error:
            failed[batch] = error.message
            continue
        where = "on the golden inputs" if batch is None else f"at batch {batch}"
        tally = _Tally(comparison.requirement)
        tally.add(logits, golden)
        tally.judge(where, comparison)
        if comparison.requirement.outputs_sha256 is not None:
            tally.judge_bytes(comparison.requirement.outputs_sha256.golden, where, comparison)
        if comparison.requirement.kind == "accuracy" and not comparison.reason:
            first = logits if first is None else first
            _compare_batches(logits, first, where, comparison)
    if failed:
        batch, message = next(iter(failed.items()))
        ran = [str(size) for size in batches if size not in failed]
        only = f"it runs only at batch {', '.join(ran)}, its batch size is baked in: " if ran else ""
        comparison.fail(message if batch is None else f"at batch {batch} {only}{message}")
        return None
    return tally


def _compare_batches(logits: Logits, first: Logits, where: str, comparison: _Comparison) -> None:
    """Compare a model that must meet accuracy alone with its own logits at the first batch size."""
    drifted, allowed = drift(logits.astype(np.float64), first.astype(np.float64)), comparison.requirement.allowed_drift
    if drifted > allowed:
        comparison.fail(f"{where} its logits drift by {drifted:.2g} from its own at another batch size")


def _malformed(logits: Logits, expected: Logits, start: int) -> str:
    """Return how shape or values are wrong, in a sentence, or an empty string; `start` is the number of the first image."""
    if logits.shape != expected.shape:
        return f"it returns {logits.shape}, the reference {expected.shape}"
    if not np.isfinite(logits).all():
        bad = start + int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        return f"the logits of image {bad} are NaN or infinite"
    if not np.isfinite(expected).all():
        return "the reference's own logits are NaN or infinite: there is nothing to compare with"
    return ""


def _result(
    name: str, comparison: _Comparison, images: int, tally: _Tally | None, batches: tuple[int, ...]
) -> VariantParity:
    requirement = comparison.requirement
    if tally is None or tally.malformed:
        found = failed_parity(name, requirement, comparison.reason, images)
        return dataclasses.replace(
            found,
            max_abs_error=max(comparison.errors, default=None),
            max_relative_error=max(comparison.relative, default=None),
            batches=batches,
        )
    margins = None if requirement.kind == "accuracy" else tally.margins.result(max(comparison.errors))
    # Only an error within the tolerance makes a tie: a broken model is not excused by the size of its error.
    within_tolerance = comparison.exact and not comparison.reason
    tied = within_tolerance and margins is not None and tally.largest_changed <= 2 * margins.error
    ties = tally.changed if tied else 0
    flips = tally.changed - ties
    accuracy = tally.paired.result(requirement.max_drop)
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
        ties=ties,
        max_abs_error=max(comparison.errors, default=None),
        max_relative_error=max(comparison.relative, default=None),
        accuracy=accuracy,
        margins=margins,
        batches=batches,
        layers=None,
        passed=comparison.reason == "",
        reason=comparison.reason,
        outputs_sha256=tally.sha256,
    )
