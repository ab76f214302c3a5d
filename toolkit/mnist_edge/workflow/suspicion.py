"""Report a state_dict that another normalisation of the pixels fits clearly better."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_edge.records.data import EvaluationSet
    from mnist_edge.training.state_dict import LoadedModel


def suspect_normalization(loaded: LoadedModel, data: EvaluationSet, notify: Callable[[str], None]) -> None:
    """Try the other readings of the pixels on a part of the test set; one line where one is clearly better.

    A checkpoint of mnist-edge states its normalisation and dataset, so there is nothing to suspect.
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
