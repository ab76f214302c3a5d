"""Whether the parts of a bundle belong together: a hash cannot tell, what they say of each other can."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.golden import sha256_array
from mnist_edge.bundle.manifest import MANIFEST
from mnist_edge.contract import INPUTS, LABELS, OUTPUT_NAME, Precision
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import Images
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.runtime.images import describe
from mnist_edge.verification.stages import precision_of


def require_contract(bundle: Bundle, classifier: Classifier) -> None:
    """Hold a bundle's model against the input, output and dataset that its manifest promises to programs on a device.

    Raises:
        BadFileError: names what was expected and what was found.
    """
    manifest, hint = bundle.manifest, "export it again"
    expected, found = (
        f"{INPUTS[manifest.input]} to {OUTPUT_NAME}",
        f"{describe(classifier.input)} to {classifier.output.name}",
    )
    if found != expected:
        raise BadFileError(f"{classifier.name}: its manifest promises {expected}, its graph takes {found}", hint=hint)
    if manifest.input_description != INPUTS[manifest.input]:
        raise BadFileError(
            f"{bundle.folder / MANIFEST}: input_description: expected {INPUTS[manifest.input]!r}, "
            f"found {manifest.input_description!r}",
            hint=hint,
        )
    for key, promised in (("dataset", manifest.dataset), ("normalization", manifest.normalization)):
        stated = classifier.metadata.get(f"mnist_edge.{key}", promised)
        if stated != promised:
            raise BadFileError(
                f"{classifier.name}: its manifest promises {key} {promised}, its graph says {stated}", hint=hint
            )


def mismatch(bundle: Bundle, classifier: Classifier) -> str:
    """Why a model and its golden file do not belong together, or nothing.

    Raises:
        BadFileError: the model's metadata are not what an export writes.
    """
    manifest, golden = bundle.manifest, bundle.golden
    if not np.array_equal(golden.weights_sha256, sha256_array(manifest.weights_sha256)):
        return "golden.npz is stale: it holds the answers of other weights than the manifest names"
    stated = classifier.metadata.get("mnist_edge.weights_sha256", manifest.weights_sha256)
    if stated != manifest.weights_sha256:
        return "the model file was exported from other weights than the manifest names"
    if not _labels(classifier, manifest.labels) == manifest.labels == LABELS[manifest.dataset]:
        return f"the labels are not those of {manifest.dataset} in their order: the classes were swapped"
    return ""


def _labels(classifier: Classifier, promised: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that the model's metadata name; the promised ones where they name none."""
    text = classifier.metadata.get("mnist_edge.labels")
    if text is None:
        return promised
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


def misstated_accuracy(bundle: Bundle, labels: Images) -> str:
    """Why the manifest's accuracy cannot be that of PyTorch's answers in golden.npz, or nothing.

    Args:
        bundle: whose `accuracy` is PyTorch's on the whole test set, as are golden.npz's `test_logits`.
        labels: uint8 (K,), of the first K test images; where they are not all, the rest may be right or wrong.
    """
    answers = bundle.golden.test_logits
    labels = labels[: len(answers)]
    right = int((answers[: len(labels)].argmax(axis=1) == labels).sum())
    stated = round(bundle.manifest.accuracy * len(answers))
    if right <= stated <= right + len(answers) - len(labels):
        return ""
    return (
        f"manifest.json states an accuracy of {bundle.manifest.accuracy:.2%}, {stated} of {len(answers)} test images, "
        f"but PyTorch's answers in golden.npz are right on {right} of {len(labels)}"
    )


def misstated_precision(model: Path, stated: Precision) -> str:
    """Why a variant is not of the lossy precision that the manifest states, which would excuse its errors, or nothing.

    One that is stated to be fp32 owes exact logits anyway, so nothing is asked of its graph.

    Raises:
        ModuleNotFoundError: the package onnx is missing.
    """
    found = "fp32" if stated == "fp32" else precision_of(model)
    return "" if found == stated else f"manifest.json says that it computes in {stated}, its graph computes in {found}"
