"""The outputs that a model is compared with: recorded in a bundle, or computed by another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.golden import NO_LABEL, layer_rows, sha256_of_test_set
from mnist_edge.contract import Normalization
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.data import EvaluationSet, StoredSet
from mnist_edge.runtime.classifier import TIMEOUT_SECONDS, open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.verification.intermediates import run_intermediates

Floats = NDArray[np.float32] | NDArray[np.float64]
LayerValues = tuple[tuple[Floats | None, ...], tuple[Floats | None, ...]]
"""Pre-activations of every layer, and activations of every layer but the last: (N, units) each, None where unknown."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Images with the reference's logits.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: uint8 (N,), 255 where there is none.
        logits: float32 (N, 10).
    """

    images: Images
    labels: Images
    logits: Logits

    def __len__(self) -> int:
        return len(self.images)

    def parts(self) -> Iterator[Reference]:
        """Yield the images in order: all at once, as they are in memory."""
        yield self


PART = 10_000
"""Images of a stored set that are in memory at a time, 8 MB."""


@dataclass(frozen=True, kw_only=True)
class StoredReference:
    """A set of any number of images that stay in their file, with the reference's logits for a part at a time.

    Attributes:
        data: the set.
        logits: maps the number of the first image, and images uint8 (n, 28, 28) from there, to logits float32 (n, 10).
        own: whether it is the test set that the bundle records outputs for.
    """

    data: StoredSet
    logits: Callable[[int, Images], Logits]
    own: bool

    def __len__(self) -> int:
        return len(self.data.images)

    @property
    def labels(self) -> Images:
        """Of every image, uint8 (N,)."""
        return self.data.labels

    def parts(self) -> Iterator[Reference]:
        """Yield the images in order, PART at a time.

        Raises:
            BadFileError: the file became shorter.
            UnavailableError: it cannot be opened any more.
        """
        for start in range(0, len(self), PART):
            images = self.data.images[start : start + PART]
            labels = self.labels[start : start + PART]
            yield Reference(images=images, labels=labels, logits=self.logits(start, images))


@dataclass(frozen=True, kw_only=True)
class ReferenceLayers:
    """A few images with the reference's layer outputs.

    Attributes:
        images: uint8 (N, 28, 28).
        real: bool (N,), False for the all-black, all-white and random images, which lie outside of what a quantised
            model was calibrated for.
        pre_activations: floats (N, units) for each layer; None where unknown.
        activations: the same after the activation function, the input of the next layer; one fewer.
        output: (N, 10); a quantised model may round the last pre-activations.
    """

    images: Images
    real: NDArray[np.bool_]
    pre_activations: tuple[Floats | None, ...]
    activations: tuple[Floats | None, ...]
    output: Floats


@dataclass(frozen=True, kw_only=True)
class ExactOutputs:
    """What `export` recorded of the graph that it wrote, evaluated in float64.

    Attributes:
        logits: float64 (M, 10), on the golden images.
        form_difference: by how much a logit of PyTorch's own network differs at most, evaluated in float64 as well.
    """

    logits: NDArray[np.float64]
    form_difference: float


@dataclass(frozen=True, kw_only=True)
class ReferenceOutputs:
    """Everything that a variant is compared with.

    Attributes:
        golden: run at several batch sizes.
        test_set: None where it is not available.
        layers: the reference's layer outputs for a few images; None where unknown.
        description: where the outputs come from, for the report.
        recorded: whether they are those of the bundle, and not of another model.
        other_test_set: whether the available test set is another one than the bundle's outputs are for.
        exact: of the graph that was exported; None where the reference is another one than the recorded.
        stored: a test set that stays in its file, in place of `test_set`.
    """

    golden: Reference
    test_set: Reference | None
    layers: ReferenceLayers | None
    description: str
    recorded: bool = False
    other_test_set: bool = False
    exact: ExactOutputs | None = None
    stored: StoredReference | None = None

    @property
    def counted(self) -> Reference | StoredReference:
        """The images that predictions are compared on: the test set where it is available, or the golden inputs."""
        return self.stored or self.test_set or self.golden


def with_relu(pre_activations: tuple[Floats, ...]) -> LayerValues:
    """Return the layer values of a network with a ReLU after every layer but the last."""
    return pre_activations, tuple(np.maximum(values, 0) for values in pre_activations[:-1])


def golden_reference(bundle: Bundle) -> Reference:
    """Return the golden inputs with the recorded logits."""
    golden = bundle.golden
    return Reference(images=golden.images, labels=golden.labels, logits=golden.logits)


def golden_layers(bundle: Bundle) -> ReferenceLayers:
    """Return the layer outputs recorded in the golden file."""
    golden = bundle.golden
    by_layer = tuple(np.split(golden.pre_activations, np.cumsum(golden.layer_widths)[:-1], axis=1))
    return ReferenceLayers(
        images=golden.images[golden.layer_rows],
        real=golden.labels[golden.layer_rows] != NO_LABEL,
        pre_activations=by_layer,
        activations=with_relu(by_layer)[1],
        output=golden.logits[golden.layer_rows],
    )


def reference_on_test_set(bundle: Bundle, dataset: EvaluationSet) -> Reference | None:
    """Return the test set with the logits recorded in the bundle; None where those are for other images."""
    if not np.array_equal(sha256_of_test_set(dataset.test_images, dataset.test_labels), bundle.golden.test_sha256):
        return None
    return Reference(images=dataset.test_images, labels=dataset.test_labels, logits=bundle.golden.test_logits)


def recorded_on(bundle: Bundle, data: StoredSet) -> StoredReference | None:
    """Return a stored set with the logits recorded in the bundle; None where those are for other images."""
    if not np.array_equal(sha256_of_test_set(data.images, data.labels), bundle.golden.test_sha256):
        return None
    logits = bundle.golden.test_logits
    return StoredReference(data=data, logits=lambda start, images: logits[start : start + len(images)], own=True)


def recorded_reference(bundle: Bundle, dataset: EvaluationSet | None) -> ReferenceOutputs:
    """Return PyTorch's outputs as the bundle records them."""
    test_set = None if dataset is None else reference_on_test_set(bundle, dataset)
    return ReferenceOutputs(
        golden=golden_reference(bundle),
        test_set=test_set,
        layers=golden_layers(bundle),
        description="PyTorch's outputs in golden.npz",
        recorded=True,
        other_test_set=dataset is not None and test_set is None,
        exact=ExactOutputs(logits=bundle.golden.exact_logits, form_difference=float(bundle.golden.form_difference[0])),
    )


def live_on(data: StoredSet, logits: Callable[[Images], Logits], *, own: bool = False) -> StoredReference:
    """Return a set with the logits of a model that runs when they are asked for."""
    return StoredReference(data=data, logits=lambda _start, images: logits(images), own=own)


def live_reference(
    golden: tuple[Images, Images],
    test_set: tuple[Images, Images] | None,
    logits: Callable[[Images], Logits],
    layers: Callable[[Images], LayerValues | None],
    description: str,
    stored: StoredSet | None = None,
) -> ReferenceOutputs:
    """Return the outputs of a reference model, run for this comparison.

    Args:
        golden: images uint8 (M, 28, 28) and labels (M,).
        test_set: the same, if available.
        logits: maps uint8 (N, 28, 28) to logits float32 (N, 10).
        layers: maps the same to layer values, or to None where they are not available.
        description: the model, for the report.
        stored: a test set that stays in its file; its logits are computed part by part.
    """
    images, labels = golden
    rows = layer_rows(labels)
    values = layers(images[rows])
    return ReferenceOutputs(
        golden=Reference(images=images, labels=labels, logits=logits(images)),
        test_set=None
        if test_set is None
        else Reference(images=test_set[0], labels=test_set[1], logits=logits(test_set[0])),
        layers=None
        if values is None
        else ReferenceLayers(
            images=images[rows],
            real=labels[rows] != NO_LABEL,
            pre_activations=values[0],
            activations=values[1],
            output=logits(images[rows]),
        ),
        description=description,
        stored=None if stored is None else live_on(stored, logits),
    )


def onnx_reference(
    model: Path,
    golden: tuple[Images, Images],
    test_set: tuple[Images, Images] | None,
    normalization: Normalization | None = None,
    description: str = "",
    timeout: float = TIMEOUT_SECONDS,
    stored: StoredSet | None = None,
) -> ReferenceOutputs:
    """Run an ONNX file on the CPU as reference; arguments as `live_reference`.

    Raises:
        RefusedModelError: onnxruntime cannot run it.
        BadFileError, UnavailableError: as `open_classifier` raises them.
    """
    classifier = open_classifier(model, normalization=normalization, timeout=timeout)

    def layers(images: Images) -> LayerValues | None:
        try:
            found = run_intermediates(model, images, normalization=normalization)
        except RefusedModelError:
            return None
        except ModuleNotFoundError:  # a device without the package onnx compares logits only
            return None
        return found.pre_activations, found.inputs[1:]

    return live_reference(
        golden,
        test_set,
        lambda images: classifier.logits(images, batch=1000),
        layers,
        description or str(model),
        stored,
    )
