"""What generated C takes: instructions, flash and RAM on microcontrollers in QEMU, and latency on this computer.

Takes a bundle with the variants fp32, int8-exact, int4-exact and student-*-exact; those that it lacks are left out. QEMU
counts instructions, not cycles: a figure says how much work an image is, not how long it takes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import report, row, target
from mnist_edge.benchmarking.plan import Plan
from mnist_edge.benchmarking.rounds import bench
from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.errors import UnavailableError
from mnist_edge.records.benchmark import BenchRow
from mnist_edge.targets.c99.measure import Measured, measure
from mnist_edge.targets.c99.target import C99

DEVICES = ("cortex-m3", "cortex-m4", "cortex-m55", "rv32imac")
FLOAT_DEVICES = ("cortex-m3", "cortex-m4", "rv32imac")
"""3.2 MB of float32 do not fit into the memory of QEMU's Cortex-M55."""
INSTRUCTIONS = {("int8-exact", "cortex-m4"): 2.5e6, ("int8-exact", "cortex-m55"): 0.75e6}
FLASH = {"int8-exact": 824_000, "student-6k-exact": 8_192}
RAM = {"int8-exact": 2_048, "student-6k-exact": 1_024}
"""Limits by variant, and for instructions by device."""
FLASH_DEVICE = "cortex-m3"
"""Whose code the limits of flash and RAM are for: its Thumb-2 instructions are those of the other Cortex-M too."""
LATENCY = {"fp32": 0.35, "student-fast-exact": 0.1}
"""Largest p50 over that of onnxruntime with fp32, at batch 1."""


def measured(bundle: Bundle, name: str, device: str) -> Measured:
    """Generate C for a variant and measure it on a device."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "c"
        C99.build(bundle, bundle.variant(name), place)
        return measure(place, device)


def on_devices(bundle: Bundle, names: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows and targets of every variant on every device."""
    rows, targets = [], []
    for name in names:
        for device in FLOAT_DEVICES if name == "fp32" else DEVICES:
            found = measured(bundle, name, device)
            what = f"{name} on {device}"
            rows += [
                row(f"{what}, instructions", "", [found.instructions]),
                row(f"{what}, flash", "bytes", [found.flash_bytes]),
                row(f"{what}, stack", "bytes", [found.stack_bytes]),
            ]
            limit = INSTRUCTIONS.get((name, device))
            if limit is not None:
                targets.append(target(f"{what}, instructions", [found.instructions], at_most=limit))
            if name in FLASH and device == FLASH_DEVICE:
                targets.append(target(f"{what}, flash", [found.flash_bytes], at_most=FLASH[name]))
                targets.append(target(f"{what}, stack", [found.stack_bytes], at_most=RAM[name]))
    return rows, targets


def on_this_computer(folder: Path, names: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return p50 of onnxruntime and of C at batch 1, and their ratios, process by process."""
    found = bench(Plan(model=folder, variants=tuple(names), target="c")).results
    rows = [row(f"{one.engine} {one.variant}, p50", "us", p50s(one)) for one in found]
    base = next(one for one in found if (one.engine, one.variant) == ("onnxruntime", "fp32"))
    targets = [
        target(
            f"C {one.variant} over onnxruntime fp32",
            [mine / theirs for mine, theirs in zip(p50s(one), p50s(base), strict=True)],
            at_most=LATENCY.get(one.variant),
        )
        for one in found
        if one.engine == "c"
    ]
    return rows, targets


def p50s(found: BenchRow) -> list[float]:
    """Return the median of each process."""
    return [process.p50_us for process in found.processes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    folder = parser.parse_args().bundle
    bundle = load_bundle(folder)
    names = [one.name for one in bundle.manifest.variants if one.name == "fp32" or one.name.endswith("-exact")]
    try:
        rows, targets = on_devices(bundle, names)
    except UnavailableError as error:
        raise SystemExit(f"{error.message}: {error.hint}") from error
    more_rows, more_targets = on_this_computer(folder, names)
    report(
        "c_targets",
        measured="""Instructions of an image, the mean of twelve digits, in QEMU with -icount shift=0; flash of model.c, code and
        constants; stack of model_logits, which is all of its RAM. Then p50 of a run at batch 1 on this computer, of C as a
        shared library and of onnxruntime, one thread each, and their ratio in each round.""",
        rows=rows + more_rows,
        targets=targets + more_targets,
    )


if __name__ == "__main__":
    main()
