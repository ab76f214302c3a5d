"""How many MNIST test digits keep their prediction when they stand anywhere on the drawing area, in any size.

Each test image is drawn on the canvas of the page in headless Chromium, at a random place and with a side of 30 to 100 %
of the canvas, smoothed as browsers scale images; the page prepares it and predicts. A plain resize of the canvas to 28x28
is the comparison.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import MNIST_EDGE, mnist_folder, report, row, run_child, target
from mnist_edge.data.sources import load_test_set
from mnist_edge.targets.web.chromium import DEVICE
from mnist_edge.targets.web.predictor import open_page

SEED = 11
PART = 100
VARIANT = "int8-exact"
SMALLEST = 0.3
"""Side of a scaled image, as a fraction of the canvas."""
DRAW = """
(async (images, boxes) => {
  const page = await ready;
  const digit = document.createElement("canvas"), plain = document.createElement("canvas");
  digit.width = digit.height = plain.width = plain.height = 28;
  const small = digit.getContext("2d"), plainly = plain.getContext("2d", { willReadFrequently: true });
  const prediction = image => indexOfLargest(page.logits(image));
  return boxes.map(([x, y, side], i) => {
    const image = images.subarray(784 * i, 784 * i + 784);
    const pixels = small.createImageData(28, 28);
    image.forEach((value, j) => { pixels.data[4 * j + 3] = value; });
    small.putImageData(pixels, 0, 0);
    context.clearRect(0, 0, 560, 560);
    context.drawImage(digit, x, y, side, side);
    plainly.clearRect(0, 0, 28, 28);
    plainly.drawImage(paper, 0, 0, 28, 28);
    return [image, prepare(inkOf(paper), 560), inkOf(plain)].map(prediction);
  });
})
"""


def predictions(page: Path) -> tuple[list[tuple[int, int, int]], float]:
    """Predict each test image as it is, drawn and prepared, and drawn and resized.

    Returns:
        The three predictions of each, and the seconds that all take as they are, with the transport into the browser.
    """
    images = load_test_set("mnist", mnist_folder(), may_download=False).test_images
    random = np.random.default_rng(SEED)
    found = []
    with open_page(page, DEVICE, 120.0) as predictor:
        started = time.perf_counter()
        predictor.logits(images)
        seconds = time.perf_counter() - started
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            sides = random.integers(int(SMALLEST * 560), 561, len(part))
            boxes = [[*random.integers(0, 561 - side, 2).tolist(), int(side)] for side in sides]
            sent = base64.b64encode(part.tobytes()).decode()
            call = f"({DRAW})(bytesOf({json.dumps(sent)}), {json.dumps(boxes)})"
            found += predictor.browser.evaluate(call, timeout=120.0)
    return found, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="page to measure; default: int8-exact of a new run of recipe fast")
    chosen = parser.parse_args().page
    with tempfile.TemporaryDirectory() as folder:
        page = chosen or Path(folder) / "page.html"
        if chosen is None:
            for command in (
                ["train", "--dataset", "mnist", "--run", "run"],
                ["export", "--run", "run", "--output", "bundle", "--variant", VARIANT],
                ["export", "--target", "web", "--bundle", "bundle", "--variant", VARIANT, "--output", str(page)],
            ):
                run_child([MNIST_EDGE, *command], Path(folder))
        found, seconds = predictions(page)
        size = page.stat().st_size
    kept = sum(own == prepared for own, prepared, _ in found) / len(found)
    plain = sum(own == resized for own, _, resized in found) / len(found)
    what = "share of moved and scaled test digits that keep their prediction"
    report(
        "web_preparation",
        measured=__doc__ or "",
        rows=[
            row(f"images, seed {SEED}", "images", [len(found)]),
            row("the same, resized to 28x28", "share", [plain]),
            row("these images as they are, in the page", "s", [seconds]),
            row("the page", "bytes", [size]),
        ],
        targets=[target(what, [kept], at_least=0.99)],
    )


if __name__ == "__main__":
    main()
