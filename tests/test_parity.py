"""Parity: whatever is wrong with an exported model, it does not pass, and what is right does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from test_bundle import rewrite_bundle

from mnist_edge.bundle import load_bundle
from mnist_edge.errors import BadFileError
from mnist_edge.records import Dataset, VariantParity
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.verification.parity import TOLERANCE, Reference, check_parity
from mnist_edge.verification.verify import golden_reference, reference_on_test_set, verify_bundle

Array = NDArray[np.float32]


def tensor(proto: ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(value for value in proto.graph.initializer if value.name == name))


def put(proto: ModelProto, name: str, array: NDArray[Any]) -> None:
    place = next(value for value in proto.graph.initializer if value.name == name)
    place.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def change(name: str, how: Callable[[Array], NDArray[Any]]) -> Callable[[ModelProto], None]:
    """A fault that changes one tensor."""
    return lambda proto: put(proto, name, how(tensor(proto, name)).astype(np.float32))


def scaled_rows(rows: slice | int, factor: float) -> Callable[[Array], Array]:
    def scale(array: Array) -> Array:
        array = array.copy()
        array[rows] *= factor
        return array

    return scale


def with_nan(array: Array) -> Array:
    array = array.copy()
    array[3, 5] = np.nan
    return array


def normalised_twice(proto: ModelProto) -> None:
    change("layers.0.weight", lambda weight: weight / 255)(proto)


def other_mean(proto: ModelProto) -> None:
    """MNIST's mean 0.1307 in place of the seed's 0.5, folded into the first bias."""
    rows = tensor(proto, "layers.0.weight").sum(axis=1) * 255
    change("layers.0.bias", lambda bias: bias + (0.5 - 0.1307) * rows)(proto)


def no_relu(proto: ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Identity"


def other_classes(order: NDArray[np.intp]) -> Callable[[ModelProto], None]:
    def permute(proto: ModelProto) -> None:
        for name in ("layers.4.weight", "layers.4.bias"):
            change(name, lambda array: array[order])(proto)

    return permute


def constant_logits(proto: ModelProto) -> None:
    change("layers.4.weight", np.zeros_like)(proto)


def nine_classes(proto: ModelProto) -> None:
    other_classes(np.arange(9))(proto)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9


def baked_batch(proto: ModelProto) -> None:
    """A Reshape to (1, 784) under an input that still says `batch`."""
    shape = next(node.input[1] for node in proto.graph.node if node.op_type == "Reshape")
    put(proto, shape, np.array([1, 784]))


FAULTS: dict[str, Callable[[ModelProto], None]] = {
    "weight bytes in the order of the transposed": change("layers.0.weight", lambda w: w.T.reshape(w.shape)),
    "a square part transposed": change("layers.4.weight", lambda w: np.concatenate([w[:, :10].T, w[:, 10:]], axis=1)),
    "one row's sign": change("layers.4.weight", scaled_rows(7, -1)),
    "one hidden row's sign": change("layers.2.weight", scaled_rows(3, -1)),
    "first layer 1 % larger": change("layers.0.weight", scaled_rows(slice(None), 1.01)),
    "third layer 1 % larger": change("layers.4.weight", scaled_rows(slice(None), 1.01)),
    "normalised twice": normalised_twice,
    "another mean": other_mean,
    "no Relu": no_relu,
    "a doubled bias": change("layers.2.bias", scaled_rows(slice(None), 2)),
    "a NaN weight": change("layers.2.weight", with_nan),
    "two classes swapped": other_classes(np.array([0, 1, 2, 3, 9, 5, 6, 7, 8, 4])),
    "classes moved by one": other_classes(np.roll(np.arange(10), 1)),
    "a baked batch": baked_batch,
    "constant logits": constant_logits,
    "nine classes": nine_classes,
}


@pytest.fixture(scope="module")
def references(bundle_folder: Path, digits: Dataset) -> tuple[Reference, Reference]:
    """The golden inputs and the test set, both with PyTorch's answers."""
    bundle = load_bundle(bundle_folder)
    test_set = reference_on_test_set(bundle, digits)
    assert test_set is not None
    return golden_reference(bundle), test_set


@pytest.fixture
def proto(bundle_folder: Path) -> ModelProto:
    return onnx.load(bundle_folder / "model.onnx")


def check(proto: ModelProto, golden: Reference, test_set: Reference | None = None) -> VariantParity:
    return check_parity("fp32", open_classifier(proto.SerializeToString(), "cpu", name="edited"), golden, test_set)


def test_the_untouched_model_passes(proto: ModelProto, references: tuple[Reference, Reference]) -> None:
    """The control: reading and writing the file anew, as every fault below does, changes nothing."""
    found = check(proto, *references)
    assert (found.passed, found.reason, found.flips, found.images) == (True, "", 0, 360)
    assert found.batches == (1, 7, 64, 376)
    assert found.max_abs_error is not None
    assert found.max_abs_error < 1e-4
    truth = references[1]
    assert found.accuracy == float((truth.logits.argmax(axis=1) == truth.labels).mean())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, proto: ModelProto, references: tuple[Reference, Reference]) -> None:
    """Each fault that an exporter could make fails, with a reason, with the golden inputs alone and with both."""
    FAULTS[fault](proto)
    for test_set in (None, references[1]):
        found = check(proto, references[0], test_set)
        assert not found.passed
        assert found.reason


def test_faults_that_change_decisions_are_counted_in_full(
    proto: ModelProto, references: tuple[Reference, Reference]
) -> None:
    """The number of flips of a broken model is the number of changed decisions, none excused as a tie."""
    order = np.roll(np.arange(10), 1)
    other_classes(order)(proto)
    found = check(proto, *references)
    assert (found.flips, found.ties, found.accuracy) == (360, (), pytest.approx(0, abs=0.1))


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.2.weight", "layers.4.weight"])
def test_a_transposed_weight_that_no_longer_fits_fails_the_bundle(
    name: str, proto: ModelProto, bundle_folder: Path, tmp_path: Path, references: tuple[Reference, Reference]
) -> None:
    """A model that onnxruntime will not build, or not run, is a failed variant, not a crash and not a pass."""
    put(proto, name, tensor(proto, name).T)
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", model=proto.SerializeToString())
    report = verify_bundle(load_bundle(folder), "cpu", *references, reference="golden")
    (variant,) = report.variants
    assert (report.passed, variant.passed, variant.flips, variant.flip_rate_upper95) == (False, False, 360, 1.0)
    assert variant.reason


def test_a_bundle_without_variants_does_not_pass(
    bundle_folder: Path, tmp_path: Path, references: tuple[Reference, Reference]
) -> None:
    """Nothing checked is nothing proven; refusing to load such a bundle is as good."""
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", variants=())
    try:
        bundle = load_bundle(folder)
    except BadFileError:
        return
    assert not verify_bundle(bundle, "cpu", *references, reference="golden").passed


# Answers made up by hand: a stand-in for the open model, so that every number is known.


@dataclass
class Fixed:
    """A classifier that answers what it was given, whatever the batch, or another answer at one batch size."""

    answers: Array
    other: tuple[int, Array] | None = None
    fixed_batch: int | None = None

    def logits(self, _images: NDArray[np.uint8], batch: int | None = None, how: None = None) -> Array:
        assert how is None
        return self.other[1] if self.other and batch == self.other[0] else self.answers


def reference(logits: Any, labels: Any = None) -> Reference:
    logits = np.array(logits, np.float32)
    count = len(logits)
    return Reference(
        images=np.zeros((count, 28, 28), np.uint8),
        labels=np.full(count, 255, np.uint8) if labels is None else np.array(labels, np.uint8),
        logits=logits,
    )


def held(answers: Any, expected: Any, **options: Any) -> VariantParity:
    fixed: Any = Fixed(np.array(answers, np.float32), **options)
    return check_parity("v", fixed, reference(expected), None)


def rows(*tops: tuple[float, float]) -> NDArray[np.float64]:
    """Logits that are 0 but for classes 3 and 5."""
    logits = np.zeros((len(tops), 10))
    logits[:, [3, 5]] = tops
    return logits


def test_a_near_tie_is_listed_and_is_no_flip() -> None:
    """Where PyTorch itself is undecided at the precision seen, another decision is told, not failed."""
    found = held(rows((1, 1 + 1e-6), (1, 2)), rows((1 + 1e-6, 1), (1, 2)))
    assert (found.passed, found.flips) == (True, 0)
    (tie,) = found.ties
    assert (tie.image, tie.reference, tie.decided) == (0, 3, 5)
    assert tie.margin == pytest.approx(1e-6, rel=0.1)


def test_a_broken_model_has_no_ties() -> None:
    """An error so large that every image would count as a tie excuses none of them."""
    found = held(rows((1, 2), (2, 1.5), (2, 1)), rows((2, 1), (2, 1), (2, 1)))
    assert (found.passed, found.flips, found.ties) == (False, 1, ())


def test_one_wrong_decision_in_many_is_found() -> None:
    """A mean over 10,000 images would hide it."""
    expected = np.tile(rows((2, 1)), (10_000, 1))
    answers = expected.copy()
    answers[7_777] = rows((1, 2))
    found = held(answers, expected)
    assert (found.passed, found.flips, found.images) == (False, 1, 10_000)
    assert "7777" in found.reason


def test_no_flip_in_ten_thousand_bounds_the_rate_at_3_in_10000() -> None:
    """The bound said is the exact one: the rate at which no flip in 10,000 has a chance of 5 %."""
    expected = np.tile(rows((2, 1)), (10_000, 1))
    found = held(expected, expected)
    assert found.passed
    assert found.flip_rate_upper95 == pytest.approx(1 - 0.05 ** (1 / 10_000), rel=1e-6)
    assert f"{found.flip_rate_upper95:.2%}" == "0.03%"


@pytest.mark.parametrize("batch", [1, 7, 64, 2])
def test_a_model_that_is_wrong_at_one_batch_size_only_is_caught(batch: int) -> None:
    """Every batch size is judged, not only the last one run; 2 is all of them at once."""
    expected = rows((2, 1), (1, 2))
    found = held(expected, expected, other=(batch, expected[::-1].astype(np.float32)))
    assert not found.passed
    assert f"batch {batch}" in found.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["model", "PyTorch", "both"])
def test_no_figure_that_is_no_number_passes(value: float, side: str) -> None:
    """NaN compares as neither equal nor different: on whichever side it stands, nothing is proven."""
    bad = rows((2, 1), (2, 1))
    bad[1, 3] = value
    good = rows((2, 1), (2, 1))
    found = held(good if side == "PyTorch" else bad, good if side == "model" else bad)
    assert not found.passed


@pytest.mark.parametrize("shape", [(1, 10), (2, 1), (2, 9), (2, 11), (3, 10)])
def test_shapes_are_never_broadcast(shape: tuple[int, int]) -> None:
    """Equal values in another shape do not pass."""
    assert not held(np.zeros(shape), np.zeros((2, 10))).passed


@pytest.mark.parametrize("empty", ["golden", "test set", "both"])
def test_no_images_prove_nothing(empty: str, proto: ModelProto, references: tuple[Reference, Reference]) -> None:
    """An empty set of images raises or fails; it never passes."""
    nothing = reference(np.zeros((0, 10)))
    golden = references[0] if empty == "test set" else nothing
    test_set = references[1] if empty == "golden" else nothing
    try:
        found = check(proto, golden, test_set)
    except (ValueError, ZeroDivisionError):
        return
    assert not found.passed


def test_unlabelled_images_are_no_part_of_the_accuracy() -> None:
    """255 is no class: accuracy is over labelled images, and none where there are none."""
    expected = rows((2, 1), (1, 2), (2, 1))
    fixed: Any = Fixed(expected.astype(np.float32))
    assert check_parity("v", fixed, reference(expected, [3, 3, 255]), None).accuracy == 0.5
    assert check_parity("v", fixed, reference(expected), None).accuracy is None


@settings(max_examples=100, deadline=None)
@given(
    image=st.integers(0, 19),
    label=st.integers(0, 9),
    scale=st.sampled_from([1.0, 5.0, 40.0]),
    size=st.floats(0.05, 0.8) | st.floats(1.5, 1e6),
    sign=st.sampled_from([-1, 1]),
)
def test_one_logit_outside_the_tolerance_fails_and_one_inside_passes(
    image: int, label: int, scale: float, size: float, sign: int
) -> None:
    """The tolerance holds for every single logit, relative to the largest of its image."""
    expected = np.random.default_rng(0).uniform(-1, 1, (20, 10))
    expected[:, 0] = scale
    answers = expected.copy()
    answers[image, label] += sign * size * TOLERANCE * scale
    assert held(answers, expected).passed == (size < 1)


def test_a_model_that_fails_while_running_is_told_as_refused(proto: ModelProto) -> None:
    """A graph that builds and cannot run raises the error that parity turns into a finding."""
    baked_batch(proto)
    with pytest.raises(RefusedModelError):
        open_classifier(proto.SerializeToString(), "cpu").logits(np.zeros((5, 28, 28), np.uint8))
