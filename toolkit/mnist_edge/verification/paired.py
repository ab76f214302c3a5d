"""Accuracy of a model and of its reference on the same labelled images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import PairedAccuracy
from mnist_edge.stats import mcnemar_exact, paired_drop_upper95


def paired_accuracy(
    predicted: NDArray[np.intp], reference_logits: Logits, labels: Images, max_drop: float
) -> PairedAccuracy | None:
    """Compare the predictions of a model and of its reference with the labels.

    Args:
        predicted: (N,), the model's classes.
        reference_logits: float32 (N, 10).
        labels: uint8 (N,), 255 where there is none.
        max_drop: accuracy that the model may lose, a fraction of 1.

    Returns:
        Both accuracies, McNemar's test and the non-inferiority test; None where no image has a label.
    """
    labelled = labels != NO_LABEL
    count = int(labelled.sum())
    if count == 0:
        return None
    right = predicted[labelled] == labels[labelled]
    reference_right = reference_logits[labelled].argmax(axis=1) == labels[labelled]
    lost, won = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    bound = paired_drop_upper95(lost, won, count)
    return PairedAccuracy(
        images=count,
        reference=float(reference_right.mean()),
        variant=float(right.mean()),
        only_reference_right=lost,
        only_variant_right=won,
        mcnemar_p=mcnemar_exact(lost, won),
        drop_upper95=bound,
        max_drop=max_drop,
        non_inferior=bound <= max_drop,
    )


def inferiority(accuracy: PairedAccuracy | None) -> str:
    """Return why a model is not shown to be as accurate as its reference, or an empty string."""
    if accuracy is None:
        return "no image has a label: its accuracy cannot be compared"
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
