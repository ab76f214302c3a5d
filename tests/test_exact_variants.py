"""Exact variants: rounding that makes up for its errors, calibrated on training images, equal bytes everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import mnist_edge
from numpy.typing import NDArray
from test_student import checkpoint, student
from test_student_export import ALL4

from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.exporting.variants import exact, student_exact
from mnist_edge.exporting.variants.calibration import calibration_set
from mnist_edge.exporting.variants.dense import Dense, dense_layers
from mnist_edge.exporting.variants.integer_dense import integer_dense
from mnist_edge.exporting.variants.integer_student import integer_student
from mnist_edge.exporting.variants.kind import Built, VariantContext
from mnist_edge.exporting.variants.rounding import PAIR, product_errors, round_with_feedback
from mnist_edge.exporting.variants.student_graph import student_graph
from mnist_edge.integer_network import IntegerNetwork, check_network, integer_logits
from mnist_edge.records.data import Dataset
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.training.model import reference_logits
from mnist_edge.training.qat import deployed_network
from mnist_edge.training.student import quantised_network
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.precision import precision_of


@pytest.fixture
def context(variant_context: VariantContext) -> VariantContext:
    return variant_context


@pytest.fixture(scope="module", params=[8, 4])
def built(request: pytest.FixtureRequest, variant_context: VariantContext) -> Built:
    return exact.build(request.param, variant_context)


def test_few_predictions_change(built: Built, context: VariantContext) -> None:
    """Of 360 test images, which took no part: at most 2 in 8 bits, 8 in 4; and not none by accident of comparing."""
    images = context.dataset.test_images
    expected = reference_logits(context.network, images, normalization="seed")
    found = open_classifier(built.model).logits(images)
    flips = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    assert flips <= {"int8": 2, "int4": 8}[built.spec.precision]
    drift = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert 1e-4 < drift < {"int8": 0.02, "int4": 0.1}[built.spec.precision]


def test_the_file_is_the_integer_network(built: Built, context: VariantContext, tmp_path: Path) -> None:
    """What is read from it passes the check, gives onnxruntime's bytes, and states precision and weights of its parent."""
    network = read_integer_network(built.model)
    check_network(network)
    images = context.dataset.test_images[:50]
    assert integer_logits(network, images).tobytes() == open_classifier(built.model).logits(images).tobytes()
    (tmp_path / "model.onnx").write_bytes(built.model)
    assert precision_of(tmp_path / "model.onnx") == built.spec.precision
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(built.model).metadata_props}
    assert metadata == {entry.key: entry.value for entry in onnx.load_model_from_string(context.fp32).metadata_props}
    assert built.made["weight_bits"] == {"int8": 8, "int4": 4}[built.spec.precision]
    assert max(built.made["largest_sums"]) < 2**24


def test_the_same_weights_give_the_same_file(context: VariantContext) -> None:
    assert exact.build(8, context).model == exact.build(8, context).model


def test_a_bundle_of_normalised_pixels_is_2(context: VariantContext) -> None:
    """Floats are no integers: what a device would pass is not known to be a multiple of anything."""
    with pytest.raises(UsageError, match="int8-exact takes raw images, the bundle float"):
        exact.build(8, dataclasses.replace(context, input="float"))


def random_inputs(count: int, inputs: int) -> NDArray[np.float64]:
    """Correlated, as pixels are."""
    random = np.random.default_rng(1)
    return random.normal(size=(count, 8)) @ random.normal(size=(8, inputs)) + 0.1 * random.normal(size=(count, inputs))


@pytest.mark.parametrize(("limit", "gain"), [(7, 3), (127, 3)])
def test_feedback_rounds_better_than_to_nearest(limit: int, gain: float) -> None:
    """On correlated inputs the error of the products is several times smaller, with the same limits."""
    values = random_inputs(500, 70)
    covariance = np.cov(values.T, bias=True)
    rows = np.random.default_rng(2).normal(size=(20, 70))
    rows *= limit / np.abs(rows).max()
    found = round_with_feedback(rows, covariance, limit, pairs=False)
    assert (found == np.rint(found)).all()
    assert np.abs(found).max() <= limit
    nearest = product_errors(rows, np.clip(np.rint(rows), -limit, limit), covariance)
    errors = product_errors(rows, found, covariance)
    assert errors.mean() * gain < nearest.mean()
    centred = values - values.mean(axis=0)
    assert errors == pytest.approx((((rows - found) @ centred.T) ** 2).mean(axis=1))


def test_rounding_keeps_pairs_below_saturation() -> None:
    """Also where both weights of a pair ask for the limit, and where only feedback raises them."""
    values = random_inputs(300, 31)
    rows = np.random.default_rng(3).choice([-120.0, 120.0, 30.0], (50, 31))
    found = round_with_feedback(rows, np.cov(values.T, bias=True), 127, pairs=True)
    free = round_with_feedback(rows, np.cov(values.T, bias=True), 127, pairs=False)
    assert np.abs(pair_sums(found)).max() <= PAIR < np.abs(pair_sums(free)).max()
    assert PAIR * 255 <= 32767


def pair_sums(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
    return np.maximum(even.clip(min=0).sum(axis=2), -even.clip(max=0).sum(axis=2))


@pytest.mark.parametrize("bits", [8, 4])
def test_units_that_never_fire_and_extreme_weights_are_quantised(bits: int, context: VariantContext) -> None:
    """A row of zeros, one of huge weights, one with a bias that no weight reaches: each has a factor of its own."""
    layers = list(dense_layers(onnx.load_model_from_string(context.fp32), "uint8", "seed"))
    images = np.concatenate(list(calibration_set(context.dataset, context.recipe).batches()))
    first, second = layers[0], layers[1]
    weight, bias, after = first.weight.copy(), first.bias.copy(), second.weight.copy()
    weight[:, 0], bias[0], after[0] = 0, -5, 1000
    weight[:, 1] *= 1000
    bias[1] *= 1000
    after[1] /= 1000
    weight[:, 2], bias[2], after[2] = 0, 0, 0
    layers[:2] = Dense(weight, bias), Dense(after, second.bias)
    network = integer_dense(layers, 127.5, images, bits)
    check_network(network)
    values = context.dataset.test_images.reshape(-1, 784) / 127.5
    for layer in layers:
        expected = values @ layer.weight + layer.bias
        values = np.maximum(expected, 0)
    found = integer_logits(network, context.dataset.test_images)
    drift = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert drift < {8: 0.02, 4: 0.1}[bits]


def test_a_file_that_onnxruntime_computes_otherwise_is_not_published(
    context: VariantContext, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that differs in one logit of one image stands for a runtime that does."""
    network = read_integer_network(exact.build(8, context).model)
    exact.exact_model("int8-exact", network, 20, digits.test_images)

    def off_by_one(network: IntegerNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = integer_logits(network, images)
        logits[-1, -1] = np.nextafter(logits[-1, -1], np.float32(1e9))
        return logits

    monkeypatch.setattr(exact, "integer_logits", off_by_one)
    with pytest.raises(CheckFailedError, match="int8-exact: onnxruntime with the optimisation none does not compute"):
        exact.exact_model("int8-exact", network, 20, digits.test_images)


def test_a_network_that_saturates_is_not_published(context: VariantContext, digits: Dataset) -> None:
    """It would be right here, where a CPU has VNNI, and wrong on one that has not."""
    network = read_integer_network(exact.build(8, context).model)
    weight = network.layers[1].weight.copy()
    weight[5, 2:4] = 100
    layers = (network.layers[0], dataclasses.replace(network.layers[1], weight=weight), *network.layers[2:])
    with pytest.raises(CheckFailedError, match="layer 2: output 5: a pair of products may reach 51000"):
        exact.exact_model("int8-exact", IntegerNetwork(layers=layers), 20, digits.test_images)


def test_a_student_keeps_its_weights_and_its_logits(digits: Dataset) -> None:
    """Also where batch normalisation gave a negative scale, a row has no weights, and rows differ in scale by ten."""
    network = quantised_network(student(ALL4))
    first = network.layers[0]
    integers, scale = first.integers.copy(), first.scale.copy()
    scale[1] *= -1
    scale[2] /= 10
    integers[3] = 0
    network = dataclasses.replace(
        network, layers=(dataclasses.replace(first, integers=integers, scale=scale), *network.layers[1:])
    )
    found = integer_student(network, digits.train_images[:300])
    check_network(found)
    for one, other in zip(found.layers, network.layers, strict=True):
        assert (np.abs(one.weight) == np.abs(other.integers)).all()
        assert one.multiplier.max() > 64  # six bits and more
    assert (found.layers[0].weight[1] == -integers[1]).all()
    expected = reference_logits(deployed_network(network), digits.test_images, normalization="raw")
    logits = integer_logits(found, digits.test_images)
    centred = expected - expected.mean(axis=0)
    assert 1e-4 < np.sqrt(((logits - expected) ** 2).mean() / (centred**2).mean()) < 0.05


@pytest.fixture
def with_run(context: VariantContext, monkeypatch: pytest.MonkeyPatch) -> VariantContext:
    """With a run of student-3k that knows nothing; students are not trained here."""
    monkeypatch.setattr(
        student_exact, "trained_student", lambda _name, _context: (checkpoint(ALL4), quantised_network(student(ALL4)))
    )
    return context


def test_the_variant_of_a_student_is_the_student_on_integers(with_run: VariantContext, tmp_path: Path) -> None:
    """Its file is an integer network in 4 bits, at most half a kilobyte larger than the student's; its run is in `made`."""
    built = student_exact.build("3k", with_run)
    check_network(read_integer_network(built.model))
    assert (built.spec.name, built.spec.requirement) == ("student-3k-exact", "accuracy")
    assert {"recipe", "epochs", "seed", "shifts"} <= set(built.made)
    (tmp_path / "model.onnx").write_bytes(built.model)
    assert precision_of(tmp_path / "model.onnx") == "int4"
    assert len(built.model) < len(student_graph(quantised_network(student(ALL4)), with_run.opset)) + 512


def test_a_student_that_loses_too_much_is_not_published(
    with_run: VariantContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its held-out accuracy may fall by what the variant may lose, and no further."""
    from mnist_edge.exporting import proof

    right = iter([0.99, 0.945, 0.99, 0.939])
    monkeypatch.setattr(proof, "selection_accuracy", lambda _model, _selection: next(right))
    student_exact.build("3k", with_run)
    with pytest.raises(CheckFailedError, match=r"right on 93\.90% of the held-out images, the student on 99\.00%"):
        student_exact.build("3k", with_run)


@pytest.mark.slow
def test_at_most_five_predictions_of_mnist_change(mnist_folder: Path, tmp_path: Path) -> None:
    """Of 10,000 test images in 8 bits; as small as int8, and the sha256 is the same unfused."""
    environment = {"MNIST_EDGE_DATA": str(mnist_folder)}
    trained = mnist_edge("train", "--dataset", "mnist", "--run", "runs/mnist", cwd=tmp_path, **environment)
    assert trained.code == 0, trained.err
    options = ["--variant", "int8", "--variant", "int8-exact"]
    exported = mnist_edge("export", "--run", "runs/mnist", *options, "--json", cwd=tmp_path, **environment)
    assert exported.code == 0, exported.err
    found = {row["name"]: row for row in exported.json["variants"]}
    assert found["int8-exact"]["flips"] <= 5
    assert found["int8-exact"]["bytes"] <= found["int8"]["bytes"]
    options = ["--variant", "int8-exact", "--optimization", "none", "--json"]
    unfused = mnist_edge("verify", "exported/mnist", *options, cwd=tmp_path, **environment)
    assert unfused.code == 0, unfused.err
    assert unfused.json["variants"][0]["outputs_sha256"] == found["int8-exact"]["outputs_sha256"]["test"]
