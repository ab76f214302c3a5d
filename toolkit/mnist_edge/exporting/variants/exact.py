"""int8-exact and int4-exact: the network on integers, whose logits are the same bytes on every runtime."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mnist_edge.bundle.golden import golden_inputs
from mnist_edge.contract import Optimization
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind
from mnist_edge.integer_network import IntegerNetwork, check_network, integer_logits, largest_sums
from mnist_edge.pixels import Images, logits_sha256
from mnist_edge.records.bundle import OutputHashes
from mnist_edge.records.data import Dataset

LEVELS: tuple[Optimization, ...] = ("none", "all")
"""Optimisation levels at which a new file is run: as written, and fused."""


def build(bits: int, context: VariantContext) -> Built:
    """Quantise the fp32 export to integers, calibrated on training images.

    Raises:
        UsageError: the bundle takes normalised pixels, or weights of 4 bits do not fill whole bytes.
        BadFileError: too few training images of a class to calibrate with.
        CheckFailedError: the file would not give the same bytes everywhere.
    """
    import onnx

    from mnist_edge.exporting.variants.calibration import SEED, calibration_set
    from mnist_edge.exporting.variants.dense import dense_layers
    from mnist_edge.exporting.variants.integer_dense import integer_dense
    from mnist_edge.pixels import AFFINE

    kind = KINDS_BY_BITS[bits]
    require_images(kind.name, context)
    fp32 = onnx.load_model_from_string(context.fp32)
    layers = dense_layers(fp32, context.input, context.normalization)
    if any(layer.weight.size * bits % 8 for layer in layers):
        raise UsageError(f"{kind.name}: a layer has an odd number of weights", hint="train even --widths")
    images = np.concatenate(list(calibration_set(context.dataset, context.recipe).batches()))
    network = integer_dense(layers, AFFINE[context.normalization][0], images, bits)
    metadata = {entry.key: entry.value for entry in fp32.metadata_props}
    model = exact_model(kind.name, network, context.opset, images, metadata)
    made = exact_description(network) | {"calibration_images": len(images), "calibration_seed": SEED}
    return Built(model=model, spec=kind.spec(context), made=made, outputs_sha256=hashes(network, context.dataset))


def require_images(name: str, context: VariantContext) -> None:
    """Raise UsageError unless the bundle takes raw images, whose pixels are integers."""
    if context.input != "uint8":
        raise UsageError(f"{name} takes raw images, the bundle {context.input}", hint="leave --input out")


def exact_model(
    name: str, network: IntegerNetwork, opset: int, images: Images, metadata: dict[str, str] | None = None
) -> bytes:
    """Return the ONNX file of an integer network, after a proof that it is one.

    Args:
        name: of the variant.
        network: to write.
        opset: ONNX operator set.
        images: uint8 (N, 28, 28), which onnxruntime must compute the same bytes for as the reference in numpy.
        metadata: of the file.

    Raises:
        CheckFailedError: a sum could overflow, saturate or be rounded, or the bytes differ.
    """
    from onnx import helper

    from mnist_edge.records.settings import SessionSettings
    from mnist_edge.runtime.classifier import open_classifier
    from mnist_edge.verification.integer_graph import integer_graph, read_integer_network

    check_network(network)
    proto = integer_graph(network, opset)
    if metadata:
        helper.set_model_props(proto, metadata)
    model = bytes(proto.SerializeToString(deterministic=True))
    stored = read_integer_network(model)
    check_network(stored)
    expected = logits_sha256(integer_logits(stored, images))
    for level in LEVELS:
        classifier = open_classifier(model, SessionSettings(optimization=level))
        if logits_sha256(classifier.logits(images, batch=len(images))) != expected:
            raise CheckFailedError(
                f"{name}: onnxruntime with the optimisation {level} does not compute the bytes of its integers",
                hint="report this as a bug",
            )
    return model


def hashes(network: IntegerNetwork, dataset: Dataset) -> OutputHashes:
    """Return the sha256 of the logits that the reference in numpy computes: every runtime owes these."""
    golden, _ = golden_inputs(dataset.test_images, dataset.test_labels)
    return OutputHashes(
        golden=logits_sha256(integer_logits(network, golden)),
        test=logits_sha256(integer_logits(network, dataset.test_images)),
    )


def exact_description(network: IntegerNetwork) -> dict[str, Any]:
    """Return how an integer network is made, as JSON values."""
    return {
        "weight_bits": network.layers[0].bits,
        "shifts": [layer.shift for layer in network.layers],
        "largest_sums": [int(largest_sums(layer).max()) for layer in network.layers],
    }


KINDS_BY_BITS = {
    8: VariantKind(
        name="int8-exact",
        precision="int8",
        requirement="lossy",
        advice="as int8, and the same bytes on every runtime",
        build=partial(build, 8),
    ),
    4: VariantKind(
        name="int4-exact",
        precision="int4",
        requirement="lossy",
        advice="an eighth of the size; may lose more than 0.1 points",
        build=partial(build, 4),
    ),
}
