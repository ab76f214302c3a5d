"""What the program of a target owes: the logits of its variant's own model file."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.folder import Bundle
from mnist_edge.errors import BadFileError
from mnist_edge.integer_network import integer_logits
from mnist_edge.pixels import Images, Logits, logits_sha256
from mnist_edge.records.bundle import OutputHashes, Variant
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.reference import Reference, ReferenceOutputs


@dataclass(frozen=True, kw_only=True)
class Owed:
    """Logits that a program is compared with.

    Attributes:
        golden: images and logits of the bundle's golden inputs.
        test_set: None where it is not available.
        description: where the logits come from, for the report.
        equal: whether they are owed bit for bit, as integers are; otherwise to the tolerance of `exact`.
    """

    golden: Reference
    test_set: Reference | None
    description: str
    equal: bool

    def misrecorded(self, hashes: OutputHashes | None) -> str:
        """Return which recorded hash is not that of the logits that are owed, or an empty string.

        Args:
            hashes: from the manifest; None where it records none.
        """
        if hashes is None or not self.equal:
            return ""
        for images, part, recorded in (("golden", self.golden, hashes.golden), ("test", self.test_set, hashes.test)):
            if part is not None and logits_sha256(part.logits) != recorded:
                return f"the manifest records other logits for the {images} images than its integers compute"
        return ""

    def first(self, images: int | None) -> Owed:
        """Return the first images of both sets; None for all."""
        test_set = None if self.test_set is None else _first(self.test_set, images)
        return dataclasses.replace(self, golden=_first(self.golden, images), test_set=test_set)

    def golden_rows(self, rows: NDArray[np.intp]) -> Owed:
        """Return these golden images alone."""
        golden = Reference(
            images=self.golden.images[rows], labels=self.golden.labels[rows], logits=self.golden.logits[rows]
        )
        return dataclasses.replace(self, golden=golden, test_set=None)


def _first(reference: Reference, images: int | None) -> Reference:
    return Reference(
        images=reference.images[:images], labels=reference.labels[:images], logits=reference.logits[:images]
    )


def owed_outputs(bundle: Bundle, variant: Variant, reference: ReferenceOutputs) -> Owed:
    """Return what a variant's program is compared with.

    An exact variant owes PyTorch's logits, and a network on integers those of its reference in numpy, bit for bit. Any
    other one has weights of its own: its program owes what its model file computes in onnxruntime.

    Args:
        bundle: holds the variant.
        variant: that the program was generated from.
        reference: PyTorch's outputs as the bundle records them.

    Raises:
        RefusedModelError: onnxruntime cannot run the model.
    """
    if variant.requirement == "exact":
        return Owed(
            golden=reference.golden, test_set=reference.test_set, description=reference.description, equal=False
        )
    with contextlib.suppress(BadFileError):
        network = read_integer_network(bundle.file(variant))
        return _computed(reference, partial(integer_logits, network), "its integers, computed in numpy", equal=True)
    classifier = open_classifier(bundle.file(variant))
    return _computed(
        reference, lambda images: classifier.logits(images, batch=1000), f"{variant.file} in onnxruntime", equal=False
    )


def _computed(
    reference: ReferenceOutputs, logits: Callable[[Images], Logits], description: str, *, equal: bool
) -> Owed:
    """Return the images of a reference with other logits."""
    golden, test_set = (
        None if part is None else dataclasses.replace(part, logits=logits(part.images))
        for part in (reference.golden, reference.test_set)
    )
    assert golden is not None
    return Owed(golden=golden, test_set=test_set, description=description, equal=equal)
