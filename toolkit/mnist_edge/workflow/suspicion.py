"""Warn of a state_dict that is clearly more accurate with another normalisation of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mnist_edge.records.data import EvaluationSet

if TYPE_CHECKING:
    from mnist_edge.records.data import StoredSet
    from mnist_edge.training.state_dict import LoadedModel


FIRST = 10_000
"""Images of a stored set that stand for all of them."""


def first_images(data: EvaluationSet | StoredSet) -> EvaluationSet:
    """Return a set in memory; of one that stays in its file, the first images."""
    if isinstance(data, EvaluationSet):
        return data
    return EvaluationSet(
        name="folder", source=data.source, test_images=data.images[:FIRST], test_labels=data.labels[:FIRST]
    )


def suspect_normalization(loaded: LoadedModel, data: EvaluationSet, notify: Callable[[str], None]) -> None:
    """Try other readings of the pixels on a part of the test set, and report one that is clearly better in one line.

    A checkpoint of mnist-edge states its normalisation and dataset, so it is not checked.
    """
    from mnist_edge.training.model import reference_logits
    from mnist_edge.verification.suspicion import find_suspicion, suspicion_line

    if loaded.dataset is not None:
        return
    found = find_suspicion(
        lambda images, normalization: reference_logits(
            loaded.network, images, normalization=normalization or loaded.normalization
        ),
        loaded.normalization,
        data,
    )
    if found is not None:
        notify(suspicion_line(found))
