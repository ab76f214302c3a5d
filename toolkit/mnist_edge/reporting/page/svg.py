"""A matplotlib figure as inline SVG: no style that a strict policy refuses, no fixed colour, and names of its own."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from markupsafe import Markup

from mnist_edge.reporting.plots.figure import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
INK = ("#000000", "black")
UNUSED = {"font-family", "font-style", "font-weight", "font"}
"""The text of a figure has the font of the page."""


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """Return a figure as an `svg` element; the same figure gives the same bytes.

    Styles become attributes, which a Content-Security-Policy without inline styles allows. Colours become classes, `f0`
    or `s0` for the fill or stroke of the first of COLOURS, so that the page decides about light and dark.

    Args:
        figure: without a background.
        name: begins every id, so that two figures of a page have none in common.
        description: for those who cannot see it.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib's own output
    _remove(root, {f"{SVG}metadata", f"{SVG}style"})
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _rename(element, name)
        _restyle(element)
    size = {"viewBox": root.attrib["viewBox"]}
    root.attrib.clear()
    root.attrib |= {**size, "role": "img", "aria-label": description}
    text = ET.tostring(root, encoding="unicode")
    return Markup(re.sub(r"\n\s*", "\n", text))  # noqa: S704 - built here, every text of it escaped by ElementTree


def _remove(root: ET.Element, tags: set[str]) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)


def _rename(element: ET.Element, name: str) -> None:
    """Begin every id, and every reference to one, with the name of the figure."""
    if "id" in element.attrib:
        element.attrib["id"] = f"{name}-{element.attrib['id']}"
    if HREF in element.attrib:
        element.attrib["href"] = f"#{name}-{element.attrib.pop(HREF).removeprefix('#')}"
    if "clip-path" in element.attrib:
        element.attrib["clip-path"] = element.attrib["clip-path"].replace("url(#", f"url(#{name}-")


def _restyle(element: ET.Element) -> None:
    """Turn `style` into attributes, and colours that the page knows into classes."""
    style = element.attrib.pop("style", "")
    values = dict(part.strip().split(": ", 1) for part in style.split(";") if ": " in part)
    classes = []
    for name, value in values.items():
        colour = _class_of(name, value)
        if colour:
            classes.append(colour)
        elif name not in UNUSED:
            element.attrib[name] = value
    if classes:
        element.attrib["class"] = " ".join(classes)


def _class_of(name: str, value: str) -> str:
    """Return the class of a colour; empty for anything else."""
    if name not in {"fill", "stroke"}:
        return ""
    if value in INK:
        return f"{name[0]}-ink"
    return f"{name[0]}{COLOURS.index(value)}" if value in COLOURS else ""
