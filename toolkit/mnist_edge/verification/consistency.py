"""Check that the parts of a bundle agree: every hash can be valid although their statements contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.golden import NO_LABEL, sha256_array
from mnist_edge.bundle.manifest import MANIFEST
from mnist_edge.contract import INPUTS, LABELS, OUTPUT_NAME
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.integer_network import check_network
from mnist_edge.pixels import Images
from mnist_edge.records.bundle import Variant
from mnist_edge.records.verification import PairedAccuracy
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.runtime.images import describe
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.precision import precision_of
from mnist_edge.verification.reference import ReferenceOutputs


def contradictions(
    bundle: Bundle, variant: Variant, classifier: Classifier, reference: ReferenceOutputs
) -> tuple[str, ...]:
    """Return how manifest, golden file, test set and a variant's model contradict each other, each in a sentence.

    Whatever a variant is compared as, its model or a program that was made from it, what it states must be true.

    Args:
        bundle: holds the variant.
        variant: whose statements are checked.
        classifier: its model, open.
        reference: that it is compared with.

    Raises:
        BadFileError: the model contradicts its manifest.
        ModuleNotFoundError: the package onnx is missing.
    """
    require_contract(bundle, classifier)
    file = bundle.file(variant)
    found = (
        mismatch(bundle),
        model_mismatch(bundle, variant, classifier),
        wrong_accuracy(bundle, reference),
        misstated_precision(file, variant),
        misstated_exactness(file, variant),
    )
    return tuple(problem for problem in found if problem)


def require_contract(bundle: Bundle, classifier: Classifier) -> None:
    """Raise unless a model has the input, output, dataset and normalisation that the manifest states.

    Raises:
        BadFileError: names what was expected and what was found.
    """
    manifest, hint = bundle.manifest, "export it again"
    expected, found = (
        f"{INPUTS[manifest.input]} to {OUTPUT_NAME}",
        f"{describe(classifier.input)} to {classifier.output.name}",
    )
    if found != expected:
        raise BadFileError(f"{classifier.name}: its manifest states {expected}, its graph has {found}", hint=hint)
    if manifest.input_description != INPUTS[manifest.input]:
        raise BadFileError(
            f"{bundle.folder / MANIFEST}: input_description: expected {INPUTS[manifest.input]!r}, "
            f"found {manifest.input_description!r}",
            hint=hint,
        )
    for key, expected in (("dataset", manifest.dataset), ("normalization", manifest.normalization)):
        found = classifier.metadata.get(f"mnist_edge.{key}", expected)
        if found != expected:
            raise BadFileError(
                f"{classifier.name}: its manifest states {key} {expected}, its graph has {found}", hint=hint
            )


def mismatch(bundle: Bundle) -> str:
    """Return how manifest and golden file contradict each other, or an empty string."""
    manifest, golden = bundle.manifest, bundle.golden
    if not np.array_equal(golden.weights_sha256, sha256_array(manifest.weights_sha256)):
        return "golden.npz is stale: it holds the outputs of other weights than the manifest names"
    if manifest.labels != LABELS[manifest.dataset]:
        return _wrong_labels(bundle)
    return ""


def model_mismatch(bundle: Bundle, variant: Variant, classifier: Classifier) -> str:
    """Return how a model contradicts the manifest, or an empty string; an `accuracy` variant may have other weights.

    Raises:
        BadFileError: the model's metadata are not what an export writes.
    """
    manifest = bundle.manifest
    stated = classifier.metadata.get("mnist_edge.weights_sha256", manifest.weights_sha256)
    if stated != manifest.weights_sha256 and variant.requirement != "accuracy":
        return "the model file was exported from other weights than the manifest names"
    return "" if _labels(classifier, manifest.labels) == manifest.labels else _wrong_labels(bundle)


def _wrong_labels(bundle: Bundle) -> str:
    return f"the labels are not those of {bundle.manifest.dataset} in their order: classes were swapped"


def _labels(classifier: Classifier, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels in the model's metadata; `default` where there are none."""
    text = classifier.metadata.get("mnist_edge.labels")
    if text is None:
        return default
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BadFileError(
            f"{classifier.name}: mnist_edge.labels in its metadata is no JSON list of names: {text[:40]!r}",
            hint="export it again",
        )
    return tuple(labels)


def wrong_accuracy(bundle: Bundle, reference: ReferenceOutputs) -> str:
    """Return how the manifest, golden file and available test set contradict each other, or an empty string."""
    if reference.other_test_set:
        return (
            f"golden.npz holds PyTorch's outputs for another test set than that of {bundle.manifest.dataset} found here"
        )
    known = reference.counted if reference.stored is None or reference.stored.own else reference.golden
    return misstated_accuracy(bundle, known.labels[known.labels != NO_LABEL])


def misstated_accuracy(bundle: Bundle, labels: Images) -> str:
    """Return why the manifest's accuracy cannot be that of PyTorch's outputs in golden.npz, or an empty string.

    Args:
        bundle: its `accuracy` is PyTorch's on the whole test set, as are golden.npz's `test_logits`.
        labels: uint8 (K,), of the first K test images; where they are not all, the rest may be right or wrong.
    """
    logits = bundle.golden.test_logits
    labels = labels[: len(logits)]
    right = int((logits[: len(labels)].argmax(axis=1) == labels).sum())
    stated = round(bundle.manifest.accuracy * len(logits))
    if right <= stated <= right + len(logits) - len(labels):
        return ""
    return (
        f"manifest.json states an accuracy of {bundle.manifest.accuracy:.2%}, {stated} of {len(logits)} test images, "
        f"but PyTorch's outputs in golden.npz are right on {right} of {len(labels)}"
    )


def misstated_variant(variant: Variant, accuracy: PairedAccuracy | None) -> str:
    """Return why a variant's stated accuracy cannot be what it has on the test set, or an empty string.

    Args:
        variant: states an accuracy, or None.
        accuracy: as measured here on the whole test set; None where it is not available.
    """
    if accuracy is None or variant.accuracy is None:
        return ""
    # Another CPU may round otherwise: two images of a small test set, one in a thousand of a large one.
    allowed = max(2 / accuracy.images, 0.001)
    if abs(variant.accuracy - accuracy.variant) <= allowed:
        return ""
    return (
        f"manifest.json states an accuracy of {variant.accuracy:.2%} for {variant.name}, "
        f"it is {accuracy.variant:.2%} on the {accuracy.images:,} test images"
    )


def misstated_precision(model: Path, variant: Variant) -> str:
    """Return how a variant's precision contradicts the manifest, or an empty string.

    A coarser precision in the manifest would allow larger errors. An exact variant must match its reference in any
    precision, and fp32 is the finest: both are not checked.

    Raises:
        ModuleNotFoundError: the package onnx is missing.
    """
    if variant.requirement == "exact" or variant.precision == "fp32":
        return ""
    found = precision_of(model)
    if found == variant.precision:
        return ""
    return f"manifest.json states that it computes in {variant.precision}, its graph computes in {found}"


def misstated_exactness(model: Path, variant: Variant) -> str:
    """Return why the manifest's statement of a variant's bytes is wrong, or missing, or an empty string.

    This runtime may compute the recorded bytes, and another one, with other instructions, saturate. So the model must be
    an integer network whose sums are exact in any order; and the bytes of such a network must be recorded. An exact
    variant without recorded bytes is compared logit by logit, and not read.

    Raises:
        ModuleNotFoundError: the package onnx is missing.
    """
    if variant.outputs_sha256 is None and variant.requirement == "exact":
        return ""
    try:
        network = read_integer_network(model)
    except BadFileError as error:
        return "" if variant.outputs_sha256 is None else error.message
    if variant.outputs_sha256 is None:
        return "the manifest does not record the SHA-256 of its logits"
    try:
        check_network(network)
    except CheckFailedError as error:
        return error.message
    return ""
