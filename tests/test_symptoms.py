"""Symptoms and layer outputs: each kind of fault, planted in arrays with known values, has its own name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from faults import gemms, get
from numpy.typing import NDArray

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.golden import golden_inputs
from mnist_edge.exporting import graph
from mnist_edge.records.data import Dataset
from mnist_edge.training.model import build_model, reference_pre_activations
from mnist_edge.training.state_dict import read_model
from mnist_edge.verification.intermediates import find_layers, run_intermediates
from mnist_edge.verification.layers import compare_layers
from mnist_edge.verification.reference import ReferenceLayers
from mnist_edge.verification.requirement import EXACT
from mnist_edge.verification.symptoms import FLOAT16_MAX, Case, drift, symptom

Floats = NDArray[np.float64]
RANDOM = np.random.default_rng(11)
FED = np.abs(RANDOM.normal(size=(60, 24)))
WEIGHT = RANDOM.normal(size=(24, 24))
BIAS = RANDOM.normal(size=24)
SUMS = FED @ WEIGHT + BIAS
ACTIVE = np.maximum(SUMS, 0)


def told(found: Floats, expected: Floats = SUMS, **more: Any) -> tuple[str, str]:
    return symptom(Case(found=found, expected=expected, allowed=1e-4, **more))


def product(weight: Floats, bias: Floats = BIAS, **more: Any) -> tuple[str, str]:
    """What is said of a layer that computes with these weights."""
    return told(FED @ weight + bias, layer_input=FED, weight=weight, **more)


def changed(place: tuple[int, int], value: float) -> Floats:
    weight = WEIGHT.copy()
    weight[place] = value
    return weight


def test_drift_by_hand() -> None:
    """The worst unit's root mean square error over the root mean square of all: 1 / 5."""
    expected = np.array([[3.0, 4.0], [-5.0, np.sqrt(50)]])
    assert np.sqrt(np.mean(expected**2)) == pytest.approx(5)
    found = expected + np.array([[0.5, -1.0], [0.5, 1.0]])
    assert drift(found, expected) == pytest.approx(1 / 5)
    assert drift(expected, expected) == 0
    assert drift(10 * found, 10 * expected) == pytest.approx(1 / 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_drift_of_what_is_no_number_is_infinite(value: float) -> None:
    """NaN is never small, and another shape never fits."""
    assert drift(np.array([[1, value]]), np.ones((1, 2))) == np.inf
    assert drift(np.ones((1, 2)), np.ones((1, 1))) == np.inf
    assert drift(np.ones((1, 1)), np.zeros((1, 1))) > 1e6  # a reference of nothing but zeros


def test_another_shape_is_told_with_both() -> None:
    """A layer of another width."""
    assert told(SUMS[:, :23]) == ("other shape", "it has 23 units, the reference 24")


def test_not_a_number_and_overflow_are_told_apart() -> None:
    """NaN in one unit names the unit; infinity is an overflow, even where it has made NaN as well."""
    found = SUMS.copy()
    found[3, 5] = np.nan
    assert told(found) == ("not a number", "unit 5 of 24 is NaN")
    found[4, 6] = np.inf
    assert told(found)[0] == "overflow"


@pytest.mark.parametrize(("limit", "named"), [(FLOAT16_MAX, "the largest of float16"), (3.0, "3")])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_plateau_is_saturation(limit: float, named: str, sign: int) -> None:
    """Values that stand still at a limit that the reference goes beyond."""
    expected = SUMS * limit / 3
    found = sign * np.minimum(sign * expected, limit)
    name, sentence = told(found, expected)
    assert name == "saturation"
    assert f"are {named}" in sentence or f"are -{named}" in sentence


def test_activations() -> None:
    """A ReLU too few shows below 0, one too many at 0."""
    assert told(SUMS, ACTIVE)[0] == "missing activation"
    assert told(ACTIVE, SUMS)[0] == "doubled activation"


def test_units_in_another_order() -> None:
    """Two are named, many are counted."""
    order = np.arange(24)
    order[[4, 9]] = 9, 4
    assert told(SUMS[:, order]) == ("permutation", "units 4 and 9 are swapped")
    assert told(np.roll(SUMS, 1, axis=1)) == ("permutation", "24 of its 24 units are in another order")


def test_a_transposed_weight_matrix() -> None:
    """Square: transposed; not square: its bytes in the order of the transposed one, whatever the bias."""
    assert product(WEIGHT.T)[0] == "transposition"
    wide = RANDOM.normal(size=(24, 15))
    turned = wide.reshape(15, 24).T  # the file stores (out, in)
    found = told(FED @ turned + 1, FED @ wide, layer_input=FED, weight=turned)
    assert found == ("transposition", "its weights are in the order of the transposed matrix")


def test_swapped_layers() -> None:
    """It computes with the weights of another, which has those that belong here."""
    other = RANDOM.normal(size=WEIGHT.shape)
    name, sentence = product(other, other_weights={2: RANDOM.normal(size=WEIGHT.shape), 5: WEIGHT, 7: WEIGHT[:, :3]})
    assert (name, "layer 5" in sentence) == ("swapped layers", True)


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("image transposed", lambda p: p.swapaxes(1, 2)),
        ("image mirrored", lambda p: p[:, :, ::-1]),
        ("image upside down", lambda p: p[:, ::-1]),
    ],
)
def test_turned_images(name: str, turn: Any) -> None:
    """A first layer that is fed the picture in another order of its pixels."""
    pictures, weight = RANDOM.uniform(0, 255, (48, 28, 28)), RANDOM.normal(0, 0.01, (784, 24))
    fed = turn(pictures).reshape(48, 784)
    assert told(fed @ weight, pictures.reshape(48, 784) @ weight, layer_input=fed, weight=weight)[0] == name


@pytest.mark.parametrize(
    ("scale", "shift", "name", "piece"),
    [
        (1 / 255, 0, "normalisation", "divided by 255 twice"),
        (-1, 255, "inverted pixels", "255 - x"),
        (1.5, -20, "normalisation", "as 1.5 x - 20"),
        (1, 94.17, "normalisation", "as 1 x + 94.17"),
    ],
)
def test_normalisations(scale: float, shift: float, name: str, piece: str) -> None:
    """Solved from the sums of a black and of a white image alone."""
    pixels = np.concatenate([RANDOM.uniform(0, 255, (40, 784)), np.zeros((1, 784)), np.full((1, 784), 255.0)])
    weight, bias = RANDOM.normal(0, 0.01, (784, 24)), RANDOM.normal(size=24)
    found = (scale * pixels + shift) @ weight + bias
    said = told(found, pixels @ weight + bias, black=40, white=41)
    assert said[0] == name
    assert piece in said[1]


def test_scale_shift_and_constant() -> None:
    """One factor for all units; an offset for each; nothing of the picture left."""
    assert told(1.2 * (SUMS - BIAS) + BIAS) == ("scale", "its weights are scaled by 1.2")
    assert told(SUMS + 2)[0] == "shift"
    assert "24 of its 24 units" in told(SUMS + 2)[1]
    moved = SUMS.copy()
    moved[:, 7] += 2
    assert told(moved) == ("shift", "unit 7 of 24 is shifted, at most by 2: a bias or zero point is wrong")
    assert told(np.tile(BIAS, (60, 1)))[0] == "constant"


def test_one_weight() -> None:
    """The weight itself is found, its value now and its right one; a flipped sign is told as such."""
    assert product(changed((8, 3), -WEIGHT[8, 3])) == ("flipped sign", "the sign of weight 8 of unit 3 is flipped")
    name, sentence = product(changed((8, 3), WEIGHT[8, 3] + 2))
    assert name == "one weight"
    assert sentence == f"weight 8 of unit 3 is {WEIGHT[8, 3] + 2:.4g}, not {WEIGHT[8, 3]:.4g}"


def test_one_unit_of_many() -> None:
    """One unit whose weights are others, where all the others are right."""
    weight = WEIGHT.copy()
    weight[:, 6] = RANDOM.normal(size=24)
    assert product(weight) == ("few units", "unit 6 of 24 is wrong, the others are right")


def test_random_weights_are_other_weights() -> None:
    """Nothing explains them, and nothing is made up."""
    assert product(RANDOM.normal(size=WEIGHT.shape))[0] == "other weights"
    assert told(RANDOM.normal(size=SUMS.shape))[0] == "other weights"
    assert told(RANDOM.uniform(size=SUMS.shape), ACTIVE)[0] == "other weights"


# Layer outputs, compared with PyTorch.


@pytest.fixture(scope="module")
def images(digits: Dataset) -> NDArray[np.uint8]:
    return golden_inputs(digits.test_images[:50], digits.test_labels[:50])[0]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_intermediates_are_pytorchs(kind: Any, images: NDArray[np.uint8]) -> None:
    """Every pre-activation and every activation of a network of any depth, found by the graph's shape alone."""
    torch.manual_seed(3)
    network = build_model([20, 30])
    data = graph.export_graph(network, kind, graph.Origin(dataset="digits", weights_sha256=""))
    found_values = run_intermediates(data, images)
    expected = reference_pre_activations(network, images)
    assert len(found_values.layers) == len(found_values.pre_activations) == len(found_values.inputs) == 3
    for number, sums in enumerate(expected):
        found = found_values.pre_activations[number]
        assert found is not None
        np.testing.assert_allclose(found, sums, atol=1e-5 * np.abs(sums).max())
        if number:
            np.testing.assert_allclose(found_values.inputs[number], np.maximum(expected[number - 1], 0), atol=1e-4)
        weight = found_values.layers[number].weight
        assert weight is not None
        assert weight.shape == (784 if number == 0 else (20, 30)[number - 1], (20, 30, 10)[number])
    assert found_values.output is not None
    np.testing.assert_allclose(found_values.output, expected[-1], atol=1e-4)


def test_the_golden_file_keeps_pytorchs_pre_activations(workplace: Path, bundle_folder: Path) -> None:
    """The first 32 test images and the 16 others, layer after layer, before the ReLU."""
    golden = load_bundle(bundle_folder).golden
    assert golden.layer_rows.tolist() == [*range(32), *range(360, 376)]
    assert golden.layer_widths.tolist() == [48, 32, 10]
    network = read_model(workplace / "runs" / "digits").network
    values = golden.images[golden.layer_rows].reshape(48, 784) / 127.5 - 1
    start = 0
    for layer in network:
        if not isinstance(layer, torch.nn.Linear):
            values = np.maximum(values, 0)
            continue
        values = values @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        kept = golden.pre_activations[:, start : start + values.shape[1]]
        np.testing.assert_allclose(kept, values, atol=1e-5 * np.abs(values).max())
        start += values.shape[1]
    assert start == golden.pre_activations.shape[1]


def test_a_network_that_never_was_the_reference_is_other_weights(images: NDArray[np.uint8]) -> None:
    """From the first layer on."""
    torch.manual_seed(4)
    network, other = build_model([20, 30]), build_model([20, 30])
    data = graph.export_graph(other, "uint8", graph.Origin(dataset="digits", weights_sha256=""))
    sums = reference_pre_activations(network, images)
    reference = ReferenceLayers(
        images=images,
        real=np.ones(len(images), bool),
        pre_activations=sums,
        activations=tuple(np.maximum(values, 0) for values in sums[:-1]),
        output=sums[-1],
    )
    found = compare_layers(data, EXACT, reference)
    assert (found.first, found.symptom, found.images) == (1, "other weights", len(images))
    reference = dataclasses.replace(reference, pre_activations=sums[:2], activations=sums[:1])
    found = compare_layers(data, EXACT, reference)
    assert (found.first, found.symptom, found.tensors) == (None, "other architecture", ())


def test_the_weights_found_are_those_of_the_file(bundle_folder: Path) -> None:
    """(fan_in, fan_out), though the file stores them the other way round."""
    proto = onnx.load(bundle_folder / "model.onnx")
    for layer, node in zip(find_layers(proto), gemms(proto), strict=True):
        assert layer.weight is not None
        assert np.array_equal(layer.weight, get(proto, node.input[1]).T)
