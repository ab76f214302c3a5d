"""The suspicion that a model is evaluated with pixels, or on a dataset, that it was not trained for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mnist_edge.contract import NORMALIZATIONS, Normalization
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import Images, Logits, normalize
from mnist_edge.records.data import Dataset
from mnist_edge.records.suspicion import PixelReading
from mnist_edge.verification.suspicion import (
    Predict,
    apply_reading,
    clearly_better,
    clearly_better_pairs,
    find_suspicion,
    suspicion_line,
)

INVERTED = PixelReading(normalization=None, inverted=True)
TRANSPOSED = PixelReading(normalization=None, transposed=True)
BOTH = PixelReading(normalization=None, inverted=True, transposed=True)


def nearest_mean(data: Dataset, normalization: Normalization | None, reading: PixelReading | None = None) -> Predict:
    """A classifier that was trained on one reading of the pixels: the class whose mean image is nearest."""

    def pixels(images: Images, applied: Normalization | None) -> np.ndarray:
        return normalize(images.reshape(len(images), -1), applied or "unit")

    images = np.asarray(data.train_images[:])
    trained = pixels(images if reading is None else apply_reading(images, reading), normalization)
    means = np.stack([trained[data.train_labels == label].mean(axis=0) for label in range(10)])

    def predict(images: Images, applied: Normalization | None) -> Logits:
        # -|x - m|^2 without |x|^2, which is the same for every class
        return (2 * pixels(images, applied) @ means.T - np.square(means).sum(axis=1)).astype(np.float32)

    return predict


@pytest.mark.parametrize("trained_on", ["raw", "seed", "mnist"])
def test_a_wrong_normalization_is_found(digits: Dataset, trained_on: Normalization) -> None:
    """A model trained on one scale and evaluated with x / 255 is suspected, and the option is named."""
    found = find_suspicion(nearest_mean(digits, trained_on), "unit", digits)
    assert found is not None
    assert found.better == PixelReading(normalization=trained_on)
    assert found.better_accuracy is not None
    assert found.better_accuracy > found.accuracy + 0.05
    line = suspicion_line(found)
    assert f"--normalize {trained_on}" in line
    assert f"{found.better_accuracy:.1%}" in line
    assert f"{found.accuracy:.1%}" in line


@pytest.mark.parametrize("normalization", [*NORMALIZATIONS, None])
def test_the_right_reading_is_not_suspected(digits: Dataset, normalization: Normalization | None) -> None:
    """Nothing is said of a model that is evaluated as it was trained."""
    assert find_suspicion(nearest_mean(digits, normalization), normalization, digits) is None


@pytest.mark.parametrize("reading", [INVERTED, TRANSPOSED, BOTH], ids=lambda reading: reading.description)
def test_inverted_and_transposed_images_are_found(digits: Dataset, reading: PixelReading) -> None:
    """A model whose normalisation is in its graph is tried on inverted and transposed images as well."""
    found = find_suspicion(nearest_mean(digits, None, reading), None, digits)
    assert found is not None
    assert found.better == reading
    assert reading.description in suspicion_line(found)


def test_a_model_near_chance_is_named_where_nothing_helps(digits: Dataset) -> None:
    """Labels in another order cannot be repaired by reading the pixels otherwise: the accuracy alone is suspicious."""
    predict = nearest_mean(digits, "unit")
    found = find_suspicion(lambda images, name: np.roll(predict(images, name), 1, axis=1), "unit", digits)
    assert found is not None
    assert found.near_chance
    assert found.better is None
    assert "near chance" in suspicion_line(found)


def test_another_dataset_is_found(digits: Dataset) -> None:
    """A model that is right about another available dataset is suspected of having been trained on it."""
    shifted = replace(digits, name="kmnist", test_labels=(digits.test_labels + 1) % 10)
    found = find_suspicion(nearest_mean(digits, "unit"), "unit", shifted, [digits])
    assert found is not None
    assert found.better_dataset == "digits"
    assert "--dataset digits" in suspicion_line(found)
    assert find_suspicion(nearest_mean(digits, "unit"), "unit", digits, [shifted]) is None


def test_a_reading_that_the_model_cannot_run_is_left_out(digits: Dataset) -> None:
    """A runtime error, or NaN, under another reading does not end the evaluation and counts as no prediction."""
    predict = nearest_mean(digits, "unit")

    def fragile(images: Images, name: Normalization | None) -> Logits:
        if name == "seed":
            raise BadFileError("overflow")
        return np.full((len(images), 10), np.nan, np.float32) if name == "mnist" else predict(images, name)

    assert find_suspicion(fragile, "unit", digits) is None
    found = find_suspicion(fragile, "seed", digits)
    assert found is not None
    assert found.better == PixelReading(normalization="unit")


def test_images_sorted_by_class_are_sampled_from_all_classes(digits: Dataset) -> None:
    """The first images of a sorted test set are of one class; the comparison takes them evenly spaced."""
    order = np.argsort(digits.test_labels, kind="stable")
    sorted_set = replace(digits, test_images=digits.test_images[order], test_labels=digits.test_labels[order])
    found = find_suspicion(
        lambda images, _name: np.eye(10, dtype=np.float32)[np.zeros(len(images), int)], None, sorted_set, images=50
    )
    assert found is not None
    assert found.images == 50
    assert found.accuracy == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("accuracy", "reference", "images", "expected"),
    [
        (0.884, 0.745, 1000, True),
        (0.80, 0.76, 1000, False),  # under 5 points
        (0.80, 0.72, 1000, True),
        (0.80, 0.72, 360, False),  # under 4 standard errors
        (0.99, 0.94, 100, False),
        (0.5, 0.5, 1000, False),
        (0.21, 0.01, 1000, False),  # less wrong, but not what the model was trained on
    ],
)
def test_clearly_better_needs_points_and_standard_errors(
    accuracy: float, reference: float, images: int, expected: bool
) -> None:
    """Values from the two-proportion formula: sqrt((p(1-p) + q(1-q)) / n)."""
    assert clearly_better(accuracy, reference, images) is expected


@pytest.mark.parametrize(
    ("wins", "losses", "both", "expected"),
    [
        (30, 5, 300, True),  # p = 2e-5
        (30, 15, 300, False),  # under 5 points
        (60, 35, 240, False),  # 7 points, but p = 0.013
        (40, 0, 100, False),  # right on fewer than half of the images
    ],
)
def test_paired_predictions_need_points_and_significance(wins: int, losses: int, both: int, expected: bool) -> None:
    """Only images that one reading alone predicts correctly tell the two apart (McNemar 1947)."""
    neither = 360 - wins - losses - both
    correct = np.repeat([True, False, True, False], [wins, losses, both, neither])
    reference = np.repeat([False, True, True, False], [wins, losses, both, neither])
    assert clearly_better_pairs(correct, reference) is expected
