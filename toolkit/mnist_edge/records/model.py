"""What a model declares about its input."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_edge.contract import (
    Normalization,
)


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The one input of a classifier, as its graph declares it; a None dimension is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    normalization: Normalization | None
