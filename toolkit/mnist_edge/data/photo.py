"""Prepare a photo of a handwritten digit as MNIST was made: 28x28, white on black, its centre of mass in the middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_edge.contract import SIDE
from mnist_edge.data.ink import Ink, find_ink
from mnist_edge.pixels import Images

BOX = 20
"""Longer side of a digit in MNIST."""
THIN, THICK = 1.6, 4.5
"""Widths of strokes in pixels of the box between which a digit stays as it was written; MNIST has 1.5 to 4.5."""
NEAR = 0.35
"""Parts closer than this share of the digit's height belong to it: the bar of a 5."""
LEAST_PART = 0.04
"""A part with a smaller share of the largest part's ink is a speck."""
RIVAL = 0.3
"""A part away from the digit with a larger share of its ink is another object."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


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


def prepare_photo(grey: Images) -> PreparedPhoto:
    """Prepare the one digit of a photo.

    An image of 28x28 with a uniform background of 0 or 255 counts as prepared: it is returned as it is, or inverted.

    Args:
        grey: uint8 (h, w), of any size and either polarity.
    """
    if (prepared := _as_it_is(grey)) is not None:
        return PreparedPhoto(image=prepared, reason="", box=(0, 0, SIDE, SIDE))
    ink = find_ink(grey)
    if ink.reason:
        return PreparedPhoto(image=None, reason=ink.reason)
    groups = _groups(ink)
    if not groups:
        return PreparedPhoto(image=None, reason="no digit: nothing but specks, or only what touches the edge")
    prepared_group = _prepare(ink, groups[0])
    weights = [group.weight for group in groups]
    rivals = sum(weight > RIVAL * weights[0] for weight in weights[1:])
    if rivals:
        reason = f"{rivals + 1} separate objects where one digit was expected"
        return PreparedPhoto(image=prepared_group.image, reason=reason, box=prepared_group.box)
    return prepared_group


def prepare_several(grey: Images) -> list[PreparedPhoto]:
    """Prepare every digit of a sheet in reading order: lines from the top, each from the left.

    Args:
        grey: uint8 (h, w).

    Returns:
        One for each object; empty where there is none.
    """
    ink = find_ink(grey)
    if ink.reason:
        return []
    groups = _groups(ink)
    if not groups:
        return []
    tall = float(np.median([group.height for group in groups]))
    groups = [group for group in groups if group.height > 0.4 * tall]
    return [_prepare(ink, group) for group in _in_reading_order(groups)]


def _as_it_is(grey: Images) -> Images | None:
    if grey.shape != (SIDE, SIDE):
        return None
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    for image in (grey, 255 - grey) if np.median(edge) < 128 else (255 - grey,):
        if np.median(edge if image is grey else 255 - edge) == 0 and np.mean(image == 0) > 0.5 and image.max() > 127:
            return np.asarray(image)
    return None


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Parts of one object: which of the labelled components, their box in the working image, and their ink."""

    labels: tuple[int, ...]
    top: int
    bottom: int
    left: int
    right: int
    weight: float

    @property
    def height(self) -> int:
        return self.bottom - self.top


def _groups(ink: Ink) -> list[_Group]:
    """Return the objects of an image, most ink first; specks and what touches the edge are left out."""
    weights = ndimage.sum_labels(ink.darkness, ink.labels, np.arange(1, ink.count + 1))
    parts = []
    rows, columns = ink.labels.shape
    for number, (place, weight) in enumerate(zip(ndimage.find_objects(ink.labels), weights, strict=True), start=1):
        top, bottom, left, right = place[0].start, place[0].stop, place[1].start, place[1].stop
        if top == 0 or left == 0 or bottom == rows or right == columns:
            continue
        parts.append(_Group(labels=(number,), top=top, bottom=bottom, left=left, right=right, weight=float(weight)))
    if not parts:
        return []
    parts.sort(key=lambda part: -part.weight)
    parts = [part for part in parts if part.weight >= LEAST_PART * parts[0].weight]
    groups: list[_Group] = []
    for part in parts:
        host = next((i for i, group in enumerate(groups) if _belongs(part, group)), None)
        if host is None:
            groups.append(part)
        else:
            groups[host] = _joined(groups[host], part)
    return groups


def _belongs(part: _Group, group: _Group) -> bool:
    """Whether a part is near an object with more ink, and smaller than it."""
    apart = max(part.left - group.right, group.left - part.right, part.top - group.bottom, group.top - part.bottom, 0)
    side = max(group.height, group.right - group.left)
    return apart < NEAR * side and part.weight < 0.5 * group.weight


def _joined(one: _Group, other: _Group) -> _Group:
    return _Group(
        labels=(*one.labels, *other.labels),
        top=min(one.top, other.top),
        bottom=max(one.bottom, other.bottom),
        left=min(one.left, other.left),
        right=max(one.right, other.right),
        weight=one.weight + other.weight,
    )


def _in_reading_order(groups: list[_Group]) -> list[_Group]:
    """Return objects line by line: one whose middle lies within the height of a line's first belongs to the line."""
    lines: list[list[_Group]] = []
    for group in sorted(groups, key=lambda group: group.top + group.bottom):
        middle = (group.top + group.bottom) / 2
        line = next((line for line in lines if line[-1].top < middle < line[-1].bottom), None)
        if line is None:
            lines.append([group])
        else:
            line.append(group)
    return [group for line in lines for group in sorted(line, key=lambda group: group.left)]


def _prepare(ink: Ink, group: _Group) -> PreparedPhoto:
    """Cut out one object, scale it to the box, and centre it."""
    place = slice(group.top, group.bottom), slice(group.left, group.right)
    mine = np.isin(ink.labels[place], group.labels)
    near = ndimage.binary_dilation(mine, iterations=2)
    values = np.where(near, ink.darkness[place], 0).astype(np.float32)
    values = _pen(values, mine)
    scale = BOX / max(values.shape)
    height, width = (max(1, round(side * scale)) for side in values.shape)
    small = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BOX), dtype=np.float64)
    small /= max(float(np.percentile(small[small > 0.1], 80)) if (small > 0.1).any() else 1.0, 0.1)
    left, top, right, bottom = (
        round(value / ink.scale) for value in (group.left, group.top, group.right, group.bottom)
    )
    return PreparedPhoto(image=_centred(np.clip(small, 0, 1)), reason="", box=(left, top, right, bottom))


def _pen(values: Floats, mine: Bools) -> Floats:
    """Make strokes of an extreme pen as wide as MNIST's."""
    inside = ndimage.distance_transform_edt(np.pad(mine, 1))
    ridge = inside[(inside == ndimage.maximum_filter(inside, 3)) & (inside > 0)]
    width = (2 * float(np.median(ridge)) - 0.5) * BOX / max(mine.shape)
    missing = (THIN - width if width < THIN else 0.0) * max(mine.shape) / BOX
    if missing >= 1:
        side = 1 + 2 * round(missing / 2 + 0.5)
        return np.asarray(ndimage.grey_dilation(np.pad(values, side // 2), size=(side, side)), dtype=np.float32)
    return values


def _centred(small: NDArray[np.float64]) -> Images:
    """Return a scaled digit with its centre of mass in the centre of 28x28, moved by whole pixels."""
    height, width = small.shape
    row, column = ndimage.center_of_mass(small)
    top = min(max(round(SIDE / 2 - 0.5 - row), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - 0.5 - column), 0), SIDE - width)
    image = np.zeros((SIDE, SIDE), dtype=np.uint8)
    image[top : top + height, left : left + width] = np.rint(255 * small)
    return image
