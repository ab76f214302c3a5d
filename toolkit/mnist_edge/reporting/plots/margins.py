"""The images with the smallest margins: those whose prediction an error changes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import SmallMargin, VariantParity
from mnist_edge.reporting.plots.figure import GREY, ORANGE, RED, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12
COLUMNS = 6
INCHES = 1.7
"""Width of one image with its caption."""
EXPLANATION = (
    "The images with the smallest margins. A margin is the reference's largest logit minus its second largest.\n"
    "Grey frame: a logit error of the size measured cannot change the prediction.  Orange: it could.  Red: it did."
)


def margin_sheet(
    variants: Sequence[VariantParity], numbers: Sequence[int], images: Images, logits: Logits, path: Path
) -> Path:
    """Draw the images with the smallest margins, for each variant in colours that show which may flip.

    Args:
        variants: whose margins are shown.
        numbers: of the images with the smallest margins among those that predictions were compared on.
        images: uint8 (n, 28, 28), these.
        logits: float32 (n, 10), the reference's.
        path: of the figure.
    """
    top = np.sort(logits, axis=1)
    margins = top[:, -1] - top[:, -2]
    rows = -(-len(numbers) // COLUMNS)
    figure = new_figure(INCHES * COLUMNS, (INCHES + 0.75) * rows * len(variants) + 0.5)
    figure.suptitle(EXPLANATION, fontsize=9, x=0.01, ha="left")
    parts = figure.subfigures(len(variants), 1, squeeze=False).ravel()
    for part, variant in zip(parts, variants, strict=True):
        known = {} if variant.margins is None else {case.image: case for case in variant.margins.small}
        error = "not comparable" if variant.margins is None else f"largest logit error {variant.margins.error:.2g}"
        part.suptitle(f"{variant.name}: {error}", fontsize=10, x=0.01, ha="left", weight="bold")
        grid = part.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, number, pixels, margin, scores in zip(grid, numbers, images, margins, logits, strict=False):
            _draw(axes, pixels, _caption(number, float(margin), int(scores.argmax()), known.get(number)))
            _frame(axes, known.get(number), comparable=variant.margins is not None)
        for axes in grid[len(numbers) :]:
            axes.set_axis_off()
    return save_figure(figure, path)


def _caption(image: int, margin: float, reference: int, case: SmallMargin | None) -> str:
    predicted = reference if case is None else case.predicted
    prediction = f"predicted {predicted}" if predicted == reference else f"reference {reference}, predicted {predicted}"
    return f"image {image:,}\n{prediction}\nmargin {margin:.2g}"


def _draw(axes: Axes, pixels: Images, caption: str) -> None:
    axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(caption, fontsize=8)


def _frame(axes: Axes, case: SmallMargin | None, *, comparable: bool) -> None:
    """Colour the frame: grey where the error seen cannot change the prediction, orange where it may, red where it did."""
    changed = case is not None and case.predicted != case.reference
    colour = RED if changed else ORANGE if case is not None else GREY
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(3 if case is not None else 1)
        side.set_visible(comparable)
    if case is not None:
        axes.title.set_color(colour)
