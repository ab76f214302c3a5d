"""Parity: whatever is wrong with an exported model, it does not pass, and what is right does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from faults import BY_NAME, FITTING, Fault, Golden, get, put
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto
from test_bundle import rewrite_bundle

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.contract import Precision, RequirementKind
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import VariantParity
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.verification.parity import check_parity
from mnist_edge.verification.reference import Reference, ReferenceOutputs, golden_reference, reference_on_test_set
from mnist_edge.verification.requirement import TOLERANCE, Requirement
from mnist_edge.verification.verify import VerifyOptions, verify_bundle

Array = NDArray[np.float32]


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


def plant(name: str, proto: ModelProto, golden: Reference) -> ModelProto:
    """A copy of the model with one of the faults."""
    return BY_NAME[name].plant(proto, Golden(golden.images, golden.logits))


def logits_only(references: tuple[Reference, Reference]) -> ReferenceOutputs:
    """Logits without layer outputs."""
    return ReferenceOutputs(golden=references[0], test_set=references[1], layers=None, description="golden")


def check(proto: ModelProto, golden: Reference, test_set: Reference | None = None) -> VariantParity:
    return check_parity("fp32", open_classifier(proto.SerializeToString(), name="edited"), golden, test_set)


def test_the_untouched_model_passes(proto: ModelProto, references: tuple[Reference, Reference]) -> None:
    """The control: reading and writing the file anew, as every fault below does, changes nothing."""
    found = check(proto, *references)
    assert (found.passed, found.reason, found.flips, found.images) == (True, "", 0, 360)
    assert found.batches == (1, 2, 3, 7, 64, 376)
    assert found.max_abs_error is not None
    assert found.max_abs_error < 1e-4
    test_set = references[1]
    right = float((test_set.logits.argmax(axis=1) == test_set.labels).mean())
    assert found.accuracy is not None
    assert (found.accuracy.reference, found.accuracy.variant, found.accuracy.images) == (right, right, 360)
    assert (found.accuracy.only_reference_right, found.accuracy.only_variant_right, found.accuracy.mcnemar_p) == (
        0,
        0,
        1,
    )
    assert (found.ties, found.layers) == (0, None)


@pytest.mark.parametrize("fault", FITTING, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, proto: ModelProto, references: tuple[Reference, Reference]) -> None:
    """Each fault that an exporter could make fails, with a reason, with the golden inputs alone and with both."""
    broken = plant(fault.name, proto, references[0])
    for test_set in (None, references[1]):
        found = check(broken, references[0], test_set)
        assert not found.passed
        assert found.reason


def test_faults_that_change_decisions_are_counted_in_full(
    proto: ModelProto, references: tuple[Reference, Reference]
) -> None:
    """The number of flips of a broken model is the number of changed decisions, none excused as a tie."""
    found = check(plant("classes moved by one", proto, references[0]), *references)
    assert (found.flips, found.ties) == (360, 0)
    assert found.accuracy is not None
    assert found.accuracy.variant == pytest.approx(0, abs=0.1)
    assert found.accuracy.only_reference_right > 300
    assert found.accuracy.mcnemar_p < 1e-90
    assert not found.accuracy.non_inferior


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.2.weight", "layers.4.weight"])
def test_a_transposed_weight_that_no_longer_fits_fails_the_bundle(
    name: str, proto: ModelProto, bundle_folder: Path, tmp_path: Path, references: tuple[Reference, Reference]
) -> None:
    """A model that onnxruntime will not build, or not run, is a failed variant, not a crash and not a pass."""
    put(proto, name, get(proto, name).T)
    folder = rewrite_bundle(bundle_folder, tmp_path / "b", model=proto.SerializeToString())
    report = verify_bundle(load_bundle(folder), logits_only(references), VerifyOptions())
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
    assert not verify_bundle(bundle, logits_only(references), VerifyOptions()).passed


# Answers made up by hand: a stand-in for the open model, so that every number is known.


@dataclass
class Fixed:
    """A predictor that returns the logits it was made with, or others at one batch size. No session, no file."""

    answers: Array
    other: tuple[int, Array] | None = None
    fixed_batch: int | None = None
    name: str = "fixed"
    placement: Mapping[str, int] = field(default_factory=dict)

    def logits(self, _images: NDArray[np.uint8], batch: int | None = None) -> Array:
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
    fixed = Fixed(np.array(answers, np.float32), **options)
    return check_parity("v", fixed, reference(expected), None)


def lossy(lost: int, won: int, count: int, max_drop: float, labels: Any = None) -> VariantParity:
    """An int8 variant that decides so many of `count` images wrongly alone, and so many rightly alone."""
    expected, answers = rows(*[(2, 1)] * count), rows(*[(2, 1)] * count)
    expected[:won], answers[:won] = rows((1.99, 2)), rows((2, 1.99))
    expected[won : won + lost], answers[won : won + lost] = rows((2, 1.99)), rows((1.99, 2))
    fixed = Fixed(answers.astype(np.float32))
    known = reference(expected, [3] * count if labels is None else labels)
    return check_parity("v", fixed, known, None, Requirement(kind="lossy", precision="int8", max_drop=max_drop))


def rows(*tops: tuple[float, float]) -> NDArray[np.float64]:
    """Logits that are 0 but for classes 3 and 5."""
    logits = np.zeros((len(tops), 10))
    logits[:, [3, 5]] = tops
    return logits


def test_a_near_tie_is_listed_and_is_no_flip() -> None:
    """Where PyTorch itself is undecided at the precision seen, another decision is told, not failed."""
    found = held(rows((1, 1 + 1e-6), (1, 2)), rows((1 + 1e-6, 1), (1, 2)))
    assert (found.passed, found.flips) == (True, 0)
    assert found.ties == 1
    assert found.margins is not None
    (tie,) = found.margins.small
    assert (tie.image, tie.reference, tie.predicted) == (0, 3, 5)
    assert tie.margin == pytest.approx(1e-6, rel=0.1)


def test_a_broken_model_has_no_ties() -> None:
    """An error so large that every image would count as a tie excuses none of them."""
    found = held(rows((1, 2), (2, 1.5), (2, 1)), rows((2, 1), (2, 1), (2, 1)))
    assert (found.passed, found.flips, found.ties) == (False, 1, 0)


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


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64, 100])
def test_a_model_that_is_wrong_at_one_batch_size_only_is_caught(batch: int) -> None:
    """Every batch size is judged, not only the last one run; 100 is all of them at once."""
    expected = rows(*[(2, 1), (1, 2)] * 50)
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
    fixed = Fixed(expected.astype(np.float32))
    accuracy = check_parity("v", fixed, reference(expected, [3, 3, 255]), None).accuracy
    assert accuracy is not None
    assert (accuracy.images, accuracy.variant, accuracy.reference) == (2, 0.5, 0.5)
    assert check_parity("v", fixed, reference(expected), None).accuracy is None


@pytest.mark.parametrize(
    ("kind", "precision", "factor", "passed"),
    [
        ("exact", "fp32", 1 + 0.9e-4, True), ("exact", "fp32", 1 + 1.2e-4, False), ("exact", "int8", 1 + 1.2e-4, False),
        ("lossy", "fp32", 1 + 0.9e-4, True), ("lossy", "fp32", 1 + 1.2e-4, False),
        ("lossy", "fp16", 1.009, True), ("lossy", "fp16", 1.011, False),
        ("lossy", "int8", 1.09, True), ("lossy", "int8", 1.11, False),
        ("lossy", "int4", 1.24, True), ("lossy", "int4", 1.26, False),
        ("lossy", "int2", 1.59, True), ("lossy", "int2", 1.61, False),
    ],
)  # fmt: skip
def test_every_threshold_is_what_it_is_documented_to_be(
    kind: RequirementKind, precision: Precision, factor: float, passed: bool
) -> None:
    """Logits of one size, scaled: the relative error and the drift are the same figure. No test below knows a threshold."""
    expected = rows(*[(2, 0)] * 4000)
    expected[:, 5] = -2  # two units of one size, so that the root mean square over all ten is 2 / sqrt(5)
    found = factor * expected if kind == "exact" else expected + (factor - 1) * 2 / np.sqrt(5) * np.eye(10)[3]
    requirement = Requirement(kind=kind, precision=precision, max_drop=1)
    known = reference(expected, [3] * 4000)
    assert check_parity("v", Fixed(found.astype(np.float32)), known, None, requirement).passed == passed


def test_the_default_loss_allowed_is_a_tenth_of_a_percent() -> None:
    """5 of 20,000 images lost bound the loss at 0.05 %, 25 at 0.18 %."""
    expected = rows(*[(2, 1)] * 20_000).astype(np.float32)
    changed = expected.copy()
    for lost, passed in ((5, True), (25, False)):
        changed[:lost] = rows((1.99, 2))
        known = reference(expected, [3] * 20_000)
        requirement = Requirement(kind="lossy", precision="int8")
        assert check_parity("v", Fixed(changed), known, None, requirement).passed == passed


ACCURACY = Requirement(kind="accuracy", max_drop=0.01)
"""Of a model with weights of its own."""


def test_a_model_with_weights_of_its_own_owes_accuracy_alone() -> None:
    """Other logits and other predictions are no failure; as many wrong ones more than allowed are."""
    expected, labels = rows(*[(2, 1)] * 4000), [3] * 4000
    expected[:8] = rows((1, 2))  # the reference is wrong on eight
    found = 7 * rows(*[(2, 1)] * 4000)
    found[100:110] = rows((1, 9))  # the model on ten others
    result = check_parity("v", Fixed(found.astype(np.float32)), reference(expected, labels), None, ACCURACY)
    assert (result.passed, result.reason, result.flips) == (True, "", 18)
    assert (result.max_abs_error, result.max_relative_error, result.margins) == (None, None, None)
    assert result.accuracy is not None
    assert (result.accuracy.only_reference_right, result.accuracy.only_variant_right) == (10, 8)
    found[:200] = rows((1, 9))
    result = check_parity("v", Fixed(found.astype(np.float32)), reference(expected, labels), None, ACCURACY)
    assert not result.passed
    assert "it may lose up to" in result.reason
    result = check_parity("v", Fixed(found.astype(np.float32)), reference(expected), None, ACCURACY)
    assert "no image has a label" in result.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_weights_of_its_own_owes_finite_logits_of_ten_classes(value: float) -> None:
    """A prediction read from NaN is no prediction."""
    expected, labels = rows(*[(2, 1)] * 4000), [3] * 4000
    found = expected.copy()
    found[3999, 0] = value
    assert (
        "image 3999"
        in check_parity("v", Fixed(found.astype(np.float32)), reference(expected, labels), None, ACCURACY).reason
    )
    nine = Fixed(expected[:, :9].astype(np.float32))
    assert "(4000, 9)" in check_parity("v", nine, reference(expected, labels), None, ACCURACY).reason


@pytest.mark.parametrize("batch", [1, 7, 4000])
def test_a_model_with_weights_of_its_own_agrees_with_itself_at_every_batch_size(batch: int) -> None:
    """Its accuracy is measured at one size only; a device may use another."""
    expected, labels = rows(*[(2, 1), (1, 2)] * 2000), [3, 5] * 2000
    found = Fixed(expected.astype(np.float32), other=(batch, (1.5 * expected).astype(np.float32)))
    result = check_parity("v", found, reference(expected, labels), None, ACCURACY)
    assert not result.passed
    assert "from its own at another batch size" in result.reason


def test_outputs_for_the_test_set_alone_are_compared() -> None:
    """A foreign runtime may have run only these; nothing is reported of golden inputs that were not run."""
    expected = rows((2, 1), (1, 2))
    result = check_parity("v", Fixed(expected.astype(np.float32)), None, reference(expected))
    assert (result.passed, result.images, result.batches) == (True, 2, ())
    wrong = check_parity("v", Fixed(expected[::-1].astype(np.float32)), None, reference(expected))
    assert (wrong.passed, wrong.flips, "memorised" in wrong.reason) == (False, 2, False)


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
    broken = BY_NAME["batch size baked in"].plant(
        proto, Golden(np.zeros((0, 28, 28), np.uint8), np.zeros((0, 10), np.float32))
    )
    with pytest.raises(RefusedModelError):
        open_classifier(broken.SerializeToString()).logits(np.zeros((5, 28, 28), np.uint8))


def test_a_lossy_variant_is_held_to_its_accuracy_and_not_to_the_tolerance() -> None:
    """Logits off by 0.01 and changed decisions are no failure, lost accuracy is; both counts are told."""
    found = lossy(5, 4, 4000, 0.005)
    assert (found.passed, found.reason, found.flips, found.ties) == (True, "", 9, 0)
    assert found.max_abs_error == pytest.approx(0.01, rel=1e-4)
    assert found.accuracy is not None
    assert (found.accuracy.only_reference_right, found.accuracy.only_variant_right) == (5, 4)
    assert (found.accuracy.reference, found.accuracy.variant) == (3996 / 4000, 3995 / 4000)
    assert found.accuracy.non_inferior
    found = lossy(40, 0, 4000, 0.005)
    assert not found.passed
    assert "100.00% becomes 99.00%, 40 images lost, 0 won" in found.reason
    assert found.accuracy is not None
    assert not found.accuracy.non_inferior


def test_a_lossy_variant_passes_exactly_from_its_own_bound_on() -> None:
    """What is allowed is held against the upper bound, not against the loss seen."""
    accuracy = lossy(3, 1, 1000, 1).accuracy
    assert accuracy is not None
    assert accuracy.drop_upper95 > 0.002  # the loss seen
    assert lossy(3, 1, 1000, accuracy.drop_upper95).passed
    assert not lossy(3, 1, 1000, accuracy.drop_upper95 - 1e-9).passed
    assert not lossy(3, 1, 1000, 0).passed


def test_a_lossy_variant_whose_logits_drift_further_than_its_precision_explains_fails() -> None:
    """As accurate, but answering otherwise: its decisions happen to survive a fault."""
    expected = rows(*[(2, 1), (1, 2)] * 2000)
    known = reference(expected, [3, 5] * 2000)
    for factor, precision, passed in ((1.2, "int8", False), (1.03, "int8", True), (1.03, "fp16", False)):
        fixed = Fixed((factor * expected).astype(np.float32))
        found = check_parity("v", fixed, known, None, Requirement(kind="lossy", precision=precision))  # type: ignore[arg-type]
        assert (found.passed, found.flips) == (passed, 0)
        assert passed or f"{precision} explains" in found.reason


def test_too_few_images_fail_closed_and_say_so() -> None:
    """A lossy variant that answers as the reference does is still not proven on 2,000 images; on 3,000 it is."""
    found = lossy(0, 0, 2000, 0.001)
    assert not found.passed
    assert "2000 images cannot show" in found.reason
    assert "--max-accuracy-drop" in found.reason
    assert lossy(0, 0, 3000, 0.001).passed


def test_a_lossy_variant_without_labels_cannot_be_judged() -> None:
    """Nothing to count, nothing proven."""
    found = lossy(0, 0, 3000, 0.5, labels=[255] * 3000)
    assert not found.passed
    assert "no image has a label" in found.reason


def test_a_lossy_variant_owes_nothing_on_images_without_label() -> None:
    """Noise is run, for NaN and crashes, but a quantiser was calibrated on pictures."""
    expected = rows(*[(2, 1)] * 3001)
    answers = expected.copy()
    answers[3000] = rows((1, 9))
    known = reference(expected, [3] * 3000 + [255])
    for kind, passed in (("lossy", True), ("exact", False)):
        fixed = Fixed(answers.astype(np.float32))
        found = check_parity("v", fixed, known, None, Requirement(kind=kind, precision="int8"))  # type: ignore[arg-type]
        assert found.passed == passed
    answers[3000, 0] = np.nan
    fixed = Fixed(answers.astype(np.float32))
    found = check_parity("v", fixed, known, None, Requirement(kind="lossy", precision="int8"))
    assert not found.passed
    assert "image 3000" in found.reason


@pytest.mark.parametrize(("batches", "fixed", "code"), [
    ((5,), None, 0), ((6,), None, 2), ((1, 10**6), None, 2), ((3,), 3, 0), ((4,), 3, 2), ((3, 4), 3, 2), ((9,), 9, 0),
])  # fmt: skip
def test_a_batch_that_cannot_be_run_is_refused_and_never_reported(
    batches: tuple[int, ...], fixed: int | None, code: int
) -> None:
    """Five images make no batch of a million; a fixed-batch model takes its own size, and fills it up."""
    expected = rows(*[(2, 1)] * 5)
    model = Fixed(expected.astype(np.float32), fixed_batch=fixed)
    if code:
        with pytest.raises(UsageError, match="there are 5 golden images" if fixed is None else "only batch 3"):
            check_parity("v", model, reference(expected), None, Requirement(batches=batches))
        return
    found = check_parity("v", model, reference(expected), None, Requirement(batches=batches))
    assert (found.passed, found.batches) == (True, (fixed,) if fixed else (1, 2, 3, 5))


@pytest.mark.parametrize("batches", [(5,), (3, 5, 11)])
def test_batches_asked_for_are_run_besides_the_usual_ones(
    batches: tuple[int, ...], proto: ModelProto, references: tuple[Reference, Reference]
) -> None:
    """Each is in the report, once; and a model that is wrong only there is caught."""
    classifier = open_classifier(proto.SerializeToString())
    found = check_parity("v", classifier, references[0], None, Requirement(batches=batches))
    assert found.passed
    assert found.batches == (1, 2, *dict.fromkeys((3, 7, 64, *batches)), 376)
    expected = rows(*[(2, 1), (1, 2)] * 50)
    fixed = Fixed(expected.astype(np.float32), other=(batches[0], expected[::-1].astype(np.float32)))
    found = check_parity("v", fixed, reference(expected), None, Requirement(batches=batches))
    assert not found.passed
    assert f"batch {batches[0]} " in found.reason


def test_memorised_golden_inputs_are_reported_as_such() -> None:
    """Right on the golden inputs and wrong on the test set is another thing than wrong everywhere."""
    right, wrong = rows((2, 1), (1, 2)), rows((1, 2), (2, 1))
    fixed = Fixed(right.astype(np.float32))
    found = check_parity("v", fixed, reference(right), reference(wrong))
    assert not found.passed
    assert "on the test set" in found.reason
    assert "memorised" in found.reason
    found = check_parity("v", fixed, reference(wrong), reference(wrong))
    assert "memorised" not in found.reason
