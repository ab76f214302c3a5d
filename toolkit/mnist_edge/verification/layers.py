"""Where a model goes wrong: its stages held against the reference's, input side first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import Normalization, Precision
from mnist_edge.pixels import Images
from mnist_edge.records import LayerDrift, LayerReport
from mnist_edge.verification.stages import Stages, run_stages
from mnist_edge.verification.symptoms import Case, drift, symptom

Floats = NDArray[np.float32] | NDArray[np.float64]
ALLOWED: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}
"""Drift (see `symptoms.drift`) that a precision explains. Seen on the seed's network: 3e-6 in fp32,
1.2e-3 in fp16, 0.04 in int8 quantised by tensor; a weight matrix scaled by 1.2 gives 0.2."""


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
    model: Path | bytes, precision: Precision, reference: ReferenceStages, how: Normalization | None = None
) -> LayerReport:
    """Run a model on the reference's images and find the first stage that drifts.

    Raises:
        BadFileError: no ONNX model, or one that onnxruntime cannot run.
        ModuleNotFoundError: the package onnx is missing.
    """
    rows = np.arange(len(reference.images)) if precision == "fp32" else np.flatnonzero(reference.real)
    images = reference.images[rows]
    stages = run_stages(model, images, how)
    if len(stages.layers) != len(reference.sums):
        told = f"its graph has {len(stages.layers)} matrix products, the reference {len(reference.sums)}"
        return LayerReport(images=len(images), stages=(), first=None, symptom="other architecture", detail=told)
    allowed = ALLOWED[precision]
    found: list[LayerDrift] = []
    for number, layer in enumerate(stages.layers, 1):
        pairs = [("sums", layer.sums, stages.sums[number - 1], reference.sums[number - 1])]
        if number < len(stages.layers):
            pairs.append(
                (
                    "activations",
                    stages.layers[number].fed,
                    stages.fed[number],
                    reference.activations[number - 1],
                )
            )
        found += [
            LayerDrift(
                layer=number,
                stage=stage,
                tensor=tensor,
                drift=drift(values, expected[rows].astype(np.float64)),
                allowed=allowed,
            )
            for stage, tensor, values, expected in pairs
            if values is not None and expected is not None
        ]
    first = next((place for place, stage in enumerate(found) if stage.drift > allowed), None)
    if first is None:
        return LayerReport(images=len(images), stages=tuple(found), first=None, symptom="", detail="")
    case = _case(found[first], stages, reference, rows)
    name, detail = symptom(case)
    return LayerReport(images=len(images), stages=tuple(found), first=found[first].layer, symptom=name, detail=detail)


def _case(at: LayerDrift, stages: Stages, reference: ReferenceStages, rows: NDArray[np.intp]) -> Case:
    here = at.layer - 1
    kept = reference.sums[here] if at.stage == "sums" else reference.activations[here]
    found = stages.sums[here] if at.stage == "sums" else stages.fed[here + 1]
    assert kept is not None  # a stage that drifts was compared
    assert found is not None
    expected = kept[rows].astype(np.float64)
    if at.stage == "activations":
        return Case(found=found, expected=expected, allowed=at.allowed)
    images = reference.images[rows].reshape(len(rows), -1)
    black, white = np.flatnonzero(images.max(axis=1) == 0), np.flatnonzero(images.min(axis=1) == 255)
    weights = {number: layer.weight for number, layer in enumerate(stages.layers, 1)}
    return Case(
        found=found,
        expected=expected,
        allowed=at.allowed,
        fed=stages.fed[here],
        weight=weights[at.layer],
        others={number: weight for number, weight in weights.items() if weight is not None and number != at.layer},
        black=int(black[0]) if len(black) and at.layer == 1 else None,
        white=int(white[0]) if len(white) and at.layer == 1 else None,
    )
