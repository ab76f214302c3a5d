"""Draw a 2 on the page of `demo` and take the picture of docs/demo.md: `python -m benchmarks.demo_screenshot BUNDLE`."""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import HERE
from benchmarks.web_drawing import TWO, captured, draw_with_mouse, set_window
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.demo.run import OpenDemo, open_demo
from mnist_edge.targets.web.chromium import Browser, open_browser

PICTURE = HERE.parent / "docs" / "demo.png"


@contextlib.contextmanager
def serving(bundle: Path, timeout: float = 10.0) -> Iterator[OpenDemo]:
    """Serve the page of a bundle from a thread, on a free port."""
    notes: list[str] = []
    demo = open_demo(load_bundle(bundle), 0, timeout=timeout, notify=notes.append, on_variant=lambda _done, _all: None)
    thread = threading.Thread(target=demo.server.serve_forever, kwargs={"poll_interval": 0.01})
    with demo.server:
        thread.start()
        try:
            yield demo
        finally:
            demo.server.shutdown()
            thread.join()
    assert not notes, notes


def wait_for_answer(browser: Browser) -> None:
    """Wait until the page shows the answer to what was drawn or chosen last."""
    browser.evaluate(
        "new Promise(done => { const wait = () => shown === turn ? done() : setTimeout(wait, 10); wait(); })"
    )


def screenshot(bundle: Path, *, width: int = 960, height: int = 820, phone: bool = False, dark: bool = False) -> bytes:
    """Return a PNG of the page with a digit on it."""
    with serving(bundle) as demo, open_browser() as browser:
        set_window(browser, width, height, phone=phone, dark=dark)
        browser.open(demo.report.url)
        draw_with_mouse(browser, TWO)
        wait_for_answer(browser)
        return captured(browser)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    arguments.output.write_bytes(screenshot(arguments.bundle))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
