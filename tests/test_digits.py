"""The carried digits: real handwriting in MNIST's form, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits as carried

from mnist_edge.data import digits as module
from mnist_edge.data.digits import load_digits
from mnist_edge.errors import UnavailableError
from mnist_edge.extras import pip
from mnist_edge.records.data import Dataset


@pytest.fixture(scope="module")
def pictures(digits: Dataset):
    return np.concatenate([digits.train_images, digits.test_images])


def test_shapes_and_counts(digits: Dataset) -> None:
    """1,437 training and 360 test pictures of 28x28 bytes, each with a label, none in both sets."""
    assert digits.train_images.shape == (1437, 28, 28)
    assert digits.test_images.shape == (360, 28, 28)
    assert digits.train_labels.shape == (1437,)
    assert digits.test_labels.shape == (360,)
    for array in (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels):
        assert array.dtype == np.uint8
    train = {picture.tobytes() for picture in digits.train_images}
    assert not any(picture.tobytes() in train for picture in digits.test_images)


def test_labels_are_scikit_learns_in_its_order(digits: Dataset) -> None:
    """Every picture keeps its own label, and both sets hold all ten digits."""
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    assert labels.tolist() == carried().target.tolist()
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))


def test_pictures_are_still_the_same_handwriting(pictures) -> None:
    """A picture is most like its own original: shrunk back to 8x8 from its ink, it finds it among all."""
    originals = carried().images
    chosen = range(0, len(pictures), 29)
    small = []
    for index in chosen:
        rows, columns = np.nonzero(originals[index])
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        ink_rows, ink_columns = np.nonzero(pictures[index])
        ink = pictures[index][ink_rows.min() : ink_rows.max() + 1, ink_columns.min() : ink_columns.max() + 1]
        shrunk = np.zeros((8, 8))
        shrunk[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = ink[
            np.ix_(((np.arange(height) + 0.5) * ink.shape[0] / height).astype(int),
                   ((np.arange(width) + 0.5) * ink.shape[1] / width).astype(int))
        ]  # fmt: skip
        small.append(shrunk * 16 / 255)
    distances = ((np.array(small)[:, None] - originals[None]) ** 2).sum(axis=(2, 3))
    assert distances.argmin(axis=1).tolist() == list(chosen)


def test_ink_fills_twenty_pixels_and_no_more(pictures) -> None:
    """As in MNIST, the longer side of the ink is 20 pixels and the strokes are bright on black."""
    sides = []
    for picture in pictures:
        rows, columns = np.nonzero(picture)
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert set(sides) == {20}
    assert pictures.max(axis=(1, 2)).min() > 200


def test_ink_is_centred_by_its_mass(pictures) -> None:
    """The centre of mass lies within a pixel of the middle of every picture."""
    ink = pictures.astype(np.float64)
    mass = ink.sum(axis=(1, 2))
    rows = (ink.sum(axis=2) * np.arange(28)).sum(axis=1) / mass
    columns = (ink.sum(axis=1) * np.arange(28)).sum(axis=1) / mass
    assert np.abs(rows - 13.5).max() <= 1
    assert np.abs(columns - 13.5).max() <= 1


def test_the_digits_are_the_same_every_time(digits: Dataset) -> None:
    """Two loads give the same bytes, so that figures can be compared."""
    again = load_digits()
    assert again.train_images.tobytes() == digits.train_images.tobytes()
    assert again.test_images.tobytes() == digits.test_images.tobytes()
    assert again.train_labels.tobytes() == digits.train_labels.tobytes()


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scikit-learn is missing, the error says what to install."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError) as caught:
        load_digits()
    assert caught.value.hint == f"{pip()} install scikit-learn"
