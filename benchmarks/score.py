"""Throughput per worker of `mnist-edge score`, beside `mnist-edge bench --scenario offline` of the same model.

A set of 1,000,000 images, MNIST's training images moved by up to two pixels, is scored with one worker and with one for each
CPU. Seconds are from the first block to the last one, the start of the workers included and that of Ray not; both
commands run one thread a session and take turns. `bench` runs batches that are in memory; `score` reads its images from
their file, and writes their rows.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import MNIST_EDGE, Rounds, make_bundle, pairs, report, row, run_child, take_turns, target
from benchmarks.data_scale import write_images
from mnist_edge.cpus import available_cpus
from mnist_edge.data.layout import TEST_FILES

IMAGES = 1_000_000
BATCHES = (64, 1000)
"""Of `bench`, whose best counts; `score` runs 1,000 at a time."""


def scored(folder: Path, workers: int) -> float:
    """Return the images a second of one worker, of this many."""
    command = [MNIST_EDGE, "score", "set", "--model", "bundle", "--variant", "fp32", "--output", "scores.parquet"]
    child = run_child([*command, "--workers", str(workers), "--json"], folder)
    return float(json.loads(child.output)["images_per_second"]) / workers


def offline(folder: Path) -> float:
    """Return the images a second of `bench --scenario offline`, one thread, at its best batch size."""
    command = [MNIST_EDGE, "bench", "bundle", "--variant", "fp32", "--scenario", "offline", "--threads", "1"]
    batches = ",".join(map(str, BATCHES))
    results = json.loads(run_child([*command, "--batch", batches, "--json"], folder).output)["results"]
    return max(float(line["throughput_per_s"]) for line in results if line["engine"] == "onnxruntime")


def main(rounds: int = 3, images: int = IMAGES) -> None:
    """Measure and report."""
    cpus = available_cpus()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_bundle(folder)
        (folder / "set").mkdir()
        write_images(folder / "set", images, TEST_FILES)
        found: Rounds = take_turns(
            {
                "bench": partial(offline, folder),
                "one": partial(scored, folder, 1),
                "every": partial(scored, folder, cpus),
            },
            rounds,
        )
    report(
        "score",
        measured=str(__doc__),
        rows=[
            row("bench --scenario offline", "images/s", found["bench"]),
            row("score, 1 worker", "images/s", found["one"]),
            row(f"score, {cpus} workers, each", "images/s", found["every"]),
        ],
        targets=[
            target("score with 1 worker / bench", pairs(found["one"], found["bench"]), at_least=0.8),
            target(f"score with {cpus} workers, each / bench", pairs(found["every"], found["bench"]), at_least=0.8),
        ],
    )


if __name__ == "__main__":
    main()
