"""The int8 variant against fp32: p50 at batch 1 and 64 on one thread, and the accuracy that it loses.

Networks are `mnist-edge train` (recipe `fast`) with three seeds, variants `mnist-edge export --variant`. Beside them stands
a peer, onnxruntime's own static quantiser with its defaults and the same calibration images. The variants of the first
seed are timed by the toolkit's bench: fresh processes, in random order each round. A ratio is of two processes of one
round. Accuracy is on the test set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.common import MNIST_EDGE, mnist_folder, pairs, report, row, run_child, target, train_or_continue
from benchmarks.planted_faults import Golden, quantised
from mnist_edge.benchmarking.plan import Plan
from mnist_edge.benchmarking.rounds import bench
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.data.sources import load_dataset
from mnist_edge.exporting.pipeline import add_variant
from mnist_edge.exporting.variants.calibration import calibration_set
from mnist_edge.records.bundle import Variant, VariantSpec
from mnist_edge.training.recipes import find_recipe

SEEDS = (0, 1, 2)
KINDS = ("fp16", "int8", "int8-dynamic")
PEER = "ort-static"
BATCHES = (1, 64)
MAX_LOSS = 0.001


def make_bundle(folder: Path, seed: int) -> dict[str, Variant]:
    """Train and export with every kind and the peer; return what the manifest states of each."""
    run, output = f"seed-{seed}", folder / f"bundle-{seed}"
    train_or_continue(folder, run, ["--seed", str(seed), "--run", run])
    options = [word for kind in KINDS for word in ("--variant", kind)]
    run_child([MNIST_EDGE, "export", "--run", run, "--output", str(output), *options], folder)
    add_peer(output)
    return {variant.name: variant for variant in load_bundle(output).manifest.variants}


def add_peer(bundle: Path) -> None:
    """Add the fp32 variant as onnxruntime quantises it, calibrated on the images that the int8 variant takes."""
    data = load_dataset("mnist", mnist_folder())
    images = np.concatenate(list(calibration_set(data, find_recipe("fast")).batches()))
    fp32 = onnx.load(bundle / "model.onnx")
    model = quantised(fp32, Golden(images, np.zeros((len(images), 10), np.float32)), keep_relu=False)
    spec = VariantSpec(name=PEER, precision="int8", requirement="lossy", max_accuracy_drop=0.01)
    add_variant(bundle, spec, model.SerializeToString(), data)


def timings(bundle: Path, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Return p50 in microseconds of every process, by batch and variant; PyTorch is left out."""
    found: dict[int, dict[str, list[float]]] = {batch: {} for batch in BATCHES}
    for line in bench(Plan(model=bundle, batches=BATCHES, rounds=rounds)).results:
        if line.engine == "onnxruntime":
            found[line.batch][line.variant] = [process.p50_us for process in line.processes]
    return found


def losses(bundles: list[dict[str, Variant]], name: str) -> list[float]:
    """Return the accuracy that a variant loses against fp32, a fraction of 1, for each seed."""
    return [(bundle["fp32"].accuracy or 0.0) - (bundle[name].accuracy or 0.0) for bundle in bundles]


def targets(micros: dict[int, dict[str, list[float]]], bundles: list[dict[str, Variant]]) -> list[dict[str, Any]]:
    """Return each figure that has a goal, and the peer's beside it."""
    found = []
    for batch, must, goal in ((1, 0.5, 0.35), (64, 0.3, 0.27)):
        timed = micros[batch]
        ratio = pairs(timed["int8"], timed["fp32"])
        found += [
            target(f"int8 / fp32, batch {batch}, must", ratio, at_most=must),
            target(f"int8 / fp32, batch {batch}, goal", ratio, at_most=goal),
            *(
                target(f"{name} / fp32, batch {batch}", pairs(timed[name], timed["fp32"]))
                for name in ("fp16", "int8-dynamic", PEER)
            ),
        ]
    mean = statistics.mean(losses(bundles, "int8"))
    return [*found, target("int8, mean accuracy lost over the seeds", [mean], at_most=MAX_LOSS)]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="folder that keeps runs and bundles; finished runs are used again")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.runs or Path(scratch)).resolve()
        bundles = [make_bundle(folder, seed) for seed in SEEDS]
        micros = timings(folder / f"bundle-{SEEDS[0]}", options.rounds)
    names = ("fp32", *KINDS, PEER)
    made = json.dumps({"int8": [bundle["int8"].made for bundle in bundles]})
    report(
        "variants",
        measured=f"{__doc__} Seeds {', '.join(map(str, SEEDS))}. How int8 was made: {made}",
        rows=[row(f"{name}, batch {batch}, p50", "µs", micros[batch][name]) for batch in BATCHES for name in names]
        + [
            row(f"{name}, test accuracy", "of 1", [bundle[name].accuracy or 0.0 for bundle in bundles])
            for name in names
        ]
        + [row(f"{name}, flips", "of 10,000", [bundle[name].flips or 0 for bundle in bundles]) for name in names]
        + [row(f"{name}, accuracy lost", "of 1", losses(bundles, name)) for name in names[1:]]
        + [row(f"{name}, file", "bytes", [bundles[0][name].bytes]) for name in names],
        targets=targets(micros, bundles),
    )


if __name__ == "__main__":
    main()
