"""What the benchmarks share: child processes, taking turns, medians and ratios, and the results file.

Imports nothing heavy, so that a benchmark that measures child processes stays a small parent.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.environment import environment
from mnist_edge.data.sources import find_raw, load_dataset

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
RESULTS = HERE / "results"
MNIST_EDGE = str(Path(sys.executable).with_name("mnist-edge"))
SCHEMA = "mnist-edge/benchmark/1"

Rounds = dict[str, list[float]]


def mnist_folder() -> Path:
    """Return the folder with `MNIST/raw`: $MNIST_EDGE_DATA or the cache folder, downloaded if it must be."""
    raw = find_raw("mnist") or Path(load_dataset("mnist", notify=print).source)
    return raw.resolve().parents[1]


@dataclass(frozen=True)
class Child:
    """A child process that ended well; its peak memory is that of the process itself, not of its own children."""

    seconds: float
    output: str
    peak_rss_bytes: int


def run_child(command: Sequence[str], folder: Path | None = None) -> Child:
    """Run a command to its end, in `folder`, with MNIST available; raise with its last words if it fails."""
    environment = {**os.environ, "MNIST_EDGE_DATA": str(mnist_folder())}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        complaints.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {complaints.read()[-2000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        return Child(seconds=seconds, output=output.read(), peak_rss_bytes=usage.ru_maxrss * unit)


def wall_seconds(command: Sequence[str], folder: Path | None = None) -> float:
    """Seconds that a command takes as a whole process."""
    return run_child(command, folder).seconds


def make_run(folder: Path) -> Path:
    """Train the default recipe for one epoch on MNIST in a child process; return the run folder."""
    run_child([MNIST_EDGE, "train", "--dataset", "mnist", "--epochs", "1", "--run", "run"], folder)
    return folder / "run"


def train_or_continue(folder: Path, run: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the report of `mnist-edge train` in `folder / run`; continue the run that is there, which may be finished."""
    if (folder / run / "last.safetensors").exists():
        options = ["--resume", run]
    command = [MNIST_EDGE, "train", "--dataset", "mnist", *options, "--json"]
    found: dict[str, Any] = json.loads(run_child(command, folder).output)
    return found


def trained_on(folder: Path) -> str:
    """Return the devices that the runs in a folder were trained on, as their checkpoints record them."""
    from mnist_edge.training.checkpoint import load_checkpoint  # imports torch

    files = sorted(folder.glob("*/last.safetensors"))
    return ", ".join(sorted({load_checkpoint(file).environment["device"] for file in files}))


def make_bundle(folder: Path) -> Path:
    """Train for one epoch and export, in child processes; return the bundle folder."""
    make_run(folder)
    run_child([MNIST_EDGE, "export", "--run", "run", "--output", "bundle"], folder)
    return folder / "bundle"


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Call each contender once a round, A B A B; return the figure of every round by name."""
    figures: Rounds = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
            print(f"  round {turn + 1} of {rounds}, {name}: {figures[name][-1]:.4g}", file=sys.stderr, flush=True)
    return figures


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and every round's value."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": [float(value) for value in values],
    }


def row(what: str, unit: str, values: Sequence[float]) -> dict[str, Any]:
    """One measured thing."""
    return {"what": what, "unit": unit, **spread(values)}


def target(
    what: str, values: Sequence[float], *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """One figure that is held to a target by its median; without a target, it is only told."""
    found = {"what": what, **spread(values), "at_least": at_least, "at_most": at_most, "met": None}
    if at_least is not None or at_most is not None:
        found["met"] = (at_least is None or found["median"] >= at_least) and (
            at_most is None or found["median"] <= at_most
        )
    return found


def pairs(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """The ratio of each round, pair by pair."""
    return [one / other for one, other in zip(over, under, strict=True)]


def report(name: str, *, measured: str, rows: list[dict[str, Any]], targets: list[dict[str, Any]]) -> Path:
    """Print a short table and write `results/<date>-<name>.json`; `measured` says what the figures are."""
    content = {
        "schema": SCHEMA,
        "name": name,
        "command": f"python -m benchmarks.{name}",
        "measured": " ".join(measured.split()),
        "environment": environment(),
        "rows": rows,
        "targets": targets,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    for place in (HERE.parent, mnist_folder(), tempfile.gettempdir()):
        if str(place) in text:
            raise AssertionError(f"a result names a place on this machine: {place}")
    print(name)
    for line in rows:
        print(f"  {line['what']:<58} {_figures(line)} {line['unit']}")
    for line in targets:
        print(f"  {line['what']:<58} {_figures(line)} {_verdict(line)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}-{name}.json"
    path.write_text(text)
    return path


def _figures(line: Mapping[str, Any]) -> str:
    return f"{line['median']:>9.4g} ({line['min']:.4g} to {line['max']:.4g})"


def _verdict(line: Mapping[str, Any]) -> str:
    if line["met"] is None:
        return ""
    bounds = [f">= {line['at_least']:g}"] if line["at_least"] is not None else []
    bounds += [f"<= {line['at_most']:g}"] if line["at_most"] is not None else []
    return f"target {' and '.join(bounds)}: {'met' if line['met'] else 'MISSED'}"
