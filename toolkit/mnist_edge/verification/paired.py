"""Accuracy of a model and of its reference on the same labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import NO_LABEL
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import PairedAccuracy
from mnist_edge.stats import mcnemar_exact, paired_drop_upper95


@dataclass
class PairedCounts:
    """Labelled images, and on how many of them a model and its reference are right, counted part by part."""

    images: int = 0
    reference_right: int = 0
    right: int = 0
    lost: int = 0
    won: int = 0

    def add(self, predicted: NDArray[np.intp], expected: NDArray[np.intp], labels: Images) -> None:
        """Count the next images.

        Args:
            predicted: (n,), the model's classes.
            expected: (n,), the reference's classes.
            labels: uint8 (n,), 255 where there is none.
        """
        labelled = labels != NO_LABEL
        right = predicted[labelled] == labels[labelled]
        reference_right = expected[labelled] == labels[labelled]
        self.images += int(labelled.sum())
        self.right += int(right.sum())
        self.reference_right += int(reference_right.sum())
        self.lost += int((reference_right & ~right).sum())
        self.won += int((right & ~reference_right).sum())

    def result(self, max_drop: float) -> PairedAccuracy | None:
        """Return both accuracies, McNemar's test and the non-inferiority test; None where no image has a label.

        Args:
            max_drop: accuracy that the model may lose, a fraction of 1.
        """
        if self.images == 0:
            return None
        bound = paired_drop_upper95(self.lost, self.won, self.images)
        return PairedAccuracy(
            images=self.images,
            reference=self.reference_right / self.images,
            variant=self.right / self.images,
            only_reference_right=self.lost,
            only_variant_right=self.won,
            mcnemar_p=mcnemar_exact(self.lost, self.won),
            drop_upper95=bound,
            max_drop=max_drop,
            non_inferior=bound <= max_drop,
        )


def paired_accuracy(
    predicted: NDArray[np.intp], reference_logits: Logits, labels: Images, max_drop: float
) -> PairedAccuracy | None:
    """Compare the predictions of a model and of its reference with the labels, all at once; see `PairedCounts`."""
    counts = PairedCounts()
    counts.add(predicted, reference_logits.argmax(axis=1), labels)
    return counts.result(max_drop)


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
