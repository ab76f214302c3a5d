"""Accuracy, calibration, per-class figures and confusion matrix of decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import LABELS
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.data import EvaluationSet
from mnist_edge.records.evaluation import ClassFigures, EvalReport, ReliabilityBin

BINS = 15


def evaluate(model: Path, logits: Logits, dataset: EvaluationSet) -> EvalReport:
    """Judge the answers to a test set.

    Args:
        model: what answered, for the report.
        logits: float32 (N, 10), for the dataset's N test images in order.
        dataset: whose test labels are the truth.

    Raises:
        CheckFailedError: wrong count or number of classes, NaN or infinite logits.
    """
    names = LABELS[dataset.name]
    expected = (len(dataset.test_labels), len(names))
    if logits.shape != expected:
        raise CheckFailedError(
            f"{model} answers {logits.shape}, expected {expected}", hint="give a classifier of ten classes"
        )
    if not np.isfinite(logits).all():
        raise CheckFailedError(f"{model} answers NaN or infinite logits", hint="mnist-edge verify shows where")
    predicted, truth = logits.argmax(axis=1), dataset.test_labels
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (truth, predicted), 1)
    bins = reliability(logits, truth)
    return EvalReport(
        model=model,
        dataset=dataset.name,
        images=len(truth),
        accuracy=float((predicted == truth).mean()),
        negative_log_likelihood=float(-log_softmax(logits)[np.arange(len(truth)), truth].mean()),
        calibration_error=sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / len(truth),
        reliability=bins,
        per_class=tuple(
            ClassFigures(
                label=label,
                images=int(confusion[i].sum()),
                recall=_share(confusion[i, i], confusion[i].sum()),
                precision=_share(confusion[i, i], confusion[:, i].sum()),
            )
            for i, label in enumerate(names)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Logarithms of the probabilities, (N, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def reliability(logits: Logits, truth: Images) -> tuple[ReliabilityBin, ...]:
    """Sort decisions into 15 equal ranges of confidence (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
        logits: float32 (N, classes), finite.
        truth: uint8 (N,).
    """
    confidence = np.exp(log_softmax(logits).max(axis=1))
    right = logits.argmax(axis=1) == truth
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return tuple(
        ReliabilityBin(
            images=int(inside.sum()), confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean())
        )
        for inside in (places == place for place in range(BINS))
        if inside.any()
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
