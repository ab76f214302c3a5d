"""Export a PyTorch network to the bytes of one ONNX file, with a dynamic batch and without traces of this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from mnist_edge.contract import (
    BATCH_AXIS,
    INPUT_NAMES,
    LABELS,
    OPSET,
    OUTPUT_NAME,
    PIXELS,
    SIDE,
    DatasetName,
    InputKind,
    Normalization,
)
from mnist_edge.pixels import AFFINE
from mnist_edge.training.model import build_model, rescale_input, widths_of


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a graph, recorded in its metadata and in the manifest.

    Attributes:
        weights_sha256: of the trained network, before its normalisation is folded in.
        normalization: of the pixels that the network was trained on.
    """

    dataset: DatasetName
    weights_sha256: str
    normalization: Normalization = "seed"

    def input_normalization(self, kind: InputKind) -> Normalization:
        """Return what the exported graph expects of its pixels."""
        return "raw" if kind == "uint8" else self.normalization

    def metadata(self, kind: InputKind) -> dict[str, str]:
        """Return the entries of the file's `metadata_props`."""
        return {
            "mnist_edge.dataset": self.dataset,
            "mnist_edge.labels": json.dumps(LABELS[self.dataset]),
            "mnist_edge.normalization": self.input_normalization(kind),
            "mnist_edge.trained_normalization": self.normalization,
            "mnist_edge.weights_sha256": self.weights_sha256,
            "mnist_edge.versions": json.dumps(versions()),
        }


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the content of the file."""
    return {name: version(name) for name in ("mnist-edge", "torch", "onnx", "onnxscript")}


def weights_sha256(model: nn.Sequential) -> str:
    """Return the sha256 of every parameter's name, shape and float32 bytes."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def fold_normalization(model: nn.Sequential, normalization: Normalization = "seed") -> nn.Sequential:
    """Return a copy that takes raw pixels 0 to 255 as floats instead of normalised ones."""
    return rescale_input(model, *AFFINE[normalization])


class RawImages(nn.Module):
    """The deployed network: uint8 images (batch, 28, 28) to logits float32 (batch, 10)."""

    def __init__(self, model: nn.Sequential, normalization: Normalization = "seed") -> None:
        super().__init__()
        self.layers = fold_normalization(model, normalization)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        return self.layers(image.float().flatten(1))  # type: ignore[no-any-return]


class NormalizedPixels(nn.Module):
    """The deployed network for `--input float`: normalised pixels float32 (batch, 784) to logits float32 (batch, 10)."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.layers = build_model(widths_of(model))
        self.layers.load_state_dict(model.state_dict())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits."""
        return self.layers(pixels)  # type: ignore[no-any-return]


def deployed(model: nn.Sequential, kind: InputKind, normalization: Normalization = "seed") -> nn.Module:
    """Return the module whose graph is exported."""
    return (RawImages(model, normalization) if kind == "uint8" else NormalizedPixels(model)).eval()


def export_graph(model: nn.Sequential, kind: InputKind, origin: Origin, opset: int = OPSET) -> bytes:
    """Export a network; the same weights and versions give the same bytes anywhere.

    Args:
        model: as `build_model` makes it.
        kind: how the graph takes an image.
        origin: recorded in the metadata.
        opset: one of `contract.OPSETS`.

    Returns:
        A serialised, checked ONNX model that contains its weights.
    """
    module = deployed(model, kind, origin.normalization)
    # A batch of 2: torch.export would bake a 1 into the graph as a constant.
    example = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8) if kind == "uint8" else torch.zeros(2, PIXELS)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations within torch that no caller can act on
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=[INPUT_NAMES[kind]],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: BATCH_AXIS},),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True returns one
    graph = program.model
    ClearMetadataAndDocStringPass()(graph)
    for value in [*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values()]:
        value.metadata_props.clear()
    graph.graph.metadata_props.clear()
    graph.metadata_props.clear()
    graph.metadata_props.update(origin.metadata(kind))
    graph.producer_name, graph.producer_version = "mnist-edge", version("mnist-edge")
    proto = onnx_ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
