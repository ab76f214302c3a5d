"""Find the first layer of a model whose outputs drift from the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization
from mnist_edge.pixels import Images
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.records.verification import LayerReport, TensorDrift, TensorKind
from mnist_edge.verification.intermediates import Intermediates, run_intermediates
from mnist_edge.verification.reference import Floats, ReferenceLayers
from mnist_edge.verification.requirement import Requirement
from mnist_edge.verification.symptoms import Case, drift, symptom

NO_COMMON_LAYERS = LayerReport(
    images=0,
    tensors=(),
    first=None,
    symptom="",
    detail="it has weights of its own: no layer can be compared with the reference",
)
"""The report on a model that must meet accuracy alone."""


def compare_layers(
    model: Path | bytes,
    requirement: Requirement,
    reference: ReferenceLayers,
    settings: SessionSettings = DEFAULT_SETTINGS,
    normalization: Normalization | None = None,
) -> LayerReport:
    """Run a model on the reference's images and find the first tensor that drifts.

    Raises:
        BadFileError: no ONNX model, or one that onnxruntime cannot run.
        UnavailableError: the provider is not available.
        ModuleNotFoundError: the package onnx is missing.
    """
    exact, allowed = requirement.kind == "exact", requirement.allowed_drift
    rows = np.arange(len(reference.images)) if exact else np.flatnonzero(reference.real)
    images = reference.images[rows]
    found = run_intermediates(model, images, settings, normalization)
    if len(found.layers) != len(reference.pre_activations):
        detail = f"{len(found.layers)} matrix products in its graph, {len(reference.pre_activations)} in the reference"
        return LayerReport(images=len(images), tensors=(), first=None, symptom="other architecture", detail=detail)
    pairs = _pairs(found, reference, rows)
    tensors = tuple(
        TensorDrift(
            layer=pair.layer,
            kind=pair.kind,
            tensor=pair.tensor,
            drift=_finite_or_none(drift(pair.found, pair.expected)),
            allowed=allowed,
        )
        for pair in pairs
    )
    first = next((place for place, tensor in enumerate(tensors) if tensor.drifts), None)
    if first is None:
        return LayerReport(images=len(images), tensors=tensors, first=None, symptom="", detail="")
    name, detail = symptom(_case(pairs[first], allowed, found, images))
    return LayerReport(images=len(images), tensors=tensors, first=pairs[first].layer, symptom=name, detail=detail)


def _finite_or_none(value: float) -> float | None:
    """Return None for a value that JSON cannot represent."""
    return value if np.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One tensor of the model and of the reference, float64 (N, units)."""

    layer: int
    kind: TensorKind
    tensor: str
    found: NDArray[np.float64]
    expected: NDArray[np.float64]


def _pairs(found: Intermediates, reference: ReferenceLayers, rows: NDArray[np.intp]) -> list[_Pair]:
    """Return the tensors that both hold as floats, in the order in which they are computed."""
    last = len(found.layers)
    places: list[tuple[int, TensorKind, str, Floats | None, Floats | None]] = []
    for number, layer in enumerate(found.layers, 1):
        expected = reference.pre_activations[number - 1]
        places.append((number, "pre-activations", layer.pre_activation, found.pre_activations[number - 1], expected))
        if number < last:
            name = found.layers[number].input
            places.append((number, "activations", name, found.inputs[number], reference.activations[number - 1]))
        elif found.output_name != layer.pre_activation:
            places.append((number, "output", found.output_name, found.output, reference.output))
    return [
        _Pair(
            layer=number,
            kind=kind,
            tensor=tensor,
            found=ours.astype(np.float64),
            expected=theirs[rows].astype(np.float64),
        )
        for number, kind, tensor, ours, theirs in places
        if ours is not None and theirs is not None
    ]


def _case(pair: _Pair, allowed: float, found: Intermediates, images: Images) -> Case:
    """Return the values that a symptom is derived from; inputs and weights only for pre-activations."""
    if pair.kind != "pre-activations":
        return Case(found=pair.found, expected=pair.expected, allowed=allowed)
    pixels = images.reshape(len(images), -1)
    black, white = np.flatnonzero(pixels.max(axis=1) == 0), np.flatnonzero(pixels.min(axis=1) == 255)
    weights = {number: layer.weight for number, layer in enumerate(found.layers, 1)}
    return Case(
        found=pair.found,
        expected=pair.expected,
        allowed=allowed,
        layer_input=found.inputs[pair.layer - 1],
        weight=weights[pair.layer],
        other_weights={n: weight for n, weight in weights.items() if weight is not None and n != pair.layer},
        black=int(black[0]) if len(black) and pair.layer == 1 else None,
        white=int(white[0]) if len(white) and pair.layer == 1 else None,
    )
