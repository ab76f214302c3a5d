"""Join the connected parts of ink to objects: the bar of a 5 belongs to it, a speck to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_edge.data.ink import Bools, Floats, Ink

NEAR = 0.35
"""Parts closer than this share of an object's longer side belong to it."""
LEAST_PART = 0.03
"""A part with a smaller share of the largest part's ink is a speck."""
WIDEST = 0.5
"""An object is nowhere wider than this share of its longer side; what is wider is a blot."""
LEAST_OUTLINE = 0.8
"""So much of an object's outline has at least OUTLINE_CONTRAST of its typical contrast; the rest may meet other ink."""
OUTLINE_CONTRAST = 0.4
RING = 3
"""Pixels around an object in which its outline lies."""
SMALLEST = 9
"""An object has a longer side of at least this many pixels."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: its parts, its box and its ink.

    Attributes:
        labels: numbers of its connected parts.
        top, bottom, left, right: of its box, bottom and right exclusive.
        weight: its ink, the sum of its darkness.
    """

    labels: tuple[int, ...]
    top: int
    bottom: int
    left: int
    right: int
    weight: float

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    @property
    def side(self) -> int:
        """Pixels of the longer side."""
        return max(self.height, self.right - self.left)

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def joined(self, other: Thing) -> Thing:
        """Return both as one."""
        return Thing(
            labels=(*self.labels, *other.labels),
            top=min(self.top, other.top),
            bottom=max(self.bottom, other.bottom),
            left=min(self.left, other.left),
            right=max(self.right, other.right),
            weight=self.weight + other.weight,
        )


@dataclass(frozen=True, kw_only=True)
class Things:
    """The objects of an image.

    Attributes:
        labels: int32 (h, w), 0 background, else the number of a connected part.
        inside: objects that do not touch the edge of the image, most ink first.
        at_edge: ink of what touches it.
    """

    labels: NDArray[np.int32]
    inside: tuple[Thing, ...]
    at_edge: float

    def mask(self, thing: Thing) -> Bools:
        """Return where in its box an object has ink."""
        return np.isin(self.labels[thing.place], thing.labels)


def find_things(ink: Ink, outside: Bools | None = None) -> Things:
    """Return the objects of an image; specks are left out.

    Args:
        ink: of the image.
        outside: bool (h, w), where there is no paper; what touches it counts as touching the edge of the image.
    """
    labels, count = ndimage.label(ink.mask, structure=np.ones((3, 3)))
    weights = ndimage.sum_labels(ink.darkness, labels, np.arange(1, count + 1))
    rows, columns = labels.shape
    parts, at_edge = [], 0.0
    cut = set() if outside is None else set(np.unique(labels[outside]).tolist())
    for number, (place, weight) in enumerate(zip(ndimage.find_objects(labels), weights, strict=True), start=1):
        top, bottom, left, right = place[0].start, place[0].stop, place[1].start, place[1].stop
        if number in cut or top == 0 or left == 0 or bottom == rows or right == columns:
            at_edge += float(weight)
        else:
            thing = Thing(labels=(number,), top=top, bottom=bottom, left=left, right=right, weight=float(weight))
            parts.append(thing)
    parts.sort(key=lambda part: -part.weight)
    things: list[Thing] = []
    for part in parts:
        if part.weight < LEAST_PART * parts[0].weight:
            break
        host = next((i for i, thing in enumerate(things) if _belongs(part, thing)), None)
        if host is None:
            things.append(part)
        else:
            things[host] = things[host].joined(part)
    return Things(labels=labels, inside=tuple(thing for thing in things if thing.side >= SMALLEST), at_edge=at_edge)


def _belongs(part: Thing, thing: Thing) -> bool:
    """Whether a part is near an object with more ink."""
    across = max(part.left - thing.right, thing.left - part.right, 0)
    down = max(part.top - thing.bottom, thing.top - part.bottom, 0)
    return max(across, down) < NEAR * thing.side and part.weight < 0.5 * thing.weight


def stroke_width(mask: Bools) -> float:
    """Return the typical width of the strokes of a shape, in pixels: twice the distance of their middles from the edge."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))
    ridge = inside[(inside >= ndimage.maximum_filter(inside, 3)) & (inside > 0)]
    return 2 * float(np.median(ridge)) - 0.5


def is_written(things: Things, thing: Thing) -> bool:
    """Whether an object can have been written with a pen: nowhere as wide as a blot."""
    shape = ndimage.binary_closing(np.pad(things.mask(thing), 3), iterations=2)  # noise makes holes in a blot
    return 2 * float(ndimage.distance_transform_edt(shape).max()) < WIDEST * thing.side


def is_outlined(light: Floats, ink: Ink, things: Things, thing: Thing, sharp: float) -> bool:
    """Whether an object is darker than its background all around, and not a part of a larger area.

    Args:
        light: float32 (h, w), 0 black to 1 white.
        ink: found in it.
        things: of that ink.
        thing: one of them.
        sharp: least contrast of a typical place of the outline, as a share of the ink's.
    """
    top, left = max(thing.top - 2 * RING, 0), max(thing.left - 2 * RING, 0)
    place = slice(top, thing.bottom + 2 * RING), slice(left, thing.right + 2 * RING)
    mine = np.isin(things.labels[place], thing.labels)
    around = ndimage.distance_transform_edt(~mine)
    ring = (around > RING - 1) & (around <= RING + 1)
    darkest = ndimage.minimum_filter(np.where(mine, light[place], 1), size=4 * RING + 1)
    contrast = 1 - darkest[ring] / np.maximum(light[place][ring], 0.02)
    typical = float(np.median(contrast))
    return typical > sharp * ink.contrast and float(np.mean(contrast > OUTLINE_CONTRAST * typical)) > LEAST_OUTLINE


def in_reading_order(things: Sequence[Thing]) -> list[Thing]:
    """Return objects line by line, each from the left; a line is what lies at the height of the object before."""
    lines: list[list[Thing]] = []
    for thing in sorted(things, key=lambda thing: thing.top + thing.bottom):
        middle = (thing.top + thing.bottom) / 2
        line = next((line for line in lines if line[-1].top < middle < line[-1].bottom), None)
        if line is None:
            lines.append([thing])
        else:
            line.append(thing)
    return [thing for line in lines for thing in sorted(line, key=lambda thing: thing.left)]
