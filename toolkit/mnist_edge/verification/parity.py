"""Hold one model against the reference's logits: count, shape, finiteness, every number, every decision.

`np.allclose` would broadcast and pass on zero rows, and mean errors hide a single wrong answer; so
count and shape come first, then finiteness, then the largest error, then the decisions one by one.
A lossy variant cannot meet the tolerance; instead its logits must not drift by more than its precision
explains, and it must not lose accuracy, as far as the images can show.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.contract import Precision
from mnist_edge.errors import UsageError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import PairedAccuracy, VariantParity
from mnist_edge.runtime.predictor import Predictor
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.stats import mcnemar_exact, paired_drop_upper95, upper_bound95
from mnist_edge.verification.margins import certify
from mnist_edge.verification.symptoms import ALLOWED, drift

TOLERANCE = 1e-4
"""Largest logit error allowed in fp32, relative to the image's largest logit (or to 1 where that is smaller).
float32 rounding over 784 terms stays near 1e-6; one weight row scaled by 1 % gives about 1e-3."""
BATCHES = (1, 2, 3, 7, 64)
"""Besides all at once: alone, the smallest even and odd sizes, another odd one, a usual one."""
MAX_DROP = 0.001
"""Accuracy that a lossy variant may lose, as a fraction of 1."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs with the reference's answers.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: uint8 (N,), 255 where there is none.
        logits: float32 (N, 10).
    """

    images: Images
    labels: Images
    logits: Logits


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a variant is held to.

    Attributes:
        precision: fp32 must meet the tolerance, a lossy one must not drift, nor lose accuracy.
        max_drop: of accuracy, a fraction of 1.
        batches: batch sizes to run besides the usual ones.
    """

    precision: Precision = "fp32"
    max_drop: float = MAX_DROP
    batches: tuple[int, ...] = ()


@dataclass
class _Seen:
    """What the runs so far have shown; the first reason stays."""

    precision: Precision
    reason: str = ""
    errors: list[float] = field(default_factory=lambda: [0.0])
    relative: list[float] = field(default_factory=lambda: [0.0])

    @property
    def exact(self) -> bool:
        """Whether every logit is owed, and not the decisions alone."""
        return self.precision == "fp32"


def check_parity(
    name: str,
    predictor: Predictor,
    golden: Reference,
    test_set: Reference | None,
    requirement: Requirement = Requirement(),
) -> VariantParity:
    """Compare a model with the reference on the golden inputs, and on the test set where it is at hand.

    Args:
        name: of the variant.
        predictor: the model, in whatever runtime.
        golden: run at batch 1, 2, 3, 7, 64, all and those demanded (a fixed-batch model at its own).
        test_set: all test images; decisions are then counted on these.
        requirement: what it is held to.

    Returns:
        The findings; `passed` is False with a reason at the first thing that is wrong.

    Raises:
        UsageError: a batch is demanded that cannot be run: more than there are golden images, or other than a
            fixed-batch model's own.
    """
    counted = test_set or golden
    if min(len(golden.images), len(counted.images)) == 0:
        return refused(name, "there is no image to compare", 0, requirement.precision)
    batches = _batches(predictor.fixed_batch, len(golden.images), requirement.batches)
    seen = _Seen(precision=requirement.precision)
    answers = _run_golden(predictor, golden, batches, seen)
    golden_passed = not seen.reason
    if test_set is not None:
        try:
            answers = predictor.logits(test_set.images, batch=1000)
            _judge(answers, test_set, "on the test set", seen)
        except RefusedModelError as error:
            seen.reason, answers = seen.reason or error.message, None
        if golden_passed and seen.reason:
            seen.reason += "; the golden inputs alone pass: it may know these by heart"
    return _verdict(name, seen, counted, answers, batches, requirement)


def _batches(fixed: int | None, images: int, required: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes to run, each once, and only such as there are images for."""
    if fixed:
        if set(required) - {fixed}:
            raise UsageError(f"the model takes only batch {fixed}", hint=f"--batch {fixed}, or leave it out")
        return (fixed,)
    if max(required, default=0) > images:
        raise UsageError(
            f"batch {max(required)} cannot be run: there are {images} golden images",
            hint=f"--batch {images} is the largest",
        )
    return tuple(dict.fromkeys((*(batch for batch in BATCHES if batch <= images), *required, images)))


def refused(name: str, reason: str, images: int, precision: Precision) -> VariantParity:
    """What cannot even be run decides nothing as the reference does."""
    return VariantParity(
        name=name,
        precision=precision,
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


def _run_golden(predictor: Predictor, golden: Reference, batches: tuple[int, ...], seen: _Seen) -> Logits | None:
    """Judge the golden inputs at every batch size; return the answers of the last."""
    answers: Logits | None = None
    failed: dict[int, str] = {}
    for batch in batches:
        try:
            answers = predictor.logits(golden.images, batch)
        except RefusedModelError as error:
            failed[batch] = error.message
            continue
        _judge(answers, golden, f"at batch {batch}", seen)
    if failed:
        first, message = next(iter(failed.items()))
        ran = [str(batch) for batch in batches if batch not in failed]
        baked = f"it runs only at batch {', '.join(ran)}, its batch size is baked in: " if ran else ""
        seen.reason = seen.reason or f"at batch {first} {baked}{message}"
        return None
    return answers


def _verdict(
    name: str,
    seen: _Seen,
    counted: Reference,
    answers: Logits | None,
    batches: tuple[int, ...],
    requirement: Requirement,
) -> VariantParity:
    predicted = _comparable(answers, counted.logits)
    if predicted is None:
        found = refused(name, seen.reason, len(counted.images), requirement.precision)
        return _replace(found, seen, batches)
    margins = certify(counted.logits, predicted, max(seen.errors), _rows_owed(counted, seen))
    changed = set(np.flatnonzero(predicted != counted.logits.argmax(axis=1)).tolist())
    # Only an error within the tolerance makes a tie: a broken model is not excused by its size.
    undecided = {image.image for image in margins.uncertified} if seen.exact and not seen.reason else set()
    flips = len(changed - undecided)
    accuracy = _paired(predicted, counted, requirement.max_drop)
    reason = seen.reason
    if not reason and seen.exact and flips:
        reason = f"{flips} of {len(counted.images)} decisions differ from the reference's"
    if not reason and not seen.exact:
        reason = _lost(accuracy)
    return VariantParity(
        name=name,
        precision=requirement.precision,
        images=len(counted.images),
        flips=flips,
        flip_rate_upper95=upper_bound95(flips, len(counted.images)),
        ties=len(changed & undecided),
        max_abs_error=max(seen.errors),
        max_relative_error=max(seen.relative),
        accuracy=accuracy,
        margins=margins,
        batches=batches,
        layers=None,
        passed=reason == "",
        reason=reason,
    )


def _replace(found: VariantParity, seen: _Seen, batches: tuple[int, ...]) -> VariantParity:
    import dataclasses

    return dataclasses.replace(
        found, max_abs_error=max(seen.errors), max_relative_error=max(seen.relative), batches=batches
    )


def _judge(answers: Logits, expected: Reference, where: str, seen: _Seen) -> None:
    """Note the largest errors, and what is wrong if it is the first."""
    problem = _form(answers, expected.logits, where)
    if problem:
        seen.reason = seen.reason or problem
        return
    rows = _rows_owed(expected, seen)
    logits = expected.logits[rows]
    difference = np.abs(answers[rows].astype(np.float64) - logits)
    by_image = difference.max(axis=1) / np.maximum(1.0, np.abs(logits).max(axis=1))
    seen.errors.append(float(difference.max()))
    seen.relative.append(float(by_image.max()))
    drifted = drift(answers[rows].astype(np.float64), logits.astype(np.float64))
    if not seen.exact and drifted > ALLOWED[seen.precision]:
        seen.reason = seen.reason or (
            f"{where} logits drift by {drifted:.2g}, {seen.precision} explains {ALLOWED[seen.precision]:g}"
        )
    if seen.exact and by_image.max() > TOLERANCE:
        worst = int(by_image.argmax())
        flips = int((answers.argmax(axis=1) != expected.logits.argmax(axis=1)).sum())
        seen.reason = seen.reason or (
            f"{where} logits differ by up to {difference.max():.3g} (image {worst}: {by_image[worst]:.2g} of its largest, "
            f"allowed {TOLERANCE:g}), and {flips} of {len(answers)} decisions"
        )


def _rows_owed(expected: Reference, seen: _Seen) -> NDArray[np.intp]:
    """The images whose logits count: a lossy model owes nothing on noise, it was calibrated on pictures."""
    real = expected.labels != NO_LABEL
    return np.flatnonzero(real if real.any() and not seen.exact else np.ones(len(real), bool))


def _form(answers: Logits, expected: Logits, where: str) -> str:
    """Return what is wrong with the form of the answers in a sentence, or nothing."""
    if answers.shape != expected.shape:
        return f"{where} it answers {answers.shape}, the reference {expected.shape}"
    if not np.isfinite(answers).all():
        bad = int(np.flatnonzero(~np.isfinite(answers).all(axis=1))[0])
        return f"{where} the logits of image {bad} are NaN or infinite"
    if not np.isfinite(expected).all():
        return f"{where} the reference's own logits are NaN or infinite: there is nothing to hold it against"
    return ""


def _comparable(answers: Logits | None, expected: Logits) -> NDArray[np.intp] | None:
    if answers is None or _form(answers, expected, ""):
        return None
    return np.asarray(answers.argmax(axis=1))


def _paired(predicted: NDArray[np.intp], counted: Reference, max_drop: float) -> PairedAccuracy | None:
    """Accuracy of both models on the labelled images, and what the two together show."""
    labelled = counted.labels != NO_LABEL
    count = int(labelled.sum())
    if count == 0:
        return None
    truth = counted.labels[labelled]
    ours = predicted[labelled] == truth
    theirs = counted.logits[labelled].argmax(axis=1) == truth
    lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    bound = paired_drop_upper95(lost, won, count)
    return PairedAccuracy(
        images=count,
        reference=float(theirs.mean()),
        variant=float(ours.mean()),
        only_reference_right=lost,
        only_variant_right=won,
        mcnemar_p=mcnemar_exact(lost, won),
        drop_upper95=bound,
        max_drop=max_drop,
        non_inferior=bound <= max_drop,
    )


def _lost(accuracy: PairedAccuracy | None) -> str:
    """Why a lossy variant is not shown to be as accurate, or nothing."""
    if accuracy is None:
        return "no image has a label: a lossy variant cannot be judged"
    if accuracy.non_inferior:
        return ""
    if paired_drop_upper95(0, 0, accuracy.images) > accuracy.max_drop:
        return (
            f"{accuracy.images} images cannot show that it loses at most {accuracy.max_drop:.2%} accuracy: "
            "give the test set, or a larger --max-accuracy-drop"
        )
    return (
        f"it may lose up to {accuracy.drop_upper95:.3%} accuracy (95 % confidence; allowed {accuracy.max_drop:.2%}): "
        f"{accuracy.reference:.2%} becomes {accuracy.variant:.2%}, {accuracy.only_reference_right} images lost, "
        f"{accuracy.only_variant_right} won"
    )
