"""Does `compare` find a real slowdown, and none where there is none?

The timing process of `bench` runs with every run made longer by 0, 3, 5 and 10 %, interleaved in rounds in
random order: batch 1, one thread, 0.2 s a process. Each window of so many rounds is one comparison by the
function behind `mnist-edge compare`; no process is in two comparisons of one row.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import make_bundle, report, row, target
from mnist_edge.benchmarking.compare import effect
from mnist_edge.benchmarking.process import Task, run_process
from mnist_edge.records.benchmark import Scenario
from mnist_edge.records.settings import DEFAULT_SETTINGS

ROUNDS = 100
SECONDS = 0.2
SLOWDOWNS = {"baseline": 0.0, "0 %": 0.0, "3 %": 0.03, "5 %": 0.05, "10 %": 0.10}
WINDOWS = (5, 10, 20)


def measure(bundle: Path) -> dict[str, list[float]]:
    """Return the p50 in microseconds of every round, by slowdown."""
    order = random.Random(5)
    medians: dict[str, list[float]] = {name: [] for name in SLOWDOWNS}
    for turn in range(ROUNDS):
        for name in order.sample(list(SLOWDOWNS), len(SLOWDOWNS)):
            os.environ["SLOWDOWN"] = str(SLOWDOWNS[name])
            task = Task(
                model=str(bundle / "model.onnx"),
                batch=1,
                golden=str(bundle / "golden.npz"),
                scenario=Scenario(seconds=SECONDS),
                settings=DEFAULT_SETTINGS,
            )
            result = run_process("benchmarks.peers.slowed_worker", task)
            medians[name].append(statistics.median(result.run_ns) / 1000)
        print(f"  round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    return medians


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as scratch:
        medians = measure(make_bundle(Path(scratch)))
    rows = [row(f"p50 of a process slowed by {name}", "µs", values) for name, values in medians.items()]
    targets = []
    for size in WINDOWS:
        for name in list(SLOWDOWNS)[1:]:
            windows = [slice(start, start + size) for start in range(0, ROUNDS - size + 1, size)]
            effects = [effect(medians["baseline"][part], medians[name][part]) for part in windows]
            rows.append(
                row(f"estimated ratio at {name}, {size} processes a side", "", [found.ratio for found in effects])
            )
            share = sum(found.verdict == "slower" for found in effects) / len(effects)
            what = f"share of {len(effects)} comparisons called slower at {name}, {size} processes a side"
            targets.append(target(what, [share], at_most=0.05) if name == "0 %" else target(what, [share]))
    report("injected_slowdown", measured=str(__doc__), rows=rows, targets=targets)


if __name__ == "__main__":
    main()
