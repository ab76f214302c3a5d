"""Draw on the page as a person does: mouse, finger and keys are sent by the browser, not by scripts of the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

from mnist_edge.targets.web.chromium import Browser

Point = tuple[float, float]

TWO: tuple[Point, ...] = (
    *((0.48 + 0.18 * math.cos(0.05 * i), 0.36 - 0.16 * math.sin(0.05 * i)) for i in range(62, -18, -1)),
    (0.31, 0.76),
    (0.71, 0.75),
)
"""A 2, from x and y in 0 to 1 of the drawing area."""


def on_screen(browser: Browser, points: Sequence[Point]) -> list[dict[str, float]]:
    """Return points of the drawing area as coordinates of the window."""
    box = browser.evaluate("document.getElementById('paper').getBoundingClientRect().toJSON()")
    return [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]


def draw_with_mouse(browser: Browser, points: Sequence[Point]) -> None:
    """Draw one stroke with the left button."""
    first, *rest = on_screen(browser, points)
    send = "Input.dispatchMouseEvent"
    browser.send(send, type="mousePressed", button="left", clickCount=1, **first)
    for point in rest:
        browser.send(send, type="mouseMoved", button="left", buttons=1, **point)
    browser.send(send, type="mouseReleased", button="left", clickCount=1, **(rest or [first])[-1])


def draw_with_finger(browser: Browser, points: Sequence[Point]) -> None:
    """Draw one stroke with one finger."""
    first, *rest = on_screen(browser, points)
    send = "Input.dispatchTouchEvent"
    browser.send(send, type="touchStart", touchPoints=[first])
    for point in rest:
        browser.send(send, type="touchMove", touchPoints=[point])
    browser.send(send, type="touchEnd", touchPoints=[])


def press(browser: Browser, key: str, times: int = 1, *, shift: bool = False) -> None:
    """Press a key by its name in the DOM: `ArrowLeft`, `Escape`, ` `."""
    for _ in range(times):
        for kind in ("keyDown", "keyUp"):
            browser.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0)


def set_window(browser: Browser, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
    """Set the size of the window, in CSS pixels, and the colour scheme; a phone has two device pixels each, and touch."""
    scale = 2 if phone else 1
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
    )
    browser.send("Emulation.setTouchEmulationEnabled", enabled=phone)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.send("Emulation.setEmulatedMedia", features=[scheme])


def captured(browser: Browser, **options: Any) -> bytes:
    """Return what the window shows as a PNG; options as `Page.captureScreenshot` takes them."""
    return base64.b64decode(browser.send("Page.captureScreenshot", format="png", **options)["data"])


def wait_for_frame(browser: Browser) -> None:
    """Wait until what was drawn is on the screen."""
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
