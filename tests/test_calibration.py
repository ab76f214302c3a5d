"""Negative log-likelihood and calibration: compared with PyTorch's, and on outputs whose confidence is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_edge.records.data import Dataset
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.verification.accuracy import BINS, evaluate, log_probabilities_of, reliability


def judged(logits: np.ndarray, labels: np.ndarray, digits: Dataset) -> EvalReport:
    return evaluate(Path("m"), logits.astype(np.float32), dataclasses.replace(digits, test_labels=labels))


def sure(confidence: float, count: int, predicted: int = 3) -> np.ndarray:
    """Logits that give one class this probability, and share the rest among the others."""
    logits = np.full((count, 10), np.log((1 - confidence) / 9))
    logits[:, predicted] = np.log(confidence)
    return logits


def test_the_likelihood_is_pytorchs(digits: Dataset) -> None:
    """Nats an image, also where a logit is so large that its exponential has no float."""
    logits = np.random.default_rng(1).normal(0, 40, (360, 10)).astype(np.float32)
    logits[0, 0] = 5000
    labels = digits.test_labels
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels).long())
    assert judged(logits, labels, digits).negative_log_likelihood == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("confidence", "right"), [(0.9, 0.9), (0.9, 0.5), (0.55, 0.8), (0.99, 0.0)])
def test_the_error_is_the_gap_between_sure_and_right(confidence: float, right: float, digits: Dataset) -> None:
    """All decisions equally sure: the error is the gap itself."""
    labels = np.where(np.arange(100) < 100 * right, 3, 4).astype(np.uint8)
    found = judged(sure(confidence, 100), labels, digits)
    assert found.calibration_error == pytest.approx(abs(confidence - right), abs=1e-6)
    (only,) = found.reliability
    assert (only.images, only.accuracy) == (100, right)
    assert only.confidence == pytest.approx(confidence, abs=1e-6)


def test_ranges_are_weighed_by_their_images(digits: Dataset) -> None:
    """75 images off by 0.1 and 25 off by 0.5 make 0.2."""
    logits = np.concatenate([sure(0.9, 75), sure(0.5, 25)])
    labels = np.full(100, 3, np.uint8)
    assert judged(logits, labels, digits).calibration_error == pytest.approx(0.75 * 0.1 + 0.25 * 0.5, abs=1e-6)


def test_every_image_is_in_one_range() -> None:
    """Also the surest, and the least sure that ten classes allow."""
    logits = np.random.default_rng(2).normal(0, 3, (1000, 10)).astype(np.float32)
    logits[0], logits[1] = 0, [1000, *[0] * 9]
    log_probabilities = log_probabilities_of(logits, "logits")
    assert log_probabilities is not None
    found = reliability(log_probabilities, np.zeros(1000, np.uint8))
    assert sum(row.images for row in found) == 1000
    assert len(found) <= BINS
    assert [row.confidence for row in found] == sorted(row.confidence for row in found)
    assert found[-1].confidence <= 1


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.tensor(logits), dim=1).numpy()


@pytest.mark.parametrize(
    ("outputs", "change"),
    [
        ("probabilities", softmax),
        ("probabilities", lambda logits: softmax(logits).astype(np.float16).astype(np.float32)),
        ("log-probabilities", lambda logits: torch.log_softmax(torch.tensor(logits), dim=1).numpy()),
    ],
)
def test_probabilities_get_the_figures_of_their_logits(outputs: str, change, digits: Dataset) -> None:
    """A model that ends in a softmax is as well calibrated as its logits: there is no second softmax."""
    logits = np.random.default_rng(3).normal(0, 2, (360, 10)).astype(np.float32)
    expected, found = (judged(values, digits.test_labels, digits) for values in (logits, change(logits)))
    assert (expected.outputs, found.outputs) == ("logits", outputs)
    assert found.accuracy == expected.accuracy
    assert found.negative_log_likelihood == pytest.approx(expected.negative_log_likelihood, rel=2e-3)
    assert found.calibration_error == pytest.approx(expected.calibration_error, abs=2e-3)
    assert found.withheld == ""


def test_a_probability_of_zero_has_a_finite_likelihood(digits: Dataset) -> None:
    """float32 rounds a probability below 1e-45 to 0; the mean stays a number that JSON can hold."""
    outputs = np.eye(10, dtype=np.float32)[(digits.test_labels + 1) % 10]
    found = judged(outputs, digits.test_labels, digits)
    assert found.outputs == "probabilities"
    assert found.negative_log_likelihood == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_independent_scores_have_no_likelihood(digits: Dataset) -> None:
    """One sigmoid per class gives no distribution over the classes: both figures are withheld with the reason."""
    logits = np.random.default_rng(3).normal(0, 2, (360, 10)).astype(np.float32)
    found = judged(1 / (1 + np.exp(-logits)), digits.test_labels, digits)
    assert (found.outputs, found.negative_log_likelihood, found.calibration_error) == ("scores", None, None)
    assert "sum to 1" in found.withheld
    assert found.reliability == ()
    assert found.accuracy == (logits.argmax(axis=1) == digits.test_labels).mean()
