"""Check the outputs of timed runs: a model that predicts wrongly gets no timing.

Only what was timed is checked, on at most 64 batches of the golden inputs; `verify` is the complete check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.pixels import Logits
from mnist_edge.records.benchmark import OutputRequirement
from mnist_edge.stats import paired_drop_upper95
from mnist_edge.verification.reference import Reference
from mnist_edge.verification.requirement import ALLOWED_DRIFT
from mnist_edge.verification.symptoms import drift

DISTINCT_INPUTS = 64
NEAR_TIE = 1e-3
"""Gap between the two largest reference logits, relative to the image's largest logit (or to 1 where that is smaller),
below which an exact variant may predict the other class: ten times the logit error that `verify` allows."""


@dataclass(frozen=True, kw_only=True)
class OutputCheck:
    """Comparison of the outputs of one process with the golden logits.

    Attributes:
        images: rows that were compared.
        flips: predictions that differ from the reference's, near-ties of the reference excepted.
        problem: why the outputs do not meet the variant's requirement, in a sentence; empty where they do.
    """

    images: int
    flips: int
    problem: str = ""


def load_golden(path: str | None) -> Reference | None:
    """Return the golden images, labels and logits, or None without a golden file."""
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as archive:
        return Reference(images=archive["images"], labels=archive["labels"], logits=archive["logits"])


def row_groups(count: int, batch: int) -> list[NDArray[np.intp]]:
    """Choose the golden rows of each distinct input, (batch,) each; rows repeat where there are fewer than a batch."""
    inputs = max(1, min(DISTINCT_INPUTS, count // batch))
    return [np.arange(start * batch, (start + 1) * batch) % count for start in range(inputs)]


def check_outputs(
    outputs: Mapping[int, Logits], groups: Sequence[NDArray[np.intp]], golden: Reference, requirement: OutputRequirement
) -> OutputCheck:
    """Compare the last output for each distinct input with the golden logits.

    Args:
        outputs: (batch, classes) by index into `groups`; an input that was never run is missing.
        groups: golden rows (batch,) of each input.
        golden: the reference.
        requirement: an exact variant must make every prediction of the reference that is no near-tie. The logits of a
            lossy one must not drift by more than its precision explains. The labels must not show that a lossy variant,
            or one with weights of its own, loses more accuracy than it may.
    """
    if not outputs:
        return OutputCheck(images=0, flips=0)
    rows = np.concatenate([groups[index] for index in outputs])  # (n,)
    found = np.concatenate(list(outputs.values())).astype(np.float64)  # (n, classes)
    expected = golden.logits[rows].astype(np.float64)
    if found.shape != expected.shape:
        problem = f"outputs are {found.shape}, the golden logits {expected.shape}"
        return OutputCheck(images=len(rows), flips=len(rows), problem=problem)
    flips = _clear_flips(found, expected)
    if requirement.kind == "exact":
        problem = f"{flips} of {len(rows)} predictions of timed runs differ from golden.npz" if flips else ""
    else:
        problem = _lossy_problem(found, golden, rows, requirement)
    return OutputCheck(images=len(rows), flips=flips, problem=problem)


def _clear_flips(found: NDArray[np.float64], expected: NDArray[np.float64]) -> int:
    """Count rows whose prediction differs although the reference is no near-tie."""
    second, first = np.sort(expected, axis=1)[:, -2:].T
    clear = first - second > NEAR_TIE * np.maximum(1, np.abs(expected).max(axis=1))
    broken = ~np.isfinite(found).all(axis=1)  # argmax would return the class of the first NaN
    return int((broken | ((found.argmax(axis=1) != expected.argmax(axis=1)) & clear)).sum())


def _lossy_problem(
    found: NDArray[np.float64], golden: Reference, rows: NDArray[np.intp], requirement: OutputRequirement
) -> str:
    """Return why outputs do not meet the requirement of a variant that is not exact, or an empty string.

    Images without a label are only checked for NaN: quantisers are calibrated on real images. A few hundred images
    cannot show that accuracy is kept, so the check is whether they show that it is lost.
    """
    if not np.isfinite(found).all():
        return "outputs of timed runs are NaN or infinite"
    rows, first = np.unique(rows, return_index=True)  # a row that was run twice is one observation
    real = golden.labels[rows] != NO_LABEL
    if not real.any():
        return ""
    found, expected, labels = found[first][real], golden.logits[rows][real], golden.labels[rows][real]
    drifted, allowed = drift(found, expected.astype(np.float64)), ALLOWED_DRIFT[requirement.precision]
    if requirement.kind == "lossy" and drifted > allowed:
        return (
            f"logits of timed runs drift by {drifted:.2g} from golden.npz, {requirement.precision} explains {allowed:g}"
        )
    right, right_before = found.argmax(axis=1) == labels, expected.argmax(axis=1) == labels
    lost, won = int((right_before & ~right).sum()), int((right & ~right_before).sum())
    drop_at_least = -paired_drop_upper95(won, lost, len(labels))
    if drop_at_least > requirement.max_accuracy_drop:
        return f"timed runs lose at least {drop_at_least:.1%} accuracy on golden.npz (95 % confidence)"
    return ""
