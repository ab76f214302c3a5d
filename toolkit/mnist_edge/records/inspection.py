"""What `inspect` reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mnist_edge.records.report import Report

Sides = tuple[int | str | None, ...]
"""Dimensions as a file declares them: a number, the name of a free one, or None where there is neither."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output of a graph.

    Attributes:
        dtype: numpy's name, or, for what is no tensor, a type such as `seq(map(int64, float32))`.
        shape: as declared; None where it is not.
    """

    name: str
    dtype: str
    shape: Sides | None


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """A node with parameters, a matrix product or convolution, or one of an operator that is not known.

    Attributes:
        name: of the node, or of its output where it has none.
        operator: with its domain, unless that is ONNX's own.
        shape: of its first output, where a free batch axis counts as 1; None where it is not known.
        parameters: None where the shape of a weight is not known.
        multiplications: None where they are not known.
    """

    name: str
    operator: str
    shape: Sides | None
    parameters: int | None
    multiplications: int | None


@dataclass(frozen=True, kw_only=True)
class InspectReport(Report):
    """What an ONNX file holds; nothing in it was run.

    Attributes:
        model: the file, or the folder of a bundle.
        layers: in the order of the graph.
        parameters: weights and biases of all layers, shared ones once; None where a shape is not known.
        multiplications: of the matrix products and convolutions of one run, where a free batch axis counts as 1; None
            where a shape, an operator or the number of repetitions is not known.
        opset: version of ONNX's own operators; None where the file uses none.
        operators: how often each is written in the graph, its subgraphs and its functions.
        metadata: what the file states about itself.
    """

    schema: ClassVar[str] = "mnist-edge/inspect/1"
    model: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    parameters: int | None
    multiplications: int | None
    opset: int | None
    operators: dict[str, int]
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class BundleInspectReport(InspectReport):
    """What the models of a bundle hold.

    Attributes:
        variant: the one that the other figures are of: the choice of `tune`, or the first.
        variants: every variant, by name.
    """

    variant: str
    variants: dict[str, InspectReport]

    def to_json(self) -> dict[str, Any]:
        """Return the report with one document for each variant."""
        return super().to_json() | {"variants": {name: report.to_json() for name, report in self.variants.items()}}
