"""The exported model on onnxruntime's CUDA provider: logit errors, and p50 against PyTorch eager, the CPU and a plain loop.

The bundle is that of one epoch on MNIST, or the one that is given as the argument. `mnist-edge verify --provider cuda` gives the logit errors over the test set, without
and with TF32. `mnist-edge bench --provider cuda` gives the rest; a run is from host memory to host memory. The plain
loop (peers/cuda_loop.py) binds the same buffers in the same way, in processes that take turns with the bench's own.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import MNIST_EDGE, PEERS, Rounds, make_bundle, pairs, report, row, run_child, take_turns, target
from mnist_edge.benchmarking.plan import SINGLE_STREAM
from mnist_edge.benchmarking.process import Task, run_process
from mnist_edge.benchmarking.rounds import ENGINES
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.cuda import require_working_cuda

BATCHES = (1, 64, 1024)


def verified(bundle: Path, *options: str) -> dict[str, Any]:
    """What `verify --provider cuda` reports of the bundle's one variant."""
    command = [MNIST_EDGE, "verify", str(bundle), "--variant", "fp32", "--provider", "cuda", *options, "--json"]
    return dict(json.loads(run_child(command).output)["variants"][0])


def against_plain_loop(bundle: Path, rounds: int) -> Rounds:
    """p50 of the bench's process and of the plain loop at batch 1, in microseconds."""
    model, golden = str(bundle / "model.onnx"), str(bundle / "golden.npz")
    settings = SessionSettings(provider="cuda")
    task = Task(model=model, batch=1, golden=golden, scenario=SINGLE_STREAM, settings=settings)
    plain = [sys.executable, str(PEERS / "cuda_loop.py"), model, golden, "1"]
    return take_turns(
        {
            "ours": lambda: statistics.median(run_process(ENGINES["onnxruntime"], task).run_ns) / 1000,
            "plain": lambda: float(run_child(plain).output),
        },
        rounds,
    )


def kind(line: dict[str, Any]) -> str:
    """Name a row of the bench: engine, provider and CUDA graph."""
    settings = line["settings"]
    return f"{line['engine']}, {settings['provider']}{', CUDA graph' if settings['cuda_graph'] else ''}"


def main(rounds: int = 5, bundle: Path | None = None) -> None:
    """Measure and report."""
    require_working_cuda()
    with tempfile.TemporaryDirectory() as scratch:
        model = bundle or make_bundle(Path(scratch))
        exact, tf32 = verified(model), verified(model, "--tf32")
        micros = against_plain_loop(model, rounds)
        options = ["--variant", "fp32", "--provider", "cuda", "--batch", ",".join(map(str, BATCHES))]
        command = [MNIST_EDGE, "bench", str(model), *options, "--rounds", str(rounds), "--json"]
        timed = json.loads(run_child(command).output)
    lines = {(kind(line), line["batch"]): line for line in timed["results"]}
    p50 = {key: [one["p50_us"] for one in line["processes"]] for key, line in lines.items()}
    calls = {key: line["gpu_calls"] for key, line in lines.items() if line["gpu_calls"]}
    paid = timed["gpu_from_batch"]
    report(
        "cuda_inference",
        measured=f"{__doc__} The GPU is faster than one CPU thread "
        f"{'at none of these batches' if paid is None else f'from batch {paid}'}. {' '.join(timed['notes'])}",
        rows=[
            *(row(f"batch {batch}: {name}, p50", "µs", values) for (name, batch), values in p50.items()),
            *(
                row(f"batch {batch}: {name}, {call[:-3]}", "µs", [parts[call]])
                for (name, batch), parts in calls.items()
                for call in ("copy_in_us", "compute_us", "copy_out_us", "whole_us")
            ),
            row("bench's process, batch 1, p50", "µs", micros["ours"]),
            row("plain loop, batch 1, p50", "µs", micros["plain"]),
        ],
        targets=[
            target("fp32: largest logit error over the largest logit", [exact["max_relative_error"]], at_most=1e-4),
            target("fp32: flips", [exact["flips"]], at_most=0),
            target("TF32: largest logit error over the largest logit", [tf32["max_relative_error"]]),
            target("TF32: flips", [tf32["flips"]]),
            target("ours / plain", pairs(micros["ours"], micros["plain"]), at_least=0.95, at_most=1.05),
            *(
                target(
                    f"batch {batch}: {name}, sum of the calls / whole",
                    [parts["sum_over_whole"]],
                    at_least=0.95,
                    at_most=1.05,
                )
                for (name, batch), parts in calls.items()
            ),
            *(
                target(
                    f"batch {batch}: {name} / PyTorch eager on CUDA",
                    [line["p50_us"] / lines["torch, cuda", batch]["p50_us"]],
                )
                for (name, batch), line in lines.items()
                if name != "torch, cuda"
            ),
        ],
    )


if __name__ == "__main__":
    main(bundle=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
