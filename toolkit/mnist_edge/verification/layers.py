"""Where a model goes wrong: its stages held against the reference's, input side first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization, Precision
from mnist_edge.pixels import Images
from mnist_edge.records.verification import LayerDrift, LayerReport
from mnist_edge.verification.stages import Stages, run_stages
from mnist_edge.verification.symptoms import ALLOWED, Case, drift, symptom

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReferenceStages:
    """A few images with the reference's stages.

    Attributes:
        images: uint8 (N, 28, 28).
        real: bool (N,), False for the all-black, all-white and noise images, which lie outside of
            what a quantised model was calibrated for.
        sums: floats (N, units) for each layer; None where it is not known.
        activations: the same, what the next product is fed; one fewer.
    """

    images: Images
    real: NDArray[np.bool_]
    sums: tuple[Floats | None, ...]
    activations: tuple[Floats | None, ...]


def compare_layers(
    model: Path | bytes, precision: Precision, reference: ReferenceStages, normalization: Normalization | None = None
) -> LayerReport:
    """Run a model on the reference's images and find the first stage that drifts.

    Raises:
        BadFileError: no ONNX model, or one that onnxruntime cannot run.
        ModuleNotFoundError: the package onnx is missing.
    """
    rows = np.arange(len(reference.images)) if precision == "fp32" else np.flatnonzero(reference.real)
    images = reference.images[rows]
    stages = run_stages(model, images, normalization)
    if len(stages.layers) != len(reference.sums):
        told = f"matrix products in its graph: {len(stages.layers)}, in the reference: {len(reference.sums)}"
        return LayerReport(images=len(images), stages=(), first=None, symptom="other architecture", detail=told)
    pairs = _pairs(stages, reference, rows)
    found = tuple(
        LayerDrift(
            layer=pair.layer,
            stage=pair.stage,
            tensor=pair.tensor,
            drift=finite(drift(pair.found, pair.expected)),
            allowed=ALLOWED[precision],
        )
        for pair in pairs
    )
    first = next((place for place, stage in enumerate(found) if LayerReport.drifts(stage)), None)
    if first is None:
        return LayerReport(images=len(images), stages=found, first=None, symptom="", detail="")
    name, detail = symptom(_case(pairs[first], ALLOWED[precision], stages, images))
    return LayerReport(images=len(images), stages=found, first=pairs[first].layer, symptom=name, detail=detail)


def finite(value: float) -> float | None:
    """A figure that JSON can hold, or None."""
    return value if np.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One stage of the model and of the reference, float64 (N, units)."""

    layer: int
    stage: str
    tensor: str
    found: NDArray[np.float64]
    expected: NDArray[np.float64]


def _pairs(stages: Stages, reference: ReferenceStages, rows: NDArray[np.intp]) -> list[_Pair]:
    """The stages that both hold as floats, in the order in which they are computed."""
    last = len(stages.layers)
    places: list[tuple[int, str, str, Floats | None, Floats | None]] = []
    for number, layer in enumerate(stages.layers, 1):
        places.append((number, "sums", layer.sums, stages.sums[number - 1], reference.sums[number - 1]))
        if number < last:
            fed = stages.layers[number].fed
            places.append((number, "activations", fed, stages.fed[number], reference.activations[number - 1]))
        elif stages.output_name != layer.sums:
            places.append((number, "output", stages.output_name, stages.output, reference.sums[number - 1]))
    return [
        _Pair(
            layer=number,
            stage=stage,
            tensor=tensor,
            found=found.astype(np.float64),
            expected=expected[rows].astype(np.float64),
        )
        for number, stage, tensor, found, expected in places
        if found is not None and expected is not None
    ]


def _case(pair: _Pair, allowed: float, stages: Stages, images: Images) -> Case:
    """What the symptoms are read from; the weights only say something about sums."""
    if pair.stage != "sums":
        return Case(found=pair.found, expected=pair.expected, allowed=allowed)
    pixels = images.reshape(len(images), -1)
    black, white = np.flatnonzero(pixels.max(axis=1) == 0), np.flatnonzero(pixels.min(axis=1) == 255)
    weights = {number: layer.weight for number, layer in enumerate(stages.layers, 1)}
    return Case(
        found=pair.found,
        expected=pair.expected,
        allowed=allowed,
        fed=stages.fed[pair.layer - 1],
        weight=weights[pair.layer],
        others={number: weight for number, weight in weights.items() if weight is not None and number != pair.layer},
        black=int(black[0]) if len(black) and pair.layer == 1 else None,
        white=int(white[0]) if len(white) and pair.layer == 1 else None,
    )
