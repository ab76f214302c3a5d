"""The interface that `verify` needs of a runtime: everything that maps images to logits is checked by the same code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mnist_edge.pixels import Images, Logits


class Predictor(Protocol):
    """A model in some runtime: an onnxruntime session, a file of logits, a program on a device."""

    @property
    def name(self) -> str:
        """What errors and reports call it."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it takes, or None where it takes any."""

    @property
    def placement(self) -> Mapping[str, int]:
        """Number of graph nodes by the runtime's name of where they run; empty where that is not known."""

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the model.

        Args:
            images: uint8 (n, 28, 28).
            batch: images a run; all at once by default.

        Returns:
            float32 (n, classes), in the order of the images.

        Raises:
            RefusedModelError: the runtime cannot run the model.
        """
