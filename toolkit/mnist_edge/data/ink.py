"""Find ink on paper, or chalk on a board, under any light: smoothing, background, polarity and threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from mnist_edge.pixels import Images

WORK = 384
"""Longer side of the image that is worked on."""
POLARITY_SIDE = 48
"""... and of the one that polarity is read from."""
LEAST_CONTRAST = 0.08
"""Ink is darker than its background by at least this share of it."""
LEAST_TO_NOISE = 5.0
"""... and by this many standard deviations of the background."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class WorkImage:
    """An image at the size that is worked on.

    Attributes:
        light: float32 (h, w), 0 black to 1 white, slightly smoothed.
        scale: its sides over the photo's.
        dark_ink: whether what stands out is darker than what is around it.
    """

    light: Floats
    scale: float
    dark_ink: bool


@dataclass(frozen=True, kw_only=True)
class Ink:
    """Where an image has ink.

    Attributes:
        darkness: float32 (h, w), 0 background to 1 ink.
        mask: bool (h, w), where there is ink.
        contrast: of ink and background, as a share of the background.
        stands_out: whether that is more than noise.
    """

    darkness: Floats
    mask: Bools
    contrast: float
    stands_out: bool


def work_image(grey: Images) -> WorkImage:
    """Return a photo of uint8 (h, w) at the size that is worked on."""
    scale = WORK / max(grey.shape)
    image = Image.fromarray(np.ascontiguousarray(grey))
    sides = [max(8, round(side * scale)) for side in image.size]
    image = image.resize((sides[0], sides[1]), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    values = np.asarray(image.filter(ImageFilter.MedianFilter(3)), dtype=np.float32) / 255
    light = np.asarray(ndimage.gaussian_filter(values, 0.7), dtype=np.float32)
    return WorkImage(light=light, scale=scale, dark_ink=_dark_ink(image))


def _dark_ink(image: Image.Image) -> bool:
    """Whether most of what differs from the local median is darker than it."""
    small = image.copy()
    small.thumbnail((POLARITY_SIDE, POLARITY_SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64)
    apart = values - ndimage.median_filter(values, size=max(3, min(values.shape) // 2 | 1), mode="nearest")
    return float((apart**3).sum()) <= 0


def find_ink(light: Floats, stroke: float) -> Ink:
    """Return the dark ink of an image.

    Args:
        light: float32 (h, w), 0 black to 1 white.
        stroke: pixels; what is wider counts as a darker background (a shadow), and is divided out.
    """
    side = max(3, round(stroke) | 1)
    background = np.maximum(ndimage.grey_closing(light, size=(side, side)), 0.02)
    darkness = (1 - light / background).astype(np.float32)
    threshold, contrast = otsu(darkness)
    paper = darkness[darkness < threshold]
    low = float(np.median(paper)) if paper.size else 0.0
    noise = 1.4826 * float(np.median(np.abs(paper - low))) if paper.size else 0.0
    return Ink(
        darkness=np.clip((darkness - low) / max(contrast, 1e-3), 0, 1).astype(np.float32),
        mask=darkness > threshold,
        contrast=contrast,
        stands_out=contrast > max(LEAST_CONTRAST, LEAST_TO_NOISE * noise),
    )


def otsu(values: Floats) -> tuple[float, float]:
    """Return Otsu's threshold (1979) of values 0 to 1, and the distance of the two means."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (sums[-1] - sums) / above - sums / below
        between = np.where((below > 0) & (above > 0), below * above * apart**2, 0.0)
    best = int(np.argmax(between))
    return float(edges[best + 1]), float(apart[best]) if between[best] > 0 else 0.0
