"""Colours, size and atomic writing of all figures. matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BLUE = "#2563a8"
ORANGE = "#d9822b"
GREY = "#9aa5b1"
RED = "#c0392b"
GREEN = "#2e8b57"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "black")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically in the format of its suffix; return the path."""
    buffer = io.BytesIO()
    kind = path.suffix.lstrip(".") or "png"
    figure.savefig(buffer, format=kind, dpi=130, metadata={"Software": None} if kind == "png" else None)
    write_atomic(path, buffer.getvalue())
    return path
