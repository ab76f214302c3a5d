"""int8: weights and activations in 8 bits, with ranges measured on training images; the logits stay float.

The image is a quantised activation as it stands, so that nothing is converted before the first integer product.
Scales and rounding follow Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.
"""

from __future__ import annotations

from collections.abc import Callable

from mnist_edge.errors import BadFileError
from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind


def build(context: VariantContext) -> Built:
    """Quantise the fp32 export; layers that lose too much accuracy on the selection split stay in fp32.

    Raises:
        BadFileError: too few training images of a class to calibrate with.
    """
    import onnx

    from mnist_edge.cpus import cpu_model
    from mnist_edge.exporting.variants.calibration import SEED, activation_ranges, calibration_set
    from mnist_edge.exporting.variants.dense import dense_layers
    from mnist_edge.exporting.variants.qdq import quantised_graph
    from mnist_edge.exporting.variants.schemes import scheme_for
    from mnist_edge.pixels import AFFINE

    fp32, kind, normalization = onnx.load_model_from_string(context.fp32), context.input, context.normalization
    layers = dense_layers(fp32, kind, normalization)
    calibration = calibration_set(context.dataset, context.recipe)
    ranges = activation_ranges(layers, calibration, AFFINE[normalization][0])
    scheme = scheme_for(cpu_model()[1])

    def quantised(float_layers: tuple[int, ...]) -> bytes:
        proto = quantised_graph(
            fp32, layers, ranges, scheme, kind=kind, normalization=normalization, float_layers=float_layers
        )
        return bytes(proto.SerializeToString(deterministic=True))

    float_layers, trials = _layers_in_fp32(context, len(layers), quantised)
    made = scheme.described() | {
        "calibration_images": len(calibration.rows),
        "calibration_seed": SEED,
        "ranges": list(ranges),
        "layers": len(layers),
        "float_layers": list(float_layers),
        "selection_accuracy": trials,
    }
    return Built(model=quantised(float_layers), spec=KIND.spec(context), made=made)


def _layers_in_fp32(
    context: VariantContext, count: int, quantised: Callable[[tuple[int, ...]], bytes]
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Return the layers that must stay in fp32 so that accuracy on the selection split falls by no more than allowed."""
    from mnist_edge.exporting.proof import selection_accuracy

    selection = context.selection
    if selection is None:
        raise BadFileError(
            f"{context.dataset.source}: too few training images to hold any out, which int8 chooses its layers by",
            hint="add images, or leave the variant out",
        )
    allowed = selection_accuracy(context.fp32, selection) - context.max_accuracy_drop
    return sensitive_layers(
        count, lambda layers: selection_accuracy(quantised(layers), selection), allowed, context.notify
    )


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
    advice="a quarter of the size; fast with VNNI",
    build=build,
)
