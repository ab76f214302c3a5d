"""Outputs of timed runs: an exact variant owes every clear prediction, a lossy one what its precision explains."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_edge.benchmarking.outputs import OutputCheck, check_outputs
from mnist_edge.records.benchmark import EXACT, OutputRequirement
from mnist_edge.verification.reference import Reference

INT8 = OutputRequirement(kind="lossy", precision="int8", max_accuracy_drop=0.001)
FP16 = OutputRequirement(kind="lossy", precision="fp16", max_accuracy_drop=0.001)
OWN_WEIGHTS = OutputRequirement(kind="accuracy", max_accuracy_drop=0.001)
LOGITS = np.array([[0, 9, 1], [5, 0, 5.0001], [0, 0, 7], [3, 1, 0]], np.float32)
GROUPS = [np.array([0, 1]), np.array([2, 3])]


def reference(logits: NDArray[np.float32], labels: list[int] | None = None) -> Reference:
    """Golden logits with the reference's own predictions as labels."""
    known = logits.argmax(axis=1) if labels is None else labels
    return Reference(images=np.zeros((len(logits), 28, 28), np.uint8), labels=np.array(known, np.uint8), logits=logits)


GOLDEN = reference(LOGITS)


def test_equal_predictions_pass() -> None:
    """The control: the reference's own logits, and others with the same predictions."""
    outputs = {0: LOGITS[:2], 1: LOGITS[2:] * 3}
    assert check_outputs(outputs, GROUPS, GOLDEN, EXACT) == OutputCheck(images=4, flips=0)


def test_clear_flips_are_counted_and_near_ties_are_not() -> None:
    """A changed prediction counts unless the reference itself is undecided; inputs that were never run do not."""
    outputs = {0: np.array([[9, 0, 0], [1, 0, 0]], np.float32), 1: np.array([[0, 1, 0], [2, 0, 0]], np.float32)}
    found = check_outputs(outputs, GROUPS, GOLDEN, EXACT)
    assert (found.images, found.flips) == (4, 2)
    assert "2 of 4 predictions of timed runs differ" in found.problem
    found = check_outputs({1: outputs[1]}, GROUPS, GOLDEN, EXACT)
    assert (found.images, found.flips) == (2, 1)
    assert check_outputs({}, GROUPS, GOLDEN, EXACT) == OutputCheck(images=0, flips=0)


@pytest.mark.parametrize("scale", [1, 50])
@pytest.mark.parametrize(("gap", "flips"), [(0.9e-3, 0), (1.1e-3, 1), (1e-2, 1), (0.1, 1)])
def test_only_a_gap_within_a_thousandth_is_a_near_tie(gap: float, flips: int, scale: int) -> None:
    """Relative to the largest logit of the image; a wider limit would excuse real flips."""
    golden = reference(np.array([[1 - gap, 1, 0]], np.float32) * scale)
    found = check_outputs({0: np.array([[1, 0, 0]], np.float32)}, [np.array([0])], golden, EXACT)
    assert (found.flips, bool(found.problem)) == (flips, bool(flips))


def test_small_logits_are_measured_against_one() -> None:
    """An image whose largest logit is 0.01 is undecided by 1e-4, as in verify."""
    golden = reference(np.array([[0.0099, 0.01, 0]], np.float32))
    assert check_outputs({0: np.array([[1, 0, 0]], np.float32)}, [np.array([0])], golden, EXACT).flips == 0


@pytest.mark.parametrize("requirement", [EXACT, INT8])
def test_nan_is_no_prediction(requirement: OutputRequirement) -> None:
    """NaN logits are as wrong on class 0, which argmax would return, as on any other; a lossy variant fails too."""
    outputs = {index: np.full((2, 3), np.nan, np.float32) for index in (0, 1)}
    found = check_outputs(outputs, GROUPS, GOLDEN, requirement)
    assert (found.images, found.flips) == (4, 4)
    assert found.problem


def test_another_number_of_classes_is_a_problem() -> None:
    """Nothing is broadcast: (batch, 1) beside (batch, 3) fails."""
    found = check_outputs({0: np.ones((2, 1), np.float32)}, GROUPS, GOLDEN, EXACT)
    assert (found.flips, found.problem) == (2, "outputs are (2, 1), the golden logits (2, 3)")


def many(count: int = 64) -> Reference:
    """Golden inputs with clear predictions, and a row of noise without a label."""
    random = np.random.default_rng(0)
    logits = np.eye(10, dtype=np.float32)[random.integers(0, 10, count)] * 5 + random.normal(0, 1, (count, 10))
    return reference(logits.astype(np.float32), [*logits.argmax(axis=1)[:-1].tolist(), 255])


ALL = [np.arange(64)]


def test_a_lossy_variant_may_drift_as_far_as_its_precision_explains() -> None:
    """Drift below the limit passes, flips of close rows included; above it fails for each precision."""
    golden = many()
    golden.logits[3, :2] = golden.logits[3].max() + np.array([1, 1.05], np.float32)
    golden.labels[3] = 1
    noise = np.random.default_rng(1).normal(0, 1, golden.logits.shape) * np.sqrt(np.mean(golden.logits**2))
    near = golden.logits + 0.05 * noise
    near[3, :2] = golden.logits[3, 1::-1]
    found = check_outputs({0: near}, ALL, golden, INT8)
    assert (found.images, found.flips, found.problem) == (64, 1, "")
    assert check_outputs({0: near}, ALL, golden, EXACT).problem
    assert "logits of timed runs drift by" in check_outputs({0: near}, ALL, golden, FP16).problem
    far = golden.logits + 0.15 * noise
    assert "int8 explains 0.1" in check_outputs({0: far}, ALL, golden, INT8).problem


def test_a_lossy_variant_owes_nothing_on_noise() -> None:
    """A quantiser is calibrated on images; the row without a label may be anything but NaN."""
    golden = many()
    outputs = golden.logits.copy()
    outputs[63] = -outputs[63]
    assert check_outputs({0: outputs}, ALL, golden, INT8).problem == ""
    assert check_outputs({0: outputs}, ALL, golden, EXACT).problem


def test_a_lossy_variant_that_is_shown_to_lose_accuracy_fails() -> None:
    """Small errors of all logits that move predictions on one image in eight, against the labels."""
    golden = many()
    outputs = golden.logits.astype(np.float64).copy()
    for row in range(0, 64, 8):  # the two best change places, by little: no drift to speak of
        first, second = np.argsort(outputs[row])[[-1, -2]]
        golden.logits[row, first] = outputs[row, second] + 0.02
        outputs[row, first], outputs[row, second] = outputs[row, second], golden.logits[row, first]
    found = check_outputs({0: outputs.astype(np.float32)}, ALL, golden, INT8)
    assert "lose at least" in found.problem
    assert "accuracy" in found.problem
    assert check_outputs({0: outputs}, ALL, golden, OWN_WEIGHTS).problem == found.problem
    loose = OutputRequirement(kind="accuracy", max_accuracy_drop=0.2)
    assert check_outputs({0: outputs}, ALL, golden, loose).problem == ""


def test_a_variant_with_weights_of_its_own_owes_labels_and_not_logits() -> None:
    """Other logits with the right predictions pass; NaN does not."""
    golden = many()
    outputs = np.eye(10, dtype=np.float32)[golden.logits.argmax(axis=1)] * 100
    assert check_outputs({0: outputs}, ALL, golden, OWN_WEIGHTS).problem == ""
    assert check_outputs({0: outputs}, ALL, golden, INT8).problem
    outputs[0, 0] = np.nan
    assert check_outputs({0: outputs}, ALL, golden, OWN_WEIGHTS).problem


def test_a_row_that_is_run_twice_is_one_observation() -> None:
    """A batch larger than the golden inputs repeats rows: one lost image stays one."""
    golden = many()
    outputs = golden.logits.copy()
    second, first = np.argsort(outputs[5])[-2:]
    golden.logits[5, first] = outputs[5, first] = outputs[5, second] + 0.02
    outputs[5, second] += 0.04
    repeated = np.tile(np.arange(64), 50)
    found = check_outputs({0: outputs[repeated]}, [repeated], golden, INT8)
    assert (found.flips, found.problem) == (50, "")
