"""Draw a 2 on a page and take the picture of README: `python -m benchmarks.web_screenshot PAGE.html`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import HERE
from benchmarks.web_drawing import TWO, captured, draw_with_mouse, set_window, wait_for_frame
from mnist_edge.targets.web.chromium import DEVICE
from mnist_edge.targets.web.predictor import open_page

PICTURE = HERE.parent / "docs" / "web-page.png"


def screenshot(page: Path, *, width: int = 960, height: int = 700, phone: bool = False, dark: bool = False) -> bytes:
    """Return a PNG of the page with a digit on it."""
    with open_page(page, DEVICE, 60.0) as predictor:
        browser = predictor.browser
        set_window(browser, width, height, phone=phone, dark=dark)
        draw_with_mouse(browser, TWO)
        wait_for_frame(browser)
        return captured(browser)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    arguments.output.write_bytes(screenshot(arguments.page))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
