"""Preparing photos: the same digit under any light, size and polarity is the same 28x28, and what is none is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from mnist_edge.data.photo import prepare_photo, prepare_several

WHITE, BLACK = 225, 40


def five(side: int = 200, paper: tuple[int, int] = (300, 400), at: tuple[int, int] = (120, 50)) -> np.ndarray:
    """A 5 with its bar apart, on a sheet of (height, width), its box at (left, top)."""
    sheet = Image.new("L", (paper[1], paper[0]), WHITE)
    draw, (left, top), pen = ImageDraw.Draw(sheet), at, max(2, side // 10)

    def line(*points: tuple[float, float]) -> None:
        draw.line([(left + side * x, top + side * y) for x, y in points], fill=BLACK, width=pen, joint="curve")

    line((0.24, 0.08), (0.24, 0.45), (0.45, 0.4), (0.6, 0.5), (0.65, 0.7), (0.55, 0.9), (0.35, 0.97), (0.15, 0.9))
    line((0.36, 0.06), (0.7, 0.04))
    return np.asarray(sheet)


PLAIN = five()


def prepared(photo: np.ndarray) -> np.ndarray:
    found = prepare_photo(photo)
    assert found.image is not None, found.reason
    assert found.reason == ""
    return found.image


def test_the_image_is_as_mnist_was_made() -> None:
    """28x28, white on black, 20 pixels high with both parts of the 5, its centre of mass in the middle, strokes of 255."""
    image = prepared(PLAIN)
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    rows, _ = np.nonzero(image > 60)
    assert 19 <= np.ptp(rows) + 1 <= 21
    for axis in np.nonzero(np.ones((28, 28))):
        centre = (axis * image.ravel()).sum() / image.sum()
        assert abs(centre - 13.5) <= 0.75
    assert image.max() == 255
    assert np.mean(image == 0) > 0.6


def test_the_box_is_where_the_digit_is() -> None:
    """In pixels of the photo, to frame it."""
    found = prepare_photo(five(side=100, paper=(600, 800), at=(500, 300)))
    assert found.box is not None
    expected = (515 - 5, 304 - 5, 570 + 5, 397 + 5)
    assert np.abs(np.subtract(found.box, expected)).max() <= 8


def gradient(photo: np.ndarray) -> np.ndarray:
    return photo * np.linspace(0.35, 1.1, photo.shape[1])


def shadow(photo: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[0 : photo.shape[0], 0 : photo.shape[1]]
    return photo * np.where(y + 0.5 * x > 280, 0.5, 1.0)


def noisy(photo: np.ndarray) -> np.ndarray:
    return photo + np.random.default_rng(3).normal(0, 12, photo.shape)


def ruled(photo: np.ndarray) -> np.ndarray:
    lines = np.where(np.arange(photo.shape[0]) % 40 == 0, 0.8, 1.0)
    return photo * lines[:, None]


def on_a_table(photo: np.ndarray) -> np.ndarray:
    table = np.full_like(photo, 60, shape=(700, 900))
    table[60:360, 100:500] = photo
    return table


CHANGES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda photo: 255 - photo,
    lambda photo: photo * 0.3,
    lambda photo: 190 + (photo - 190.0) * 0.15,
    gradient,
    shadow,
    noisy,
    ruled,
    on_a_table,
    lambda photo: np.repeat(np.repeat(photo, 3, axis=0), 3, axis=1),
    lambda photo: np.pad(photo, ((500, 0), (900, 0)), constant_values=WHITE),
]
NAMES = [
    "inverted", "dark", "low contrast", "gradient", "hard shadow", "noise", "ruled paper", "on a table", "large", "small",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_the_same_digit_is_prepared_alike(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Light, polarity, size and place are the camera's, and not the digit's."""
    photo = np.clip(change(PLAIN.astype(float)), 0, 255).astype(np.uint8)
    apart = np.abs(prepared(photo).astype(float) - prepared(PLAIN))
    assert apart.mean() < 12  # a digit of another class differs by 40 and more


def test_thin_strokes_are_widened() -> None:
    """A fine liner leaves a third of a pixel, which no model was trained on."""
    sheet = Image.new("L", (800, 800), WHITE)
    ImageDraw.Draw(sheet).line([(200, 150), (560, 160), (330, 650)], fill=BLACK, width=6)
    image = prepared(np.asarray(sheet))
    assert 1.2 < (image > 127).sum() / 32 < 3.5  # of a path 32 pixels long


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (18, 18)), st.integers(2, 8), st.integers(2, 8), st.booleans())
def test_a_prepared_image_stays_as_it_is(ink: np.ndarray, top: int, left: int, inverted: bool) -> None:
    """An image of MNIST saved as PNG predicts as the raw image does, in either polarity."""
    image = np.zeros((28, 28), dtype=np.uint8)
    image[top : top + 18, left : left + 18] = ink
    image[14, 14] = 255
    assert np.array_equal(prepared(255 - image if inverted else image), image)


RANDOM = np.random.default_rng(5)


def drawn(draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    sheet = Image.new("L", (400, 300), WHITE)
    draw(ImageDraw.Draw(sheet))
    return np.asarray(sheet)


@pytest.mark.parametrize(
    ("photo", "piece"),
    [
        (np.full((300, 400), WHITE), "no ink"),
        (np.zeros((28, 28)), "no ink"),
        (np.zeros((1, 1)), "no ink"),
        (RANDOM.normal(WHITE, 8, (300, 400)), "no "),
        (RANDOM.uniform(0, 256, (300, 400)), "no digit"),
        (gradient(np.full((300, 400), 200.0)), "no "),
        (shadow(np.full((300, 400), 200.0)), "edge"),
        (ruled(np.full((300, 400), 200.0)), "edge"),
        (drawn(lambda draw: draw.ellipse((100, 60, 170, 120), fill=BLACK)), "a blot"),
        (drawn(lambda draw: draw.line((150, -10, 160, 320), fill=BLACK, width=14)), "edge"),
    ],
    ids=["blank", "black", "one pixel", "paper", "static", "gradient", "shadow", "lines", "blot", "a stroke over the edge"],
)  # fmt: skip
def test_what_is_no_digit_is_refused_with_the_reason(photo: np.ndarray, piece: str) -> None:
    """Nothing is given to the model, which would call it a digit."""
    found = prepare_photo(np.clip(photo, 0, 255).astype(np.uint8))
    assert found.image is None
    assert piece in found.reason


def test_two_digits_are_not_one() -> None:
    """The reason counts them; the larger one is shown."""
    both = np.concatenate([PLAIN, PLAIN], axis=1)
    found = prepare_photo(both)
    assert found.image is not None
    assert found.reason == "2 separate objects where one digit was expected"


def test_a_sheet_is_read_line_by_line() -> None:
    """Reading order, also where the digits of a line stand at different heights."""
    sheet = np.full((700, 900), WHITE, dtype=np.uint8)
    places = [(60, 40), (330, 80), (600, 30), (50, 400), (350, 380), (620, 420)]
    for number, (left, top) in enumerate(places):
        digit = five(side=120 + 10 * number, paper=(200, 200), at=(20, 10))
        sheet[top : top + 200, left : left + 200] = np.minimum(sheet[top : top + 200, left : left + 200], digit)
    found = prepare_several(sheet)
    assert len(found) == 6
    for one, (left, top) in zip(found, places, strict=True):
        assert one.image is not None
        assert one.box is not None
        assert left < one.box[0] < left + 100
        assert top < one.box[1] < top + 100


def test_a_blank_sheet_has_no_digits() -> None:
    """And no error."""
    assert prepare_several(np.full((300, 400), WHITE, dtype=np.uint8)) == []


@settings(max_examples=15, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60))))
def test_any_image_is_prepared_or_refused(grey: np.ndarray) -> None:
    """No size and no content raises; an image comes with a box, and none without a reason."""
    found = prepare_photo(grey)
    assert (found.image is None) <= bool(found.reason)
    assert (found.image is None) == (found.box is None)
    prepare_several(grey)


def test_a_bright_strip_is_no_sheet() -> None:
    """A few pixels high, it has nothing but its edge: it is a line of chalk."""
    photo = np.full((30, 384), 25, np.uint8)
    photo[13:17, 10:-10] = 230
    assert prepare_photo(photo).box == (10, 13, 374, 17)
