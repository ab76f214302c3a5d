"""The fastest variant within 0.1 points of fp32's accuracy, at batch 1 on one thread, against fp32 and an empty graph.

The bundle is `mnist-edge train` (recipe `fast`, seed 0) and `mnist-edge export --variant` of every kind that can be fast.
Students are trained with recipe `student-best`, or taken from the folder named with `--runs` (`mnist-student-NAME`).
Which variants are within 0.1 points is decided by their accuracy on the held-out images. Each is timed by
peers/plain_loop.py in fresh processes that take turns, on the same golden images; so is a graph of three nodes that
computes nothing (Slice, Cast, Reshape), and OpenVINO (peers/openvino_loop.py, fixed batch) where the interpreter named with
`--peers` has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import MNIST_EDGE, PEERS, pairs, report, row, run_child, take_turns, target, train_or_continue

KINDS = ("int8", "pruned", "student-fast", "student-3k", "student-6k")
MAX_DROP = 0.001


def empty_graph() -> bytes:
    """Return a graph with the input and output of a classifier that does nothing: 10 pixels become the logits."""
    constants = {
        "starts": np.array([0, 0]),
        "ends": np.array([1, 10]),
        "axes": np.array([1, 2]),
        "shape": np.array([-1, 10]),
    }
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["pixels"]),
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["values", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "empty",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


def make_bundle(folder: Path) -> dict[str, dict[str, float]]:
    """Train and export into `folder / "bundle"`; return path, bytes and accuracies by variant."""
    train_or_continue(folder, "runs/mnist", ["--run", "runs/mnist"])
    for student in (kind.removeprefix("student-") for kind in KINDS if kind.startswith("student-")):
        run = f"runs/mnist-student-{student}"
        train_or_continue(folder, run, ["--student", student, "--recipe", "student-best", "--run", run])
    variants = [word for kind in KINDS for word in ("--variant", kind)]
    export = [MNIST_EDGE, "export", "--run", "runs/mnist", "--output", "bundle", *variants, "--json"]
    return {entry["name"]: entry for entry in json.loads(run_child(export, folder).output)["variants"]}


def has_openvino(python: str) -> bool:
    """Whether an interpreter can import OpenVINO."""
    return subprocess.run([python, "-c", "import openvino"], check=False, capture_output=True).returncode == 0


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable, help="Python of an environment with openvino and numpy")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; those that it holds are continued")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.runs is not None:
            (folder / "runs").symlink_to(options.runs.resolve())
        variants = make_bundle(folder)
        empty, golden = folder / "empty.onnx", str(folder / "bundle" / "golden.npz")
        empty.write_bytes(empty_graph())
        files = {name: folder / "bundle" / str(entry["file"]) for name, entry in variants.items()} | {"empty": empty}
        commands = {name: [sys.executable, str(PEERS / "plain_loop.py"), str(file)] for name, file in files.items()}
        if has_openvino(options.peers):
            loop = str(PEERS / "openvino_loop.py")
            commands["fp32 in OpenVINO"] = [options.peers, loop, str(files["fp32"])]
        contenders: dict[str, Callable[[], float]] = {
            name: lambda command=command: float(run_child([*command, golden]).output)  # type: ignore[misc]
            for name, command in commands.items()
        }
        micros = take_turns(contenders, options.rounds)
    fp32 = variants["fp32"]["selection_accuracy"]
    within = [name for name, entry in variants.items() if fp32 - entry["selection_accuracy"] <= MAX_DROP]
    fastest = min(within, key=lambda name: statistics.median(micros[name]))
    report(
        "fastest",
        measured=f"{__doc__} OpenVINO: {'timed' if 'fp32 in OpenVINO' in micros else 'not installed'}. Fastest: {fastest}.",
        rows=[row(f"{name}, p50", "µs", values) for name, values in micros.items()]
        + [row(f"{name}, test accuracy", "of 1", [entry["accuracy"]]) for name, entry in variants.items()]
        + [row(f"{name}, file", "bytes", [entry["bytes"]]) for name, entry in variants.items()],
        targets=[
            target(f"{fastest} / fp32, must", pairs(micros[fastest], micros["fp32"]), at_most=0.25),
            target(f"{fastest} / empty graph, goal", pairs(micros[fastest], micros["empty"]), at_most=1.35),
            target(
                f"{fastest}, accuracy lost on the test set",
                [variants["fp32"]["accuracy"] - variants[fastest]["accuracy"]],
                at_most=MAX_DROP,
            ),
            *(
                [target(f"{fastest} / fp32 in OpenVINO", pairs(micros[fastest], micros["fp32 in OpenVINO"]))]
                if "fp32 in OpenVINO" in micros
                else []
            ),
        ],
    )


if __name__ == "__main__":
    main()
