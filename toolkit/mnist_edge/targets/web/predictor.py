"""A page in a headless Chromium as a `Predictor`: images go in and logits come out as base64."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES, PIXELS
from mnist_edge.errors import UnavailableError
from mnist_edge.pixels import Images, Logits, logits_sha256
from mnist_edge.records.target import SelfTest
from mnist_edge.targets.web.chromium import Browser, PageFailedError, open_browser

MESSAGE_IMAGES = 500
"""Images a message: half a megabyte of base64."""
HINT = "build the page again"
BASE64_OF = (
    "(logits => btoa(String.fromCharCode(...new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength))))"
)
"""JavaScript: the base64 of a Float32Array. Arguments are spread: 500 images have 20,000 bytes, and 65,535 are allowed."""


@dataclass(frozen=True, kw_only=True)
class PagePredictor:
    """The compiled model of an open page; it takes one image at a time.

    Attributes:
        timeout: seconds that one message of 500 images may take.
    """

    name: str
    browser: Browser
    timeout: float
    fixed_batch: int | None = 1
    placement: Mapping[str, int] = field(default_factory=dict)

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the page's own module; see `Predictor.logits`.

        Raises:
            PageFailedError: the page crashed, took too long, or returned another number of logits.
        """
        del batch
        rows = []
        for start in range(0, len(images), MESSAGE_IMAGES):
            part = np.ascontiguousarray(images[start : start + MESSAGE_IMAGES])
            sent = json.dumps(base64.b64encode(part.tobytes()).decode())
            expression = f"ready.then(page => {BASE64_OF}(page.logits(bytesOf({sent}))))"
            rows.append(read_logits(self.browser.evaluate(expression, self.timeout), len(part), self.name))
        return np.concatenate(rows)

    def self_test(self) -> SelfTest:
        """Return what the page's self-test, which has passed, ran; see `TargetProgram.self_test`."""
        returned = self.browser.evaluate(
            f"(images => ready.then(page => [images.length / {PIXELS}, {BASE64_OF}(page.logits(images))]))"
            "(bytesOf(MODEL.images))",
            self.timeout,
        )
        match returned:
            case [int(count), str(logits)]:
                pass
            case _:
                raise PageFailedError(f"{self.name} returned no logits of its self-test", hint=HINT)
        return SelfTest(images=count, sha256=logits_sha256(read_logits(logits, count, self.name)))


def read_logits(returned: object, count: int, name: str) -> Logits:
    """Return the base64 of little-endian float32 as (count, 10).

    Raises:
        PageFailedError: it is of another size, or no base64.
    """
    try:
        content = base64.b64decode(returned, validate=True) if isinstance(returned, str) else b""
    except ValueError:
        raise PageFailedError(f"{name} returned no base64 of logits", hint=HINT) from None
    if len(content) != count * CLASSES * 4:
        raise PageFailedError(
            f"{name} returned {len(content) // 4} logits for {count} images, expected {count * CLASSES}",
            hint=HINT,
        )
    return np.frombuffer(content, "<f4").reshape(count, CLASSES).astype(np.float32)


@contextlib.contextmanager
def open_page(page: Path, device: str, timeout: float) -> Iterator[PagePredictor]:
    """Open an HTML file from `file://` in a headless Chromium and wait for its self-test.

    Args:
        page: as `write_page` makes it.
        device: Chromium, the only one.
        timeout: seconds that loading, the self-test, and 500 images may take each.

    Raises:
        UnavailableError: there is no such file, or Chromium is not installed or does not start.
        PageFailedError: it does not load, or its self-test fails.
    """
    del device
    if not page.is_file():
        raise UnavailableError(f"{page} is no file", hint="mnist-edge export --target web makes a page")
    with open_browser() as browser:
        browser.open(page.resolve().as_uri(), timeout)
        if browser.evaluate("typeof globalThis.ready", timeout) == "undefined":
            raise PageFailedError(
                f"{page} runs no model: a script was changed, and its policy refuses it; or it is another page",
                hint=HINT,
            )
        result = browser.evaluate("ready.then(({passed, text}) => ({passed, text}))", timeout)
        match result:
            case {"passed": True}:
                pass
            case {"passed": False, "text": str(text)}:
                raise PageFailedError(f"{page}: {text}", hint=HINT)
            case _:
                raise PageFailedError(f"{page} reports no result of its self-test", hint=HINT)
        yield PagePredictor(name=str(page), browser=browser, timeout=timeout)
