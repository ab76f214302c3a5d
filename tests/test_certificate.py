"""The portability certificate: no machine leaves the bounds, and what is certain no machine changes.

The machines of `machines.py` round once an operation, in any order and format. The bounds themselves are compared with
the same formulas in rational arithmetic, one scalar at a time.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import Machine
from numpy.typing import NDArray
from onnx import numpy_helper
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line
from torch import nn

from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.bundle.golden import golden_bytes
from mnist_edge.contract import ArithmeticName
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.integer_network import IntegerLayer, IntegerNetwork, integer_logits
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.verification.arithmetic import ARITHMETICS, FLOAT64
from mnist_edge.verification.bounds import NoCertificateError
from mnist_edge.verification.certificate import bound_logits, certify, exact_logits
from mnist_edge.verification.certified import certify_integers, certify_model
from mnist_edge.verification.integer_graph import integer_graph
from mnist_edge.verification.linear_chain import LinearChain, LinearLayer, read_linear_chain
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.verify import VerifyOptions, verify_bundle


def net(seed: int, widths: tuple[int, ...], scale: float = 1.0) -> LinearChain:
    """A network with random weights, some of them subnormal or 0, as after weight decay."""
    random = np.random.default_rng(seed)
    layers = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
        weight = random.normal(0, scale / fan_in**0.5 / (100 if number == 1 else 1), (fan_out, fan_in))
        weight[random.random(weight.shape) < 0.05] = 0
        weight[random.random(weight.shape) < 0.05] *= 1e-39
        layers.append(
            LinearLayer(
                weight=weight.astype(np.float32),
                bias=random.normal(0, 0.3, fan_out).astype(np.float32),
                relu=number < len(widths) - 1,
            )
        )
    return LinearChain(layers=tuple(layers), input_dtype="uint8")


def pixels(seed: int, count: int, width: int) -> NDArray[np.uint8]:
    """Images with many zeros, as MNIST has them."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (count, width), dtype=np.uint8)
    return np.where(random.random(values.shape) < 0.5, np.uint8(0), values)


MACHINES = st.builds(
    Machine,
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(["random", "tree", "signs", "blocks"]),
    fused=st.booleans(),
    flush=st.booleans(),
    truncate=st.booleans(),
    stored=st.booleans(),
)
NETS = st.tuples(st.integers(0, 10**6), st.sampled_from([(6, 3), (12, 8, 4), (16, 12, 9, 5)]), st.sampled_from([1, 30]))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@settings(max_examples=30, deadline=None)
@given(drawn=NETS, machine=MACHINES, floats=st.booleans())
def test_no_machine_leaves_the_bounds(
    arithmetic: ArithmeticName, drawn: tuple[int, tuple[int, ...], float], machine: Machine, *, floats: bool
) -> None:
    """Any order, fused or not, subnormals flushed or not, of pixels or of floats: the bound is a promise about all."""
    seed, widths, scale = drawn
    chain, inputs = net(seed, widths, scale), pixels(seed, 4, widths[0])
    given_inputs = inputs / np.float32(3) if floats else inputs
    # binary32 is rounded to nearest; only the coarser formats are for hardware that truncates.
    order = "random" if arithmetic == "fp32" and machine.order == "blocks" else machine.order
    machine = dataclasses.replace(machine, arithmetic=arithmetic, order=order)
    found = machine.logits(chain, given_inputs).astype(np.float64)
    bounds = bound_logits(chain, given_inputs, ARITHMETICS[arithmetic])
    assert (np.abs(found - bounds.logits) <= bounds.errors).all()
    predictions = bounds.logits.argmax(axis=1)
    certain = certify(chain, given_inputs, predictions, ARITHMETICS[arithmetic]).certain
    assert (found.argmax(axis=1) == predictions)[certain].all()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("first", [1e-40, 1e-38, 1e-36, 1e-8, 1e-5])
def test_values_that_are_flushed_to_zero_are_within_the_bounds(arithmetic: ArithmeticName, first: float) -> None:
    """Relative errors say nothing about what underflows: as a weight, a product, a bias or an activation."""
    chain = net(3, (12, 8, 4))
    hidden = LinearLayer(
        weight=chain.layers[0].weight * np.float32(first), bias=np.full(8, first, np.float32), relu=True
    )
    last = LinearLayer(weight=chain.layers[1].weight * np.float32(1000), bias=np.zeros(4, np.float32), relu=False)
    chain, inputs = LinearChain(layers=(hidden, last), input_dtype="uint8"), pixels(3, 8, 12)
    bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
    for flush in (True, False):
        found = Machine(seed=0, flush=flush, arithmetic=arithmetic, stored=True).logits(chain, inputs)
        assert (np.abs(found - bounds.logits) <= bounds.errors).all()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_thousandth_of_the_bound_is_violated(arithmetic: ArithmeticName) -> None:
    """A bound that nothing comes near would prove anything, and certify nothing."""
    chain, inputs = net(1, (16, 12, 9, 5)), pixels(1, 40, 16)
    bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
    machine = Machine(seed=1, order="signs", flush=True, arithmetic=arithmetic, truncate=True)
    assert (np.abs(machine.logits(chain, inputs) - bounds.logits) > bounds.errors / 1000).any()


def exactly(chain: LinearChain, row: NDArray[np.generic]) -> list[list[Fraction]]:
    """The outputs of every layer for one image before its ReLU, without any rounding."""
    values, found = [Fraction(float(value)) for value in row], []
    for layer in chain.layers:
        sums = [
            sum((Fraction(float(w)) * a for w, a in zip(weights, values, strict=True)), Fraction(float(bias)))
            for weights, bias in zip(layer.weight, layer.bias, strict=True)
        ]
        found.append(sums)
        values = [max(value, Fraction(0)) for value in sums] if layer.relu else sums
    return found


def gamma(terms: int, unit: Fraction) -> Fraction:
    return terms * unit / (1 - terms * unit)


Layers = list[tuple[LinearLayer, list[Fraction], list[Fraction], list[Fraction]]]


def layers_by_hand(chain: LinearChain, row: NDArray[np.generic]) -> Layers:
    """Each layer with its outputs, what it adds to their errors, and bounds of their whole errors, for binary32."""
    single, double = Fraction(1, 2**24), Fraction(1, 2**53)
    values = [Fraction(float(value)) for value in row]
    errors, layers = [Fraction(0)] * len(row), []
    for layer, outputs in zip(chain.layers, exactly(chain, row), strict=True):
        terms = sum(a != 0 or e > 0 for a, e in zip(values, errors, strict=True)) + 1
        own = []
        for weights, bias in zip(layer.weight, layer.bias, strict=True):
            sizes = [abs(Fraction(float(w))) for w in weights]
            rounded = sum(
                w * (gamma(terms, single) * (abs(a) + e) + gamma(terms, double) * abs(a))
                for w, a, e in zip(sizes, values, errors, strict=True)
            )
            own.append(rounded + (gamma(terms, single) + gamma(terms, double)) * abs(Fraction(float(bias))))
        whole = [
            o + sum(abs(Fraction(float(w))) * e for w, e in zip(weights, errors, strict=True))
            for o, weights in zip(own, layer.weight, strict=True)
        ]
        layers.append((layer, outputs, own, whole))
        values = [max(z, Fraction(0)) for z in outputs]
        errors = [e if z + e > 0 else Fraction(0) for z, e in zip(outputs, whole, strict=True)]
    return layers


def error_by_hand(layers: Layers, weights: list[int]) -> Fraction:
    """A bound on the error of a weighted sum of the logits."""
    influence = [Fraction(weight) for weight in weights]
    total = sum(abs(i) * a for i, a in zip(influence, layers[-1][2], strict=True))
    for (above, *_), (_, outputs, added, whole) in pairwise(reversed(layers)):
        columns = [[Fraction(float(w)) for w in column] for column in above.weight.T]
        influence = [sum(i * w for i, w in zip(influence, column, strict=True)) for column in columns]
        total += sum(abs(i) * max(e - abs(z), 0) for i, e, z in zip(influence, whole, outputs, strict=True))
        influence = [i if z > 0 else Fraction(0) for i, z in zip(influence, outputs, strict=True)]
        total += sum(abs(i) * a for i, a in zip(influence, added, strict=True))
    return min(total, sum(abs(weight) * e for weight, e in zip(weights, layers[-1][3], strict=True)))


def on_the_bend(seed: int, inputs: NDArray[np.uint8]) -> LinearChain:
    """A 7-6-5-3 network whose first hidden units are within a rounding error of 0 for the first image."""
    random = np.random.default_rng(seed)
    layers = [
        LinearLayer(
            weight=random.normal(0, 1, (fan_out, fan_in)).astype(np.float32),
            bias=random.normal(0, 1, fan_out).astype(np.float32),
            relu=number < 3,
        )
        for number, (fan_in, fan_out) in enumerate(pairwise((7, 6, 5, 3)), 1)
    ]
    bias = -(layers[0].weight.astype(np.float64) @ inputs[0]).astype(np.float32)
    layers[0] = dataclasses.replace(layers[0], bias=bias)
    return LinearChain(layers=tuple(layers), input_dtype="uint8")


def test_what_tensor_cores_cut_off_is_within_the_bounds() -> None:
    """Every term after the first lies just below its last bit, and is lost: twice as much as rounding loses."""
    weight = np.full((2, 64), 2.0**-24 * (2 - 2**-9), np.float32)  # 11 bits
    weight[:, 0] = 1
    layer = LinearLayer(weight=weight, bias=np.zeros(2, np.float32), relu=False)
    chain, inputs = LinearChain(layers=(layer,), input_dtype="uint8"), np.ones((1, 64), np.uint8)
    bounds = bound_logits(chain, inputs, ARITHMETICS["tf32"])
    lost = np.abs(Machine(0, "blocks", arithmetic="tf32").logits(chain, inputs) - bounds.logits)
    assert (lost <= bounds.errors).all()
    assert (lost > bounds.errors / 4).all()


@pytest.mark.parametrize(
    ("arithmetic", "bits", "truncate"), [("fp16", 11, False), ("bf16", 8, False), ("tf32", 11, True)]
)
def test_activations_that_are_rounded_as_badly_as_can_be_are_within_the_bounds(
    arithmetic: ArithmeticName, bits: int, *, truncate: bool
) -> None:
    """Two activations between two numbers of the format, whose errors add up where one is subtracted from the other."""
    half = 2.0**-bits
    parts = (0.0, 2 * half * (1 - 2**-6)) if truncate else (3 * half, half)  # half to even: one up, one down
    hidden = LinearLayer(weight=np.ones((2, 1), np.float32), bias=np.float32(parts), relu=True)
    last = LinearLayer(weight=np.float32([[2**10, -(2**10)], [0, 0]]), bias=np.zeros(2, np.float32), relu=False)
    chain, inputs = LinearChain(layers=(hidden, last), input_dtype="uint8"), np.uint8([[1]])
    bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
    apart = np.abs(Machine(0, arithmetic=arithmetic, truncate=truncate).logits(chain, inputs) - bounds.logits)
    assert apart[0, 0] <= bounds.errors[0, 0]
    assert apart[0, 0] > bounds.errors[0, 0] / 3


@pytest.mark.parametrize("seed", range(4))
def test_the_bounds_are_those_of_the_formulas(seed: int) -> None:
    """One scalar at a time in rational arithmetic: a term too few, or a transposed weight, is a wrong bound."""
    inputs = pixels(seed, 3, 7)
    chain = on_the_bend(seed, inputs)
    found, here = bound_logits(chain, inputs, ARITHMETICS["fp32"]), bound_logits(chain, inputs, FLOAT64)
    for image, row in enumerate(inputs):
        layers, exact = layers_by_hand(chain, row), exactly(chain, row)[-1]
        by_hand = [float(error_by_hand(layers, [int(j == logit) for j in range(3)])) for logit in range(3)]
        np.testing.assert_allclose(found.errors[image], by_hand, rtol=1e-7)  # by hand at the exact activations
        assert all(
            abs(Fraction(float(z)) - value) <= Fraction(float(e))
            for z, value, e in zip(here.logits[image], exact, here.errors[image], strict=True)
        )
        for label in range(3):
            others = [j for j in range(3) if j != label]
            weights = [[(k == label) - (k == j) for k in range(3)] for j in others]
            allowed = [float(error_by_hand(layers, signs)) for signs in weights]
            margins = [float(exact[label] - exact[j]) for j in others]
            closest = int(np.argmin(np.subtract(margins, allowed)))
            certainty = certify(chain, row[None], np.array([label]), ARITHMETICS["fp32"])
            np.testing.assert_allclose(certainty.allowed[0], allowed[closest], rtol=1e-7)
            np.testing.assert_allclose(certainty.margins[0], margins[closest], rtol=1e-9)
            assert certainty.certain[0] == (margins[closest] > allowed[closest])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_machines_that_see_a_unit_on_the_other_side_of_0_stay_within_the_bounds(arithmetic: ArithmeticName) -> None:
    """Rounding decides whether such a unit is active at all."""
    inputs = pixels(0, 1, 7)
    for seed in range(20):
        chain = on_the_bend(seed, inputs)
        bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
        found = Machine(seed, "signs", arithmetic=arithmetic, truncate=seed % 2 == 0).logits(chain, inputs)
        assert (np.abs(found - bounds.logits) <= bounds.errors).all()


def test_the_margin_is_compared_with_what_both_logits_can_lose() -> None:
    """By hand: two classes with equal weights share all error of their inputs, and their biases decide."""
    hidden = LinearLayer(weight=np.float32([[0.1, 0.2]]), bias=np.float32([0.3]), relu=True)
    last = LinearLayer(weight=np.float32([[1e6], [1e6]]), bias=np.float32([0, 0.5]), relu=False)
    inputs = np.uint8([[255, 255]])
    chain = LinearChain(layers=(hidden, last), input_dtype="uint8")
    found = certify(chain, inputs, np.array([1]), ARITHMETICS["fp32"])
    shared = float(bound_logits(chain, inputs, ARITHMETICS["fp32"]).errors[0, 1])
    assert found.margins[0] == pytest.approx(0.5)
    # In its last layer alone each logit is rounded by up to 2 gamma_2 of 7.7e7: no certificate for a margin of 0.5.
    assert not found.certain[0]
    assert found.allowed[0] < 2 * shared
    assert certify(chain, inputs, np.array([0]), ARITHMETICS["fp32"]).margins[0] == pytest.approx(-0.5)


def test_every_way_of_reading_the_weights_counts() -> None:
    """A weight of 1.0007 is 1.001 to a machine that rounds it to TF32, and 1 to one that truncates it."""
    layer = LinearLayer(weight=np.float32([[1 + 1.5 * 2**-11], [1]]), bias=np.float32([0, 0.1]), relu=False)
    chain, inputs = LinearChain(layers=(layer,), input_dtype="uint8"), np.uint8([[255]])
    for label, margin in ((0, -0.1), (1, 0.1 - 255 * 2**-10)):
        found = certify(chain, inputs, np.array([label]), ARITHMETICS["tf32"])
        assert not found.certain[0]
        assert found.margins[0] == pytest.approx(margin, abs=1e-6)
        assert found.allowed[0] < 1e-3
    assert certify(chain, inputs, np.array([0]), ARITHMETICS["fp32"]).certain[0]


def test_the_difference_from_the_predicting_network_counts_for_both_logits() -> None:
    """One may be higher and the other lower."""
    chain, inputs = net(2, (12, 8, 4)), pixels(2, 5, 12)
    exact, arithmetic = exact_logits(chain, inputs), ARITHMETICS["fp32"]
    alone = certify(chain, inputs, exact.argmax(axis=1), arithmetic)
    apart = certify(chain, inputs, exact.argmax(axis=1), arithmetic, difference=3.0)
    np.testing.assert_allclose(apart.allowed - alone.allowed, 6)
    np.testing.assert_allclose(apart.bounds.errors - alone.bounds.errors, 3)
    other = exact.astype(np.float32)
    other[:, 2] += 0.5
    apart = certify(chain, inputs, exact.argmax(axis=1), arithmetic, reference=other)
    np.testing.assert_allclose(apart.allowed - alone.allowed, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "arithmetic", "message"),
    [
        (7e4, "fp16", r"the weights of layer 1 reach inf, and the format ends at 65504"),
        (3e4, "fp16", r"the inputs of layer 2 reach 1\.53e\+07, and the format ends at 65504"),
        (1e38, "fp32", "the sums of layer 1 may overflow binary32"),
    ],
)
def test_values_beyond_the_format_have_no_certificate(weight: float, arithmetic: ArithmeticName, message: str) -> None:
    """Infinity is no rounding error."""
    layer = LinearLayer(weight=np.float32([[weight, weight]]), bias=np.float32([0]), relu=True)
    last = LinearLayer(weight=np.float32([[1e-30], [0]]), bias=np.float32([0, 0]), relu=False)
    chain = LinearChain(layers=(layer, last), input_dtype="uint8")
    with pytest.raises(NoCertificateError, match=message):
        bound_logits(chain, np.uint8([[255, 255]]), ARITHMETICS[arithmetic])


def test_logits_behind_a_relu_have_no_certificate() -> None:
    layer = LinearLayer(weight=np.float32([[1], [2]]), bias=np.float32([0, 0]), relu=True)
    with pytest.raises(NoCertificateError, match="the logits pass a Relu"):
        bound_logits(LinearChain(layers=(layer,), input_dtype="uint8"), np.uint8([[1]]), ARITHMETICS["fp32"])


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_thousands_of_orders_of_a_real_network_stay_within_the_bounds(
    arithmetic: ArithmeticName, mnist_folder: Path
) -> None:
    """The seed's own weights, 784-600-400-200-100-10, on test images; and a thousandth of the bound is violated."""
    from mnist_edge.data.sources import load_test_set
    from mnist_edge.exporting.exact import chain_of
    from mnist_edge.exporting.graph import fold_normalization
    from mnist_edge.training.state_dict import read_model

    path = mnist_folder / "seed" / "mnist.pth"
    if not path.is_file():
        pytest.skip("the seed's mnist.pth is not beside MNIST")
    chain = chain_of(fold_normalization(read_model(path).network, "seed"))
    images = load_test_set("mnist", mnist_folder, may_download=False).test_images
    inputs = images[[0, 8]].reshape(2, -1)
    bounds = bound_logits(chain, inputs, ARITHMETICS[arithmetic])
    largest = 0.0
    for seed in range(300):  # each of 1,310 units draws an order of its own
        order = ("random", "tree", "signs", "random")[seed % 4]
        machine = Machine(
            seed, order, fused=seed % 3 == 0, flush=seed % 2 == 0, arithmetic=arithmetic, truncate=seed % 5 == 0
        )
        apart = np.abs(machine.logits(chain, inputs) - bounds.logits) / bounds.errors
        assert (apart <= 1).all()
        largest = max(largest, float(apart.max()))
    assert largest > 1 / 1000


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def rows_of(bundle: Bundle) -> NDArray[np.uint8]:
    return bundle.golden.images.reshape(-1, 784)


@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
def test_onnxruntime_stays_within_the_bounds(optimization: str, bundle: Bundle) -> None:
    """At every optimisation level and at batch sizes with different kernels."""
    from mnist_edge.records.settings import SessionSettings

    bounds = bound_logits(read_linear_chain(bundle.folder / "model.onnx"), rows_of(bundle), ARITHMETICS["fp32"])
    classifier = open_classifier(bundle.folder / "model.onnx", SessionSettings(optimization=optimization), trial=False)
    for batch in (1, 7, None):
        assert (np.abs(classifier.logits(bundle.golden.images, batch) - bounds.logits) <= bounds.errors).all()


def test_pytorch_stays_within_the_bounds(bundle: Bundle) -> None:
    """The graph's weights in PyTorch; and its own network, with the recorded difference added."""
    chain = read_linear_chain(bundle.folder / "model.onnx")
    bounds = bound_logits(chain, rows_of(bundle), ARITHMETICS["fp32"])
    modules: list[nn.Module] = []
    for layer in chain.layers:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        linear.weight.data, linear.bias.data = torch.tensor(layer.weight), torch.tensor(layer.bias)
        modules += [linear, nn.ReLU()]
    with torch.no_grad():
        found = nn.Sequential(*modules[:-1])(torch.tensor(rows_of(bundle)).float()).numpy()
    assert (np.abs(found - bounds.logits) <= bounds.errors).all()
    np.testing.assert_allclose(bundle.golden.exact_logits, exact_logits(chain, rows_of(bundle)), rtol=0, atol=1e-10)
    assert 0 < bundle.golden.form_difference[0] < 1e-4


def verified(bundle: Bundle, data: Dataset | None, **options: object) -> VariantParity:
    report = verify_bundle(bundle, recorded_reference(bundle, data), VerifyOptions(**options))  # type: ignore[arg-type]
    return report.variants[0]


def test_a_bundle_is_certified_and_its_manifest_says_so(bundle: Bundle, digits: Dataset) -> None:
    """The share, and every image that is left out; the certificate of `export` is the one of `verify`."""
    found = verified(bundle, digits)
    certificate = found.certificate
    assert certificate is not None
    assert found.certificate_reason == ""
    assert certificate.arithmetic == "fp32"
    assert certificate.certified == 1 - len(certificate.uncertified) / found.images
    assert certificate.certified > 0.98
    assert 0 < certificate.largest_bound < 0.1
    assert all(case.margin <= case.bound for case in certificate.uncertified)
    (recorded,) = bundle.manifest.parity["variants"]
    assert recorded["certificate"]["certified"] == certificate.certified


def test_coarser_arithmetic_certifies_less(bundle: Bundle, digits: Dataset) -> None:
    shares = {}
    for arithmetic in ARITHMETICS:
        certificate = verified(bundle, digits, arithmetic=arithmetic).certificate
        assert certificate is not None
        assert certificate.arithmetic == arithmetic
        shares[arithmetic] = certificate.certified
    assert shares["fp32"] > shares["bf16"]
    assert shares["fp32"] >= shares["tf32"] >= shares["bf16"]


def with_weight(bundle: Bundle, factor: float) -> bytes:
    """The model with its largest weight of the last layer multiplied."""
    proto = onnx.load(bundle.folder / "model.onnx")
    name = next(node.input[1] for node in reversed(proto.graph.node) if node.op_type == "Gemm")
    stored = next(value for value in proto.graph.initializer if value.name == name)
    weight = numpy_helper.to_array(stored).copy()
    weight.flat[np.abs(weight).argmax()] *= np.float32(factor)
    stored.CopyFrom(numpy_helper.from_array(weight, name))
    return proto.SerializeToString()


@pytest.mark.parametrize("factor", [1.001, 1 + 2**-20])
def test_a_slightly_wrong_weight_is_not_certified(
    factor: float, bundle: Bundle, digits: Dataset, tmp_path: Path
) -> None:
    """Every hash renewed, and at 2**-20 every logit within the tolerance: the exact logits tell."""
    folder = rewrite_bundle(bundle.folder, tmp_path / "b", model=with_weight(bundle, factor))
    found = verified(load_bundle(folder), digits)
    assert found.certificate is None
    assert found.certificate_reason.startswith("the graph is not the one whose exact logits were recorded")
    assert found.passed == (factor < 1.001)


def test_an_image_that_the_reference_predicts_otherwise_is_not_certified(
    bundle: Bundle, digits: Dataset, tmp_path: Path
) -> None:
    """The certificate is about the reference's predictions, not about the graph's own."""
    golden = bundle.golden
    logits = golden.test_logits.copy()
    image = int(np.flatnonzero(logits.argmax(axis=1) == 3)[0])
    logits[image, 5] = logits[image].max() + 1
    folder = rewrite_bundle(
        bundle.folder, tmp_path / "b", golden=golden_bytes(dataclasses.replace(golden, test_logits=logits))
    )
    certificate = verified(load_bundle(folder), digits).certificate
    assert certificate is not None
    (case,) = [case for case in certificate.uncertified if case.image == image]
    assert case.margin < 0


def test_a_difference_between_the_forms_is_added(bundle: Bundle, digits: Dataset, tmp_path: Path) -> None:
    """PyTorch's own network may lie that far from the graph: a large difference leaves nothing certain."""
    apart = dataclasses.replace(bundle.golden, form_difference=np.array([100.0]))
    folder = rewrite_bundle(bundle.folder, tmp_path / "b", golden=golden_bytes(apart))
    certificate = verified(load_bundle(folder), digits).certificate
    assert certificate is not None
    assert (certificate.certified, round(certificate.largest_bound)) == (0, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form_difference": np.array([-1.0])}, "form_difference: -1.0 is no difference"),
        ({"form_difference": np.array([np.nan])}, "form_difference holds NaN"),
        ({"exact_logits": np.zeros((376, 10))}, "exact_logits: they are not near its logits"),
        ({"exact_logits": np.zeros((3, 10))}, "exact_logits is of shape"),
    ],
)
def test_recorded_values_that_no_export_writes_are_refused(
    change: dict[str, NDArray[np.float64]], message: str, bundle: Bundle, tmp_path: Path
) -> None:
    golden = golden_bytes(dataclasses.replace(bundle.golden, **change))  # type: ignore[arg-type]
    folder = rewrite_bundle(bundle.folder, tmp_path / "b", golden=golden)
    with pytest.raises(BadFileError, match=message):
        load_bundle(folder)


def test_int8_has_no_certificate_and_its_operator_is_named(two_variant_bundle: Path, digits: Dataset) -> None:
    bundle = load_bundle(two_variant_bundle)
    report = verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions())
    assert report.variants[0].certificate is not None
    assert report.variants[1].certificate is None
    assert "DequantizeLinear" in report.variants[1].certificate_reason
    assert "no operator of a linear chain" in report.variants[1].certificate_reason


def test_any_file_is_certified_against_another_with_their_difference(bundle: Bundle, tmp_path: Path) -> None:
    """A weight of another size: what is certain is certain to be the other file's prediction."""
    other = tmp_path / "other.onnx"
    other.write_bytes(with_weight(bundle, 1.05))
    model, shares = bundle.folder / "model.onnx", []
    for against in (model, other):
        done = in_process("verify", model, "--against", against, "--dataset", "digits", "--json", cwd=tmp_path)
        shares.append(done.json["variants"][0]["certificate"])
    assert shares[0]["certified"] > 0.98
    assert shares[1]["certified"] <= shares[0]["certified"]
    assert shares[1]["largest_bound"] > 10 * shares[0]["largest_bound"]


def test_the_command_names_the_arithmetic(bundle: Bundle, tmp_path: Path) -> None:
    done = in_process("verify", bundle.folder, "--arithmetic", "bf16", cwd=tmp_path)
    assert done.code == 0
    assert "predictions are certain on every machine that computes in bf16" in " ".join(done.out.split())
    np.savez(tmp_path / "o.npz", logits=bundle.golden.logits, images_sha256=np.zeros(32, np.uint8))
    done = in_process("verify", bundle.folder, "--outputs", "o.npz", "--arithmetic", "fp16", cwd=tmp_path)
    assert done.code == 2
    assert "--arithmetic has no effect on recorded outputs" in one_line(done.err)


def integers(multiplier: int = 1) -> IntegerNetwork:
    """One dense layer with weights of 3 bits."""
    random = np.random.default_rng(0)
    layer = IntegerLayer(
        weight=random.integers(-7, 8, (10, 784, 1, 1)).astype(np.int8),
        bits=4,
        multiplier=np.full(10, multiplier, np.int32),
        bias=np.zeros(10, np.int32),
        shift=3,
        stride=1,
        size=1,
    )
    return IntegerNetwork(layers=(layer,))


@pytest.mark.parametrize(
    ("multiplier", "arithmetic", "refused"),
    [
        (1, "fp32", ""),
        (1, "tf32", ""),
        (1, "bf16", ""),
        (1, "fp16", "fp16 may not hold its values"),
        (8, "bf16", ""),
        (5, "fp32", ""),
        (5, "tf32", ""),
        (2**9 + 1, "tf32", "a sum may reach"),
    ],
)
def test_a_network_of_integers_is_certain_where_nothing_is_rounded(
    multiplier: int, arithmetic: ArithmeticName, refused: str
) -> None:
    """No bound is needed, unless a sum or a factor is too long for the arithmetic."""
    if refused:
        with pytest.raises(CheckFailedError, match=refused):
            certify_integers(integers(multiplier), arithmetic)
        return
    certificate = certify_integers(integers(multiplier), arithmetic)
    assert (certificate.certified, certificate.largest_bound, certificate.uncertified) == (1, 0, ())


def test_factors_longer_than_the_format_are_not_exact() -> None:
    """A weight of 3 bits times a multiplier of 7 has 9 bits: bf16 rounds it, TF32 does not."""
    layer = integers(multiplier=65).layers[0]
    weight = layer.weight.copy()
    weight[:, 9:] = 0  # so that every sum fits
    network = IntegerNetwork(layers=(dataclasses.replace(layer, weight=weight),))
    assert certify_integers(network, "tf32").certified == 1
    with pytest.raises(NoCertificateError, match="it has weights of 9 bits, and bf16 rounds factors to 8"):
        certify_integers(network, "bf16")


def test_an_integer_file_is_certified(bundle: Bundle, tmp_path: Path) -> None:
    """Read from the file that is deployed; a changed graph is no integer network, and has no certificate."""
    model = tmp_path / "integers.onnx"
    proto = integer_graph(integers(), 21)
    model.write_bytes(proto.SerializeToString())
    reference = recorded_reference(bundle, None)
    found = certify_model(model, open_classifier(model, trial=False), reference, "accuracy", "fp32")
    assert found.certificate is not None
    assert found.certificate.certified == 1
    next(node for node in proto.graph.node if node.op_type == "Gemm").name = "changed"
    model.write_bytes(proto.SerializeToString())
    found = certify_model(model, open_classifier(model, trial=False), reference, "accuracy", "fp32")
    assert found.certificate is None
    assert "no operator of a linear chain" in found.reason


def test_an_integer_file_is_certified_for_the_classes_of_its_reference(bundle: Bundle, tmp_path: Path) -> None:
    """Images on which it decides otherwise itself are listed; with weights of its own, its own predictions count."""
    model = tmp_path / "integers.onnx"
    model.write_bytes(integer_graph(integers(), 21).SerializeToString())
    classifier, recorded = open_classifier(model, trial=False), recorded_reference(bundle, None)
    own = integer_logits(integers(), recorded.golden.images)
    logits = own.copy()
    logits[[3, 70]] = np.roll(logits[[3, 70]], 1, axis=1)
    reference = dataclasses.replace(recorded, golden=dataclasses.replace(recorded.golden, logits=logits))
    certificate = certify_model(model, classifier, reference, "lossy", "fp32").certificate
    assert certificate is not None
    assert (certificate.certified, certificate.largest_bound) == (1 - 2 / len(own), 0)
    for case, image in zip(certificate.uncertified, (3, 70), strict=True):
        wanted = int(logits[image].argmax())
        margin = own[image, wanted] - np.delete(own[image], wanted).max()
        assert (case.image, case.margin, case.bound) == (image, margin, 0)
        assert margin < 0
    certificate = certify_model(model, classifier, reference, "accuracy", "fp32").certificate
    assert certificate is not None
    assert (certificate.certified, certificate.uncertified) == (1, ())
    reference = dataclasses.replace(recorded, golden=dataclasses.replace(recorded.golden, logits=logits[:5]))
    assert certify_model(model, classifier, reference, "lossy", "fp32").certificate is None
