"""Take the picture of a report for README: `python -m benchmarks.report_screenshot report.html`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.common import HERE
from benchmarks.web_drawing import captured, set_window, wait_for_frame
from mnist_edge.targets.web.chromium import Browser, open_browser

PICTURE = HERE.parent / "docs" / "report.png"
DESKTOP, PHONE = (1280, 1500), (390, 844)


def screenshot(
    page: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False, whole: bool = False, at: str = ""
) -> bytes:
    """Return a PNG of a page, of its first screen, of all of it, or from the element `at` on, a CSS selector."""
    with open_browser() as browser:
        set_window(browser, *size, phone=size == PHONE, dark=dark)
        browser.open(page.resolve().as_uri())
        if at:
            browser.evaluate(f"document.querySelector({at!r}).scrollIntoView({{behavior: 'instant'}})")
        wait_for_frame(browser)
        return captured(browser, captureBeyondViewport=whole, **_clip(browser, whole=whole))


def _clip(browser: Browser, *, whole: bool) -> dict[str, Any]:
    if not whole:
        return {}
    box = browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    return {"clip": {"x": 0, "y": 0, "width": box[0], "height": box[1], "scale": 1}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--at", default="")
    arguments = parser.parse_args()
    size = PHONE if arguments.phone else DESKTOP
    picture = screenshot(arguments.page, size, dark=arguments.dark, whole=arguments.whole, at=arguments.at)
    with Image.open(io.BytesIO(picture)) as image:  # a page has few colours: a third of the bytes
        image.convert("RGB").quantize(256).save(arguments.output, optimize=True)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
