"""Accuracy, per-class figures and confusion matrix of decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnist_edge.contract import LABELS
from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Logits
from mnist_edge.records import ClassFigures, Dataset, EvalReport


def evaluate(model: Path, logits: Logits, dataset: Dataset) -> EvalReport:
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
    decided, truth = logits.argmax(axis=1), dataset.test_labels
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (truth, decided), 1)
    return EvalReport(
        model=model,
        dataset=dataset.name,
        images=len(truth),
        accuracy=float((decided == truth).mean()),
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


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
