"""Prepare a photo of a handwritten digit as MNIST was made: 28x28, white on black, its centre of mass in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_edge.contract import SIDE
from mnist_edge.data.ink import Bools, Floats, Ink, WorkImage, find_ink, work_image
from mnist_edge.data.parts import Thing, Things, find_things, in_reading_order, is_outlined, is_written, stroke_width
from mnist_edge.data.sheet import find_sheet
from mnist_edge.pixels import Images

BOX = 20
"""Longer side of a digit in MNIST."""
THINNEST = 1.6
"""Width in pixels of the box that thinner strokes are widened to; most of MNIST's have 2 to 4."""
STROKES = (0.25, 0.1)
"""Widest strokes that are tried, as a share of the shorter side."""
REFINED = 2.5
"""... and then as a multiple of the width that was found: what is wider is a shadow, and not ink."""
SHARP, SHARP_LIGHT = 0.4, 0.7
"""Least contrast across the outline of dark and of light ink, as a share of the ink's: the glow of a lamp has less."""
RIVAL = 0.25
"""An object with more than this share of the digit's ink is another one."""


@dataclass(frozen=True, kw_only=True)
class PreparedPhoto:
    """A digit cut out of an image.

    Attributes:
        image: uint8 (28, 28), 0 background to 255 ink, as MNIST's; None where no digit was found.
        reason: why there is none, or why the image may mislead, in a few words; empty where nothing was noticed.
        box: left, top, right and bottom of the digit in pixels of the photo, right and bottom exclusive; None as `image`.
    """

    image: Images | None
    reason: str
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One way to read an image: with dark or light ink, strokes of up to some width, on the whole image or a sheet in it."""

    work: WorkImage
    ink: Ink
    things: Things
    outside: Bools | None = None

    @property
    def convincing(self) -> bool:
        """Whether its largest object can be a digit."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """Why there is no digit; empty where there may be one."""
        inside = self.things.inside
        if not self.ink.stands_out:
            return "no ink that stands out from its background"
        if not inside:
            return "what there is touches the edge of the image" if self.things.at_edge else "nothing but specks"
        if not is_written(self.things, inside[0]):
            return "a blot, not strokes of a pen"
        sharp = SHARP if self.work.dark_ink else SHARP_LIGHT
        outlined = is_outlined(self.work.light, self.ink, self.things, inside[0], sharp)
        return "" if outlined else "what stands out has no clear outline"


def prepare_photo(grey: Images) -> PreparedPhoto:
    """Prepare the one digit of a photo.

    An image of 28x28 with a uniform background of 0 or 255 counts as prepared: it is returned as it is, or inverted.

    Args:
        grey: uint8 (h, w), of any size and either polarity.
    """
    if (prepared := _as_it_is(grey)) is not None:
        return PreparedPhoto(image=prepared, reason="", box=(0, 0, SIDE, SIDE))
    reading = _best_reading(grey)
    if doubt := reading.doubt:
        return PreparedPhoto(image=None, reason=f"no digit: {doubt}")
    inside = reading.things.inside
    rivals = sum(thing.weight > RIVAL * inside[0].weight for thing in inside[1:])
    return _prepare(reading, inside[0], f"{rivals + 1} separate objects where one digit was expected" if rivals else "")


def prepare_several(grey: Images) -> list[PreparedPhoto]:
    """Prepare every digit of a sheet in reading order: lines from the top, each from the left.

    Args:
        grey: uint8 (h, w).

    Returns:
        One for each object; empty where there is none.
    """
    reading = _best_reading(grey)
    if not reading.convincing:
        return []
    tall = float(np.median([thing.height for thing in reading.things.inside]))
    things = [thing for thing in reading.things.inside if thing.height > 0.4 * tall]
    return [_prepare(reading, thing) for thing in in_reading_order(things)]


def _as_it_is(grey: Images) -> Images | None:
    """Return an image that is prepared already, 28x28 on a uniform background, white on black; None for any other."""
    if grey.shape != (SIDE, SIDE):
        return None
    image = grey if np.median(grey) < 128 else 255 - grey
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.asarray(image) if np.mean(edge == 0) > 0.9 and np.mean(image == 0) > 0.4 and image.max() > 127 else None


def _best_reading(grey: Images) -> _Reading:
    """Return the first convincing reading, its background estimated again for the strokes that were found; else a failed one."""
    first = None
    for reading in _readings(work_image(grey)):
        if first is None or first.outside is not None:
            first = reading
        if reading.convincing:
            return _refined(reading)
    assert first is not None
    return first


def _readings(work: WorkImage) -> Iterator[_Reading]:
    sheet = find_sheet(work.light)
    if sheet is not None:
        light = np.where(sheet, work.light, np.median(work.light[sheet])).astype(np.float32)
        place = ndimage.find_objects(sheet.astype(int))[0]
        shorter = min(edge.stop - edge.start for edge in place)
        yield _read(WorkImage(light=light, scale=work.scale, dark_ink=True), STROKES[0] * shorter, ~sheet)
    for dark in (work.dark_ink, not work.dark_ink):
        light = work.light if dark else 1 - work.light
        for share in STROKES:
            yield _read(WorkImage(light=light, scale=work.scale, dark_ink=dark), share * min(light.shape))


def _read(work: WorkImage, stroke: float, outside: Bools | None = None) -> _Reading:
    ink = find_ink(work.light, stroke)
    return _Reading(work=work, ink=ink, things=find_things(ink, outside), outside=outside)


def _refined(reading: _Reading) -> _Reading:
    width = stroke_width(reading.things.mask(reading.things.inside[0]))
    again = _read(reading.work, max(REFINED * width, 7), reading.outside)
    return again if again.convincing else reading


def _prepare(reading: _Reading, thing: Thing, reason: str = "") -> PreparedPhoto:
    """Cut out one object, scale it to the box, and centre it."""
    mine = reading.things.mask(thing)
    near = ndimage.binary_dilation(mine, iterations=2)
    values = _widened(np.where(near, reading.ink.darkness[thing.place], 0).astype(np.float32), mine)
    scale = BOX / max(values.shape)
    height, width = (max(1, round(side * scale)) for side in values.shape)
    small = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BOX), dtype=np.float64)
    strong = small[small > 0.1]
    small /= max(float(np.percentile(strong, 80)) if strong.size else 1.0, 0.1)
    left, top, right, bottom = (
        round(value / reading.work.scale) for value in (thing.left, thing.top, thing.right, thing.bottom)
    )
    return PreparedPhoto(image=_centred(np.clip(small, 0, 1)), reason=reason, box=(left, top, right, bottom))


def _widened(values: Floats, mine: Bools) -> Floats:
    """Return ink with strokes at least as wide as those of MNIST."""
    pixel = max(mine.shape) / BOX
    missing = THINNEST * pixel - stroke_width(mine)
    if missing < 1:
        return values
    side = 1 + 2 * round(missing / 2)
    return np.asarray(ndimage.grey_dilation(np.pad(values, side // 2), size=(side, side)), dtype=np.float32)


def _centred(small: NDArray[np.float64]) -> Images:
    """Return a scaled digit with its centre of mass in the centre of 28x28, moved by whole pixels."""
    height, width = small.shape
    row, column = ndimage.center_of_mass(small)
    top = min(max(round(SIDE / 2 - 0.5 - row), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - 0.5 - column), 0), SIDE - width)
    image = np.zeros((SIDE, SIDE), dtype=np.uint8)
    image[top : top + height, left : left + width] = np.rint(255 * small)
    return image
