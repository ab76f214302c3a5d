"""Find ink on paper, or chalk on a board, under any light: background, polarity, threshold, connected parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_edge.pixels import Images

WORK = 384
"""Longer side of the image that is worked on."""
STROKE = 0.25
"""Widest stroke, as a share of the shorter side, that counts as ink and not as a darker background."""
LEAST_CONTRAST = 0.08
"""Ink is darker than its background by at least this share of it."""
LEAST_TO_NOISE = 6.0
"""... and by this many standard deviations of the background."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Ink:
    """Where an image has ink.

    Attributes:
        darkness: float32 (h, w), 0 background to 1 ink.
        labels: int32 (h, w), 0 background, else the number of a connected part.
        count: of the parts.
        scale: of this image over the photo's.
        reason: why there is no ink; empty where there is.
    """

    darkness: Floats
    labels: NDArray[np.int32]
    count: int
    scale: float
    reason: str


def find_ink(grey: Images) -> Ink:
    """Return the ink of an image of uint8 (h, w), of either polarity."""
    work, scale = _work(grey)
    light = work if _dark_on_light(work) else 1 - work
    side = max(3, round(STROKE * min(light.shape)) | 1)
    background = np.maximum(ndimage.grey_closing(light, size=(side, side)), 0.02)
    darkness = (1 - light / background).astype(np.float32)
    threshold, contrast = _otsu(darkness)
    paper = darkness[darkness < threshold]
    noise = float(np.std(paper)) if paper.size else 0.0
    reason = ""
    if contrast < max(LEAST_CONTRAST, LEAST_TO_NOISE * noise):
        reason = "no digit: no ink that stands out from its background"
    labels, count = ndimage.label(darkness > threshold, structure=np.ones((3, 3)))
    low = float(np.median(paper)) if paper.size else 0.0
    return Ink(
        darkness=np.clip((darkness - low) / max(contrast, 1e-3), 0, 1).astype(np.float32),
        labels=labels,
        count=count,
        scale=scale,
        reason=reason,
    )


def _work(grey: Images) -> tuple[Floats, float]:
    """Return an image of values 0 to 1 whose longer side is WORK, slightly smoothed, and the scale."""
    height, width = grey.shape
    scale = WORK / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    values = np.asarray(Image.fromarray(grey).resize(size, resample), dtype=np.float32) / 255
    return np.asarray(ndimage.gaussian_filter(ndimage.median_filter(values, 3), 0.7), dtype=np.float32), scale


def _dark_on_light(work: Floats) -> bool:
    """Whether the outliers of the local median are darker than it."""
    small = work[::4, ::4]
    apart = small - ndimage.median_filter(small, size=max(3, min(small.shape) // 2 | 1), mode="nearest")
    return float((apart**3).sum()) < 0


def _otsu(values: Floats) -> tuple[float, float]:
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
