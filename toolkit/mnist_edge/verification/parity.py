"""Hold one model against PyTorch's logits: count, shape, finiteness, every number, every decision.

`np.allclose` would broadcast and pass on zero rows, and mean errors hide a single wrong answer; so
count and shape come first, then finiteness, then the largest error, then the decisions one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle import NO_LABEL
from mnist_edge.pixels import Images, Logits
from mnist_edge.records import Tie, VariantParity
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.stats import upper_bound95

TOLERANCE = 1e-4
"""Largest logit error allowed, relative to the image's largest logit (or to 1 where that is smaller).
float32 rounding over 784 terms stays near 1e-6; one weight row scaled by 1 % gives about 1e-3."""
BATCHES = (1, 7, 64)
"""Besides all at once: alone, an odd size, a usual one."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs with PyTorch's answers.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: uint8 (N,), 255 where there is none.
        logits: float32 (N, 10).
    """

    images: Images
    labels: Images
    logits: Logits


def check_parity(name: str, classifier: Classifier, golden: Reference, test_set: Reference | None) -> VariantParity:
    """Compare a model with PyTorch on the golden inputs, and on the test set where it is at hand.

    Args:
        name: of the variant.
        classifier: the open model.
        golden: run at batch 1, 7, 64 and all (a fixed-batch model at its own).
        test_set: all test images, run at once; decisions are then counted on these.

    Returns:
        The findings; `passed` is False with a reason at the first thing that is wrong.
    """
    batches = (classifier.fixed_batch,) if classifier.fixed_batch else (*BATCHES, len(golden.images))
    errors = [0.0]
    relative = [0.0]
    counted = test_set or golden
    reason = ""
    answers: Logits | None = None
    try:
        for batch in batches:
            answers = classifier.logits(golden.images, batch)
            reason = reason or _judge(answers, golden.logits, f"at batch {batch}", errors, relative)
        if test_set is not None:
            answers = classifier.logits(test_set.images, batch=1000)
            reason = reason or _judge(answers, test_set.logits, "on the test set", errors, relative)
    except RefusedModelError as error:
        reason, answers = reason or error.message, None
    within = reason == ""
    decided = _comparable(answers, counted.logits)
    ties: tuple[Tie, ...] = ()
    flips = len(counted.images)
    accuracy = None
    if decided is not None:
        # Only an error within the tolerance makes a tie: a broken model is not excused by its size.
        ties = _ties(counted.logits, decided, 2 * max(errors)) if within else ()
        changed = set(np.flatnonzero(decided != counted.logits.argmax(axis=1)).tolist())
        flips = len(changed - {tie.image for tie in ties})
        labelled = counted.labels != NO_LABEL
        if labelled.any():
            accuracy = float((decided[labelled] == counted.labels[labelled]).mean())
    if within and flips:
        reason = f"{flips} of {len(counted.images)} decisions differ from PyTorch's"
    return VariantParity(
        name=name,
        images=len(counted.images),
        flips=flips,
        flip_rate_upper95=upper_bound95(flips, len(counted.images)),
        max_abs_error=max(errors),
        max_relative_error=max(relative),
        accuracy=accuracy,
        ties=ties,
        batches=tuple(batch for batch in batches if batch is not None),
        passed=reason == "",
        reason=reason,
    )


def _judge(answers: Logits, expected: Logits, where: str, errors: list[float], relative: list[float]) -> str:
    """Return what is wrong in a sentence, or nothing; note the largest errors seen."""
    if answers.shape != expected.shape:
        return f"{where} it answers {answers.shape}, PyTorch {expected.shape}"
    if not np.isfinite(answers).all():
        bad = int(np.flatnonzero(~np.isfinite(answers).all(axis=1))[0])
        return f"{where} the logits of image {bad} are NaN or infinite"
    if not np.isfinite(expected).all():
        return f"{where} PyTorch's own logits are NaN or infinite: there is nothing to hold it against"
    if len(answers) == 0:
        return f"{where} there is no image to compare"
    difference = np.abs(answers.astype(np.float64) - expected)
    scale = np.maximum(1.0, np.abs(expected).max(axis=1))
    by_image = difference.max(axis=1) / scale
    errors.append(float(difference.max()))
    relative.append(float(by_image.max()))
    if by_image.max() > TOLERANCE:
        worst = int(by_image.argmax())
        flips = int((answers.argmax(axis=1) != expected.argmax(axis=1)).sum())
        return (
            f"{where} logits differ by up to {difference.max():.3g} (image {worst}: {by_image[worst]:.2g} of its largest, "
            f"allowed {TOLERANCE:g}), and {flips} of {len(answers)} decisions"
        )
    return ""


def _comparable(answers: Logits | None, expected: Logits) -> NDArray[np.intp] | None:
    if (
        answers is None
        or answers.shape != expected.shape
        or not (np.isfinite(answers).all() and np.isfinite(expected).all())
    ):
        return None
    return np.asarray(answers.argmax(axis=1))


def _ties(expected: Logits, decided: NDArray[np.intp], gap: float) -> tuple[Tie, ...]:
    """Images whose two best classes are closer in the reference than `gap`."""
    top = np.sort(expected, axis=1)[:, -2:].astype(np.float64)
    margins = top[:, 1] - top[:, 0]
    return tuple(
        Tie(image=int(i), reference=int(expected[i].argmax()), decided=int(decided[i]), margin=float(margins[i]))
        for i in np.flatnonzero(margins < gap)
    )
