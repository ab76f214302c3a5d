"""The int8 variant: a reference in integers computes the same, and calibration and choices use training images alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_edge.contract import InputKind, Normalization
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.exporting import graph
from mnist_edge.exporting.variants import calibration, int8, schemes
from mnist_edge.exporting.variants.calibration import activation_ranges, calibration_set
from mnist_edge.exporting.variants.dense import Dense, dense_layers
from mnist_edge.exporting.variants.kind import VariantContext
from mnist_edge.exporting.variants.qdq import quantised_graph
from mnist_edge.exporting.variants.schemes import ARM, X86, X86_VNNI, Scheme, scheme_for
from mnist_edge.pixels import AFFINE, ImageFile, Images, normalize
from mnist_edge.records.data import Dataset
from mnist_edge.training.loop import held_out
from mnist_edge.training.model import build_model, linear_layers, reference_logits
from mnist_edge.training.recipes import find_recipe

FAST = find_recipe("fast")


@pytest.fixture
def context(variant_context: VariantContext) -> VariantContext:
    return variant_context


@functools.cache
def example(kind: InputKind, normalization: Normalization) -> tuple[nn.Sequential, bytes]:
    """A small network with large biases, and its fp32 export."""
    torch.manual_seed(1)
    network = build_model([24, 16])
    for layer in linear_layers(network):
        nn.init.uniform_(layer.bias, -1, 1)
    return network, exported(network, kind, normalization)


def exported(network: nn.Sequential, kind: InputKind = "uint8", normalization: Normalization = "seed") -> bytes:
    origin = graph.Origin(dataset="digits", weights_sha256="0" * 64, normalization=normalization)
    return graph.export_graph(network, kind, origin)


def by_integers(
    layers: Sequence[Dense], ranges: Sequence[float], images: Images, divisor: float, limit: int
) -> NDArray[np.float64]:
    """Logits as Jacob et al. 2018 define them, in 64-bit integers; zero points are 0, as a shift of all steps cancels."""
    values, scale = images.reshape(len(images), -1).astype(np.int64), 1 / divisor
    for layer, largest in zip(layers, (*ranges, None), strict=True):
        unit = np.abs(layer.weight).max() / limit
        sums = values @ np.rint(layer.weight / unit).astype(np.int64) + np.rint(layer.bias / (scale * unit)).astype(
            np.int64
        )
        real = sums * scale * unit
        if largest is None:
            return real
        scale = largest / 255
        values = np.clip(np.rint(real / scale), 0, 255).astype(np.int64)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("scheme", [X86_VNNI, X86, ARM], ids=lambda scheme: scheme.name)
def test_a_session_computes_what_integers_give(scheme: Scheme, kind: InputKind, digits: Dataset) -> None:
    """Weights, biases, zero points and rounding of every scheme; the shift of a normalisation is in the first bias."""
    normalization: Normalization = "mnist"
    network, model = example(kind, normalization)
    fp32 = onnx.load_model_from_string(model)
    images = digits.test_images[:64]
    layers = dense_layers(fp32, kind, normalization)
    divisor = AFFINE[normalization][0]
    ranges = (4.0, 2.0)
    proto = quantised_graph(fp32, layers, ranges, scheme, kind=kind, normalization=normalization)
    stored = {value.name: onnx.numpy_helper.to_array(value) for value in proto.graph.initializer}
    assert stored["image_zero_point"].dtype == np.uint8
    assert (stored["layer1_zero_point"].dtype, int(stored["layer1_zero_point"])) == (
        (np.int8, -128) if scheme is ARM else (np.uint8, 0)
    )
    expected = by_integers(layers, ranges, images, divisor, scheme.weight_limit)
    own = images if kind == "uint8" else normalize(images, normalization).reshape(64, -1)
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (found,) = session.run(["logits"], {session.get_inputs()[0].name: own})
        # A tie of the rounding may fall the other way in float32: one step of one activation.
        assert np.median(np.abs(found - expected)) < 1e-5
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    exact = reference_logits(network, images, normalization=normalization)
    assert 1e-4 < np.abs(expected - exact).max() < 0.2 * np.abs(exact).max()  # the control: integers are not exact


@pytest.mark.parametrize("opset", [18, 23])
def test_onnxruntime_makes_integer_products_of_it_and_nothing_else(opset: int, tmp_path: Path) -> None:
    """A cast of the image, or a (de)quantiser that is left over, would cost more than a small layer; fp32 stays fp32."""
    fp32 = onnx.load_model_from_string(example("uint8", "mnist")[1])
    fp32.opset_import[0].version = opset
    layers = dense_layers(fp32, "uint8", "mnist")
    for chosen, operators in (
        ((), ["Reshape", "QGemm", "QGemm", "QGemm"]),
        ((2, 3), ["Reshape", "QGemm", "DequantizeLinear", "FusedGemm", "Gemm"]),
        ((2,), ["Reshape", "QGemm", "DequantizeLinear", "Gemm", "QuantizeLinear", "QGemm"]),
    ):
        proto = quantised_graph(
            fp32, layers, (4.0, 2.0), X86_VNNI, kind="uint8", normalization="mnist", float_layers=chosen
        )
        assert proto.opset_import[0].version == opset
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4  # it warns that the file suits this CPU only
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == operators


def test_the_scheme_follows_the_cpu() -> None:
    """Without VNNI, x86 overflows with 8-bit weights; Arm multiplies signed by signed."""
    assert scheme_for(["avx2", "avx512_vnni"], "x86_64") == scheme_for(["avx_vnni"], "AMD64") == X86_VNNI
    assert scheme_for(["avx2", "avx512f"], "x86_64") == X86
    assert scheme_for(["asimd", "asimddp"], "aarch64") == scheme_for([], "arm64") == ARM
    assert (X86_VNNI.weight_limit, X86.weight_limit) == (127, 63)


GAINS = {1: 0.004, 2: 0.03, 3: 0.0, 4: 0.01}


@pytest.mark.parametrize(
    ("allowed", "layers"),
    [(0.95, ()), (0.98, (2,)), (0.99, (2, 4)), (0.9939, (1, 2, 4)), (0.999, (1, 2, 3, 4))],
)
def test_layers_return_to_fp32_only_as_far_as_the_limit_needs(allowed: float, layers: tuple[int, ...]) -> None:
    """The most harmful one first; where even fp32 misses the limit, every layer, and the proof decides."""
    lines: list[str] = []
    found, measured = int8.sensitive_layers(4, lambda chosen: 0.95 + sum(map(GAINS.get, chosen)), allowed, lines.append)
    assert found == layers
    assert len(lines) == len(layers)
    assert measured[",".join(map(str, layers))] == pytest.approx(0.95 + sum(map(GAINS.get, layers)))


@pytest.mark.slow
def test_only_the_layer_that_hurts_is_excluded_and_named(context: VariantContext) -> None:
    """A weight of a unit that never fires changes no output, but the scale of its layer: the others become 0."""
    network = build_model([layer.out_features for layer in linear_layers(context.network)[:-1]])
    network.load_state_dict(context.network.state_dict())
    first, second, _ = linear_layers(network)
    with torch.no_grad():
        first.weight[0], first.bias[0], second.weight[0, 0] = 0, -1, 1000
    lines: list[str] = []
    built = int8.build(dataclasses.replace(context, network=network, fp32=exported(network), notify=lines.append))
    assert built.made["float_layers"] == [2]
    assert lines[0].startswith("int8: layer 2 stays in fp32: ")
    assert int8.build(context).made["float_layers"] == []


def test_the_same_weights_give_the_same_file(context: VariantContext) -> None:
    """The manifest says how it was made, and nothing of this machine's clock or folders is in it."""
    built = int8.build(context)
    assert built.model == int8.build(context).model
    assert set(built.made) == {
        "scheme", "activations", "weights", "weight_limit", "calibration_images", "calibration_seed", "ranges",
        "layers", "float_layers", "selection_accuracy",
    }  # fmt: skip
    assert (built.made["calibration_images"], built.made["layers"]) == (1365, 3)
    assert (built.spec.name, built.spec.requirement, built.spec.max_accuracy_drop) == ("int8", "lossy", 0.05)


def test_calibration_takes_training_images_that_training_saw(digits: Dataset) -> None:
    """Not one test image and not one held-out image: both are for judging what calibration made."""
    held = {image.tobytes() for image in held_out(digits, FAST)[0]} | {image.tobytes() for image in digits.test_images}
    own = {image.tobytes() for image in digits.train_images} - held
    drawn = [image.tobytes() for batch in calibration_set(digits, FAST).batches() for image in batch]
    assert len(drawn) > 1000
    assert set(drawn) <= own


def test_calibration_takes_as_many_of_every_class_and_few_at_a_time(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare class is seen as often as a frequent one, and memory does not grow with the number of images."""
    monkeypatch.setattr(calibration, "PER_CLASS", 20)
    monkeypatch.setattr(calibration, "BATCH", 30)
    chosen = calibration_set(digits, FAST)
    labels = {image.tobytes(): label for image, label in zip(digits.train_images, digits.train_labels, strict=True)}
    batches = list(chosen.batches())
    assert [len(batch) for batch in batches] == [30] * 6 + [20]
    assert np.bincount([labels[image.tobytes()] for batch in batches for image in batch]).tolist() == [20] * 10


def test_ranges_are_the_largest_activations_of_pytorch(context: VariantContext) -> None:
    """Rounded up to three digits, over all batches."""
    layers = dense_layers(onnx.load_model_from_string(context.fp32), "uint8", "seed")
    chosen = calibration_set(context.dataset, FAST)
    values = torch.tensor(normalize(np.concatenate(list(chosen.batches())), "seed")).flatten(1)
    expected = []
    for layer in context.network[:-1]:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            expected.append(float(values.detach().max()))
    found = activation_ranges(layers, chosen, 127.5)
    assert all(1 - 1e-5 <= one / other <= 1.01 for one, other in zip(found, expected, strict=True))
    assert [float(f"{value:.3g}") for value in found] == list(found)


def test_images_in_a_file_give_the_same_ranges_and_stay_there(
    context: VariantContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's folder may be larger than the memory: only the images that were drawn are read."""
    data = context.dataset
    (tmp_path / "images").write_bytes(bytes(16) + data.train_images.tobytes())
    streamed = ImageFile(tmp_path / "images", np.array([[0, len(data.train_images)]]))
    monkeypatch.setattr(calibration, "PER_CLASS", 1000)  # every image, so that both draw the same ones
    whole = dataclasses.replace(FAST, holdout=0.0)
    chosen = calibration_set(dataclasses.replace(data, train_images=streamed), whole)
    assert isinstance(chosen.images, ImageFile)
    layers = dense_layers(onnx.load_model_from_string(context.fp32), "uint8", "seed")
    assert activation_ranges(layers, chosen, 127.5) == activation_ranges(layers, calibration_set(data, whole), 127.5)


def without(digits: Dataset, label: int, left: int) -> Dataset:
    """The digits with only so many training images of a class."""
    rows = np.flatnonzero(digits.train_labels != label)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(digits.train_labels == label)[:left]]))
    return dataclasses.replace(digits, train_images=digits.train_images[rows], train_labels=digits.train_labels[rows])


@pytest.mark.parametrize("left", [0, 4])
def test_too_few_images_of_a_class_are_refused(left: int, context: VariantContext) -> None:
    """Ranges that no image of a class took part in would clip that class; the line names it."""
    few = dataclasses.replace(
        context, dataset=without(context.dataset, 7, left), recipe=dataclasses.replace(FAST, holdout=0.0)
    )
    with pytest.raises(BadFileError, match=f"{left} training images of class 7, and calibration needs 5") as caught:
        int8.build(few)
    assert "leave the variant out" in caught.value.hint


def test_a_training_set_that_holds_nothing_out_is_refused(context: VariantContext) -> None:
    """Sensitivity would be measured on images that were trained on."""
    with pytest.raises(BadFileError, match="too few training images to hold any out"):
        int8.build(dataclasses.replace(context, recipe=dataclasses.replace(FAST, holdout=0.0)))


def test_a_graph_that_is_no_chain_of_layers_is_refused(context: VariantContext) -> None:
    """Another exporter's file is not quantised into something else."""
    proto = onnx.load_model_from_string(context.fp32)
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Tanh"
    with pytest.raises(UsageError, match=r"Tanh .* is no operator of a linear chain"):
        dense_layers(proto, "uint8", "seed")


def test_the_scheme_of_another_cpu_is_used_where_it_runs(
    context: VariantContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU without VNNI, the manifest states 7-bit weights, and the file has no larger one."""
    monkeypatch.setattr(schemes, "VNNI", set())
    monkeypatch.setattr(schemes.platform, "machine", lambda: "x86_64")
    built = int8.build(context)
    assert (built.made["scheme"], built.made["weight_limit"]) == ("x86 without VNNI", 63)
    stored = [onnx.numpy_helper.to_array(value) for value in onnx.load_model_from_string(built.model).graph.initializer]
    assert max(int(np.abs(value).max()) for value in stored if value.dtype == np.int8 and value.ndim == 2) == 63
