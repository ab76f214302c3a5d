"""Margins over twice the error seen: no error of that size can change these predictions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from mnist_edge.records.verification import Margins
from mnist_edge.verification import margins as module
from mnist_edge.verification.margins import MarginCounter, nearest_images, top2_margins
from mnist_edge.verification.reference import Reference

EIGHTHS = st.integers(-80, 80).map(lambda count: count / 8)


def predicted(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.asarray(logits.argmax(axis=1))


def compare_margins(logits: NDArray[np.float32], predictions: NDArray[np.intp], error: float, part: int = 2) -> Margins:
    """The images added `part` at a time: where a set is cut must not show."""
    counter = MarginCounter()
    for start in range(0, len(logits), part):
        counter.add(logits[start : start + part], predictions[start : start + part])
    return counter.result(error)


def test_margins_by_hand() -> None:
    """The gap is between the largest and the second largest, wherever they stand; equal ones have none."""
    logits = np.array([[3, 1, 2.5], [-4, -1, -9], [2, 2, 0]], np.float32)
    assert top2_margins(logits).tolist() == [0.5, 3, 0]


def test_small_margins_by_hand() -> None:
    """A gap of exactly twice the error is not certain: both may meet in the middle. The smallest gap comes first."""
    logits = np.array([[3, 1, 2.5], [0, 5, 1], [2, 2, 0], [9, 1, 1]], np.float32)
    found = compare_margins(logits, np.array([2, 1, 1, 0]), 0.25)
    assert (found.error, found.unaffected) == (0.25, 0.5)
    assert [(case.image, case.margin, case.reference, case.predicted) for case in found.small] == [
        (2, 0, 0, 1), (0, 0.5, 0, 2),
    ]  # fmt: skip
    assert [case.image for case in compare_margins(logits, predicted(logits), 0.2499).small] == [2]


@given(npst.arrays(np.float32, (6, 3), elements=EIGHTHS))
def test_the_open_cases_come_smallest_margin_first_and_equal_ones_in_order(logits: NDArray[np.float32]) -> None:
    """A table that shows the first few shows those nearest to a change."""
    cases = [(case.margin, case.image) for case in compare_margins(logits, predicted(logits), 4.0).small]
    assert cases == sorted(cases)


def test_without_an_error_only_ties_are_open() -> None:
    """A model that answers exactly as the reference has every decision certain that the reference has."""
    logits = np.array([[1, 2], [2, 2]], np.float32)
    assert [case.image for case in compare_margins(logits, predicted(logits), 0).small] == [1]
    assert compare_margins(logits[:1], predicted(logits[:1]), 0).unaffected == 1


@given(
    npst.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 4)), elements=EIGHTHS),
    st.integers(0, 40).map(lambda count: count / 8),
)
def test_no_adversary_flips_an_unaffected_image(logits: NDArray[np.float32], error: float) -> None:
    """Every corner of the cube of allowed errors is tried; what is unaffected stays, what is not can be made to fall."""
    found = compare_margins(logits, predicted(logits), error)
    open_cases = {case.image for case in found.small}
    corners = np.array(list(itertools.product((-error, 0, error), repeat=logits.shape[1])))
    for image, row in enumerate(logits.astype(np.float64)):
        worst = row + corners
        best = row.argmax()
        reached = (np.delete(worst, best, axis=1).max(axis=1) >= worst[:, best]).any()
        assert reached == (image in open_cases)
    assert found.unaffected == pytest.approx(1 - len(open_cases) / len(logits))


@given(
    npst.arrays(np.float32, (5, 10), elements=st.floats(-50, 50, width=32)),
    npst.arrays(np.float32, (5, 10), elements=st.floats(-3, 3, width=32)),
)
def test_whatever_decision_changed_is_listed(logits: NDArray[np.float32], noise: NDArray[np.float32]) -> None:
    """The error that was seen never vouches for an image that another decision was seen for."""
    answers = logits + noise
    error = float(np.abs(answers.astype(np.float64) - logits).max())
    listed = {case.image: case.predicted for case in compare_margins(logits, predicted(answers), error).small}
    for image in np.flatnonzero(predicted(answers) != predicted(logits)):
        assert listed[int(image)] == answers[image].argmax()


@given(npst.arrays(np.float32, (7, 3), elements=EIGHTHS), st.integers(1, 7), st.integers(0, 24))
def test_where_a_set_is_cut_changes_nothing(logits: NDArray[np.float32], part: int, eighths: int) -> None:
    """Numbers, order and share of a set that is added in parts are those of the set added at once."""
    assert compare_margins(logits, predicted(logits), eighths / 8, part) == compare_margins(
        logits, predicted(logits), eighths / 8, len(logits)
    )


def test_a_long_list_is_cut_and_the_share_still_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of images would list thousands; the share comes from a temporary file, and stays exact."""
    monkeypatch.setattr(module, "LISTED", 3)
    monkeypatch.setattr(module, "SPOOLED_BYTES", 64)  # eight margins: the others go to disk
    logits = np.zeros((50, 2), np.float32)
    logits[:, 0] = np.arange(50, 0, -1)
    found = compare_margins(logits, predicted(logits), 5.0, 7)
    assert [case.image for case in found.small] == [49, 48, 47]
    assert found.unaffected == 1 - 10 / 50


def test_the_nearest_images_are_numbered_in_the_whole_set() -> None:
    """A figure shows the images themselves, smallest margin first."""
    logits = np.array([[9, 0], [3, 1], [2, 2], [5, 4]], np.float32)
    images = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    known = Reference(images=images, labels=np.zeros(4, np.uint8), logits=logits)
    found = nearest_images(known, 2)
    assert (found.numbers.tolist(), found.images[:, 0, 0].tolist()) == ([2, 3], [2, 3])
