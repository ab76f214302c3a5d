"""Find a sheet of paper that lies on something darker, so that its edges are not taken for ink."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mnist_edge.data.ink import Bools, Floats, otsu

LEAST_AREA, LARGEST_AREA = 0.05, 0.9
"""Shares of the image that a sheet can have."""
DARKER = 0.65
"""What surrounds a sheet has at most this share of its light, also next to it."""
NEXT = 8
"""Pixels from a sheet's edge that are next to it."""
INK, MOST_INK = 0.55, 0.004
"""What surrounds a sheet has at most MOST_INK of pixels darker than INK of the others: else a shadow crosses the digit."""
LARGEST_HOLES = 0.35
"""Share of a sheet that may be ink; a ring of chalk has more inside."""
COMPACT = 0.9
"""Share of a sheet that is within squares of a quarter of its shorter side: a line of chalk has nothing."""
EDGE = 4
"""Pixels at the edge of a sheet that are left out."""


def find_sheet(light: Floats) -> Bools | None:
    """Return where a sheet lies, without its edge, as bool (h, w); None where there is none.

    Args:
        light: float32 (h, w), 0 black to 1 white.
    """
    threshold, _ = otsu(light)
    bright = light > threshold
    labels, count = ndimage.label(bright)
    if not count:
        return None
    sizes = ndimage.sum_labels(bright, labels, np.arange(1, count + 1))
    paper = labels == 1 + int(np.argmax(sizes))
    sheet = ndimage.binary_fill_holes(paper)
    area = float(sheet.mean())
    if not LEAST_AREA < area < LARGEST_AREA or paper.sum() < (1 - LARGEST_HOLES) * sheet.sum():
        return None
    around, within = light[~sheet], light[paper]
    if np.median(around) > DARKER * np.median(within) or np.mean(around < INK * np.median(around)) > MOST_INK:
        return None
    next_to_it = ndimage.binary_dilation(sheet, iterations=NEXT) & ~sheet
    edge_of_it = paper & ~ndimage.binary_erosion(sheet, iterations=NEXT, border_value=1)
    if np.median(light[next_to_it]) > DARKER * np.median(light[edge_of_it]):
        return None
    place = ndimage.find_objects(sheet.astype(int))[0]
    side = max(3, min(edge.stop - edge.start for edge in place) // 4)
    # Where the sheet goes on beyond the image, so does the square.
    wide = np.pad(sheet, side, mode="edge")
    compact = ndimage.maximum_filter(ndimage.minimum_filter(wide, side), side)[side:-side, side:-side]
    if (compact & sheet).sum() < COMPACT * sheet.sum():
        return None
    inner = np.asarray(ndimage.binary_erosion(sheet, iterations=EDGE, border_value=1))
    return inner if inner.any() else None  # a strip of a few pixels has nothing but its edge
