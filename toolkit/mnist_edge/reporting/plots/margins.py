"""The images with the smallest margins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.pixels import Images, Logits
from mnist_edge.records.verification import VariantParity
from mnist_edge.reporting.plots.figure import GREY, ORANGE, RED, new_figure, save_figure

if TYPE_CHECKING:
    pass


SHEET = 12


def margin_sheet(variants: Sequence[VariantParity], images: Images, logits: Logits, path: Path) -> Path:
    """Draw the images nearest to a change of decision, one row of pictures a variant.

    Args:
        variants: whose certificates are shown.
        images: uint8 (N, 28, 28), those the decisions were counted on.
        logits: float32 (N, 10), the reference's.
        path: of the picture.
    """
    top = np.sort(logits, axis=1)
    gaps = top[:, -1] - top[:, -2]
    nearest = np.argsort(gaps)[:SHEET]
    figure = new_figure(1.1 * len(nearest), 1.75 * len(variants))
    grid = figure.subplots(len(variants), len(nearest), squeeze=False)
    for row, variant in zip(grid, variants, strict=True):
        open_cases = {} if variant.margins is None else {case.image: case for case in variant.margins.uncertified}
        for axes, image in zip(row, nearest, strict=True):
            reference = int(logits[image].argmax())
            case = open_cases.get(int(image))
            predicted = reference if case is None else case.predicted
            colour = GREY if case is None else (ORANGE if predicted == reference else RED)
            axes.imshow(images[image], cmap="gray_r", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_color(colour)
                side.set_linewidth(1 if case is None else 3)
            said = f"{reference}" if predicted == reference else f"{reference} → {predicted}"
            axes.set_title(
                f"#{image}: {said}\n{gaps[image]:.2g}", fontsize=8, color="black" if case is None else colour
            )
        error = "none: it cannot be run" if variant.margins is None else f"{variant.margins.error:.2g}"
        row[0].set_ylabel(f"{variant.name}\nerror {error}", fontsize=8)
    figure.suptitle(
        "smallest margins; orange: the error seen could change the decision; red: it did", fontsize=9, x=0.01, ha="left"
    )
    return save_figure(figure, path)
