"""int8: weights and activations in 8 bits, with ranges measured on training images; the logits stay float.

The image is a quantised activation as it stands, so that nothing is converted before the first integer product.
Scales and rounding follow Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind

if TYPE_CHECKING:
    from onnx import ModelProto


def build(context: VariantContext) -> Built:
    """Quantise the fp32 export; layers that lose too much accuracy on the selection split stay in fp32.

    Raises:
        BadFileError: too few training images of a class to calibrate with.
        CheckFailedError: it loses too much accuracy whichever layers are quantised.
    """
    import onnx

    from mnist_edge.cpus import cpu_model
    from mnist_edge.exporting.proof import selection_accuracy
    from mnist_edge.exporting.variants.calibration import SEED, activation_ranges, calibration_set
    from mnist_edge.exporting.variants.dense import dense_layers
    from mnist_edge.exporting.variants.qdq import quantised_graph
    from mnist_edge.exporting.variants.schemes import scheme_for
    from mnist_edge.pixels import AFFINE

    fp32 = onnx.load_model_from_string(context.fp32)
    layers = dense_layers(fp32, context.input, context.normalization)
    calibration = calibration_set(context.dataset, context.recipe)
    ranges = activation_ranges(layers, calibration, AFFINE[context.normalization][0])
    scheme = scheme_for(cpu_model()[1])

    def quantised(float_layers: tuple[int, ...]) -> ModelProto:
        return quantised_graph(
            fp32,
            layers,
            ranges,
            scheme,
            kind=context.input,
            normalization=context.normalization,
            float_layers=float_layers,
        )

    selection = context.selection
    allowed = selection_accuracy(context.fp32, selection) - context.max_accuracy_drop
    float_layers, trials = sensitive_layers(
        len(layers),
        lambda chosen: selection_accuracy(quantised(chosen).SerializeToString(), selection),
        allowed,
        context.notify,
    )
    made = {
        "scheme": scheme.name,
        "activations": "int8" if scheme.signed else "uint8",
        "weights": "int8, one scale for each layer" + (", 7 bits" if scheme.reduce_range else ""),
        "calibration_images": len(calibration.rows),
        "calibration_seed": SEED,
        "ranges": list(ranges),
        "layers": len(layers),
        "float_layers": list(float_layers),
        "selection_images": len(selection.images),
        "selection_accuracy": trials,
    }
    model = quantised(float_layers).SerializeToString(deterministic=True)
    return Built(model=model, spec=KIND.spec(context), made=made)


def sensitive_layers(
    count: int,
    accuracy: Callable[[tuple[int, ...]], float],
    allowed: float,
    notify: Callable[[str], None] = lambda _line: None,
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Return the layers that must stay in fp32, as few as a greedy search finds.

    Where all layers quantised are not accurate enough, the layer whose return to fp32 gains most is chosen, then the
    next one, until the accuracy suffices.

    Args:
        count: layers of the network.
        accuracy: of the network with these layers, from 1, in fp32 and all others quantised, a fraction of 1.
        allowed: lowest accuracy that suffices.
        notify: takes one line about each layer that is excluded.

    Returns:
        The numbers of the layers, sorted, and each accuracy that was measured, by the layers in fp32 ("1,3").
    """
    chosen: tuple[int, ...] = ()
    reached = accuracy(())
    measured = {"": reached}
    while reached < allowed and len(chosen) < count:
        tried = {}
        for layer in set(range(1, count + 1)) - set(chosen):
            layers = tuple(sorted((*chosen, layer)))
            tried[layers] = accuracy(layers)
            measured[",".join(map(str, layers))] = tried[layers]
        best = max(tried, key=lambda layers: (tried[layers], [-layer for layer in layers]))
        (excluded,) = set(best) - set(chosen)
        notify(f"int8: layer {excluded} stays in fp32: {reached:.2%} becomes {tried[best]:.2%} on held-out images")
        chosen, reached = best, tried[best]
    return chosen, measured


KIND = VariantKind(
    name="int8",
    precision="int8",
    requirement="lossy",
    advice="a quarter of the file; fastest on CPUs with VNNI",
    build=build,
)
