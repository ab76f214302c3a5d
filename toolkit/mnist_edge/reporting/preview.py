"""Draw what `predict` saw: each image, the digit as the model receives it, and the result beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_edge.pixels import Images
from mnist_edge.records.prediction import Prediction
from mnist_edge.reporting.escape import printable

ROW, GAP, WIDTH = 280, 16, 1000
INK, QUIET, GOOD, BAD = (27, 29, 33), (93, 99, 110), (26, 115, 64), (179, 38, 30)
BAR = (31, 95, 191)


@dataclass(frozen=True, kw_only=True)
class PreviewRow:
    """One row of a preview.

    Attributes:
        grey: the image, uint8 (h, w); None where it could not be read.
        box: of the digit in it: left, top, right, bottom.
        prepared: what the model received, uint8 (28, 28); None where there is no digit.
    """

    prediction: Prediction
    grey: Images | None
    box: tuple[int, int, int, int] | None
    prepared: Images | None


def preview(rows: Sequence[Image.Image]) -> bytes:
    """Return drawn rows below each other as PNG; at least one."""
    sheet = Image.new("RGB", (WIDTH, len(rows) * (ROW + GAP) + GAP), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, GAP + place * (ROW + GAP)))
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def draw_row(row: PreviewRow) -> Image.Image:
    """Return a row, WIDTH by ROW pixels, so that no photo has to be kept until the others are read."""
    sheet = Image.new("RGB", (WIDTH, ROW), "white")
    if row.grey is not None:
        sheet.paste(_original(row.grey, row.box), (GAP, 0))
    if row.prepared is not None:
        large = Image.fromarray(row.prepared).resize((ROW, ROW), Image.Resampling.NEAREST)
        sheet.paste(large, (2 * GAP + ROW, 0))
    draw, left, one = ImageDraw.Draw(sheet), 3 * GAP + 2 * ROW, row.prediction
    shown = "–" if one.label is None else one.label
    draw.text((left, -12), shown, font=_font(96), fill=INK if one.accepted else QUIET)
    draw.text((left + 90, 12), "accepted" if one.accepted else "not accepted", font=_font(22),
              fill=GOOD if one.accepted else BAD)  # fmt: skip
    for line, entry in enumerate(one.top):
        y = 118 + 34 * line
        draw.text((left, y), entry.label, font=_font(22), fill=INK)
        draw.rectangle((left + 30, y + 8, left + 30 + round(200 * entry.probability), y + 22), fill=BAR)
        draw.text((left + 245, y), f"{entry.probability:.1%}", font=_font(22), fill=INK)
    below = 118 + 34 * len(one.top) + 6
    for text in _wrapped(one.reason, WIDTH - GAP - left):
        draw.text((left, below), text, font=_font(18), fill=BAD)
        below += 22
    draw.text((left, ROW - 20), _shortened(one.image, WIDTH - GAP - left), font=_font(16), fill=QUIET)
    return sheet


def _original(grey: Images, box: tuple[int, int, int, int] | None) -> Image.Image:
    """Return an image within ROW by ROW, the digit framed."""
    height, width = grey.shape
    scale = ROW / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    shown = Image.fromarray(np.ascontiguousarray(grey)).resize(size, resample).convert("RGB")
    if box is not None:
        left, top, right, bottom = (value * scale for value in box)
        frame = (max(0, left - 3), max(0, top - 3), min(size[0] - 1, right + 2), min(size[1] - 1, bottom + 2))
        ImageDraw.Draw(shown).rectangle(frame, outline=BAR, width=2)
    return shown


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines that fit a width."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and _font(18).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines[:5]


def _shortened(name: str, width: int) -> str:
    """Return the end of a name that fits a width."""
    shown = printable(name)
    while len(shown) > 1 and _font(16).getlength(shown) > width:
        shown = "…" + shown[2:]
    return shown
