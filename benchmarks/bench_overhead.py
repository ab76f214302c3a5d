"""Median service time as bench reports it, compared with a plain timed loop over `session.run`: batch 1, 1 thread.

Both are fresh processes that take turns on the same file and the same 64 golden images, for 0.4 s
each: ours is the process that `mnist-edge bench` starts, the other is peers/plain_loop.py. One call
of the whole bench then gives the ratio of the p50 of onnxruntime to that of PyTorch eager.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import PEERS, make_bundle, pairs, report, row, run_child, take_turns, target
from mnist_edge.benchmarking.plan import SINGLE_STREAM, Plan
from mnist_edge.benchmarking.process import Task, run_process
from mnist_edge.benchmarking.rounds import ENGINES, bench
from mnist_edge.records.settings import DEFAULT_SETTINGS


def main(rounds: int = 11) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(Path(scratch))
        model, golden = str(bundle / "model.onnx"), str(bundle / "golden.npz")
        task = Task(model=model, batch=1, golden=golden, scenario=SINGLE_STREAM, settings=DEFAULT_SETTINGS)
        plain = [sys.executable, str(PEERS / "plain_loop.py"), model, golden]
        contenders = {
            "ours": lambda: statistics.median(run_process(ENGINES["onnxruntime"], task).run_ns) / 1000,
            "plain": lambda: float(run_child(plain).output),
        }
        micros = take_turns(contenders, rounds)
        results = bench(Plan(model=bundle, batches=(1,), rounds=rounds)).results
    p50 = {line.engine: line.p50_us for line in results}
    report(
        "bench_overhead",
        measured=str(__doc__),
        rows=[
            row("our bench's process, p50", "µs", micros["ours"]),
            row("plain loop, p50", "µs", micros["plain"]),
            row("whole bench, onnxruntime, p50", "µs", [p50["onnxruntime"]]),
            row("whole bench, PyTorch eager, p50", "µs", [p50["torch"]]),
        ],
        targets=[
            target("ours / plain", pairs(micros["ours"], micros["plain"]), at_least=0.95, at_most=1.05),
            target("onnxruntime / PyTorch eager", [p50["onnxruntime"] / p50["torch"]]),
        ],
    )


if __name__ == "__main__":
    main()
