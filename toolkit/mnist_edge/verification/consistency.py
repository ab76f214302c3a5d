"""Whether the parts of a bundle belong together: a hash cannot tell, what they say of each other can."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mnist_edge.bundle import Bundle, sha256_array
from mnist_edge.contract import LABELS, Precision
from mnist_edge.pixels import Images
from mnist_edge.verification.stages import precision_of


def stranger(bundle: Bundle, metadata: dict[str, str]) -> str:
    """Why a model and its golden file do not belong together, or nothing."""
    manifest, golden = bundle.manifest, bundle.golden
    if not np.array_equal(golden.weights_sha256, sha256_array(manifest.weights_sha256)):
        return "golden.npz is stale: it holds the answers of other weights than the manifest names"
    stated = metadata.get("mnist_edge.weights_sha256", manifest.weights_sha256)
    if stated != manifest.weights_sha256:
        return "the model file was exported from other weights than the manifest names"
    labels = tuple(json.loads(metadata.get("mnist_edge.labels", "null")) or manifest.labels)
    if not labels == manifest.labels == LABELS[manifest.dataset]:
        return f"the labels are not those of {manifest.dataset} in their order: the classes were swapped"
    return ""


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
