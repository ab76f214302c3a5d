"""What does `tune` cost, and how much slower than the best candidate is its choice?

MNIST with the recipe `fast`: `mnist-edge tune` as a user calls it, building included. Then its search alone, with the
variants built, beside an exhaustive search: every candidate of the same search in ten rounds, interleaved. The regret is
the p50 of the choice over that of the best candidate that meets the limits, both from the exhaustive search; as the best
of many is partly luck, that is rather too much. Last, every combination of settings of the chosen variant in five rounds:
the search times single changes, and combinations only of those that help.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import MNIST_EDGE, report, row, run_child, target
from mnist_edge.benchmarking.environment import environment
from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.cpus import available_cpus
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.tuning import Limits
from mnist_edge.stats import geometric_mean
from mnist_edge.tuning.candidates import Entry, distinct_levels, single_changes
from mnist_edge.tuning.journal import Journal
from mnist_edge.tuning.racing import ROUNDS
from mnist_edge.tuning.search import Question, Search
from mnist_edge.tuning.timing import Stopwatch

LIMITS = Limits(max_accuracy_drop=0.001)
FACTORIAL_ROUNDS = 5


def tuned(folder: Path) -> dict[str, Any]:
    """Train, export and tune in child processes; return the report of `tune`."""
    run_child([MNIST_EDGE, "train", "--dataset", "mnist", "--run", "runs/mnist"], folder)
    run_child([MNIST_EDGE, "export", "--run", "runs/mnist", "--output", "exported/mnist"], folder)
    content: dict[str, Any] = json.loads(run_child([MNIST_EDGE, "tune", "exported/mnist", "--json"], folder).output)
    return content


def stopwatch(bundle: Bundle, scratch: Path, name: str) -> Stopwatch:
    """Return one that has measured nothing yet."""
    return Stopwatch(bundle, Journal(scratch / f"{name}.jsonl"), "latency", 1, environment())


def search(bundle: Bundle, scratch: Path) -> tuple[Search, float]:
    """Search among the variants of the bundle; return it and its seconds."""
    question = Question(
        bundle=bundle,
        variants=tuple(variant.name for variant in bundle.manifest.variants),
        limits=LIMITS,
        objective="latency",
        provider="cpu",
        batch=1,
    )
    found = Search(question, stopwatch(bundle, scratch, "search"))
    started = time.perf_counter()
    found.run()
    return found, time.perf_counter() - started


def exhaustive(
    entries: Sequence[Entry], rounds: int, watch: Stopwatch, what: str
) -> tuple[dict[Entry, list[float]], float]:
    """Time every candidate in every round, in a new random order in each; return p50s in microseconds, and seconds."""
    times: dict[Entry, list[float]] = {entry: [] for entry in entries}
    order = random.Random(5)
    started = time.perf_counter()
    for turn in range(rounds):
        for entry in order.sample(entries, len(entries)):
            p50 = watch.measure(what, entry, turn)
            if p50 is not None:
                times[entry].append(p50)
        print(f"  {what}: round {turn + 1} of {rounds}, {len(entries)} candidates", file=sys.stderr, flush=True)
    return {entry: values for entry, values in times.items() if values}, time.perf_counter() - started


def every_setting(bundle: Bundle, name: str) -> list[Entry]:
    """Return a variant with every combination of the settings that `tune` varies."""
    levels = distinct_levels(bundle.file(bundle.variant(name)), "cpu")
    groups: dict[str, list[dict[str, Any]]] = {}
    for change in single_changes("latency", "cpu", available_cpus(), levels):
        groups.setdefault(next(iter(change)), [{}]).append(dict(change))
    combined = [
        {name: value for part in parts for name, value in part.items()} for parts in itertools.product(*groups.values())
    ]
    return [Entry(variant=name, settings=dataclasses.replace(SessionSettings(), **changes)) for changes in combined]


def best_of(times: dict[Entry, list[float]], found: Search) -> Entry:
    """Return the fastest candidate that meets the limits."""
    allowed = [entry for entry in times if not found.misses[entry.variant]]
    return min(allowed, key=lambda entry: geometric_mean(times[entry]))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a bundle that tune has filled; its own time is then not measured")
    parser.add_argument("--settings-rounds", type=int, default=FACTORIAL_ROUNDS, help="0: without every combination")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = tuned(folder) if options.bundle is None else None
        bundle = load_bundle(options.bundle or folder / "exported" / "mnist")
        found, seconds = search(bundle, folder)
        chosen = found.chosen
        assert chosen is not None
        entries = list(found.stopwatch.timed)
        times, all_seconds = exhaustive(entries, ROUNDS, stopwatch(bundle, folder, "all"), "exhaustive")
        settings = every_setting(bundle, chosen.variant) if options.settings_rounds else []
        watch = stopwatch(bundle, folder, "settings")
        of_variant, _ = exhaustive(settings, options.settings_rounds, watch, "every setting")
    best = best_of(times, found)
    rows = [
        row("p50 of the choice of tune, in the exhaustive search", "us", times[chosen]),
        row(f"p50 of the best: {best.variant}, {best.settings.described}", "us", times[best]),
        row("candidates", "", [len(entries)]),
        row("processes of the search", "", [found.stopwatch.processes]),
        row("seconds of the search", "s", [seconds]),
        row("seconds of the exhaustive search", "s", [all_seconds]),
    ]
    fp32 = next(entry for entry in entries if entry.variant == "fp32" and not entry.changes)
    targets = [
        target("p50 of the choice over the best candidate's", [ratio(times, chosen, best)], at_most=1.05),
        target("time of the search over the exhaustive one's", [seconds / all_seconds], at_most=1 / 3),
        target("p50 of the choice over fp32's", [ratio(times, chosen, fp32)], at_most=0.25),
    ]
    if of_variant:
        best_setting = best_of(of_variant, found)
        rows.append(row(f"p50 of its best setting: {best_setting.settings.described}", "us", of_variant[best_setting]))
        of_settings = ratio(of_variant, chosen, best_setting)
        targets.append(target("p50 of the choice over its best combination's", [of_settings], at_most=1.05))
    if whole is not None:
        rows.append(row("accuracy of the choice on the test set", "%", [100 * whole["choice"]["accuracy"]]))
        rows.append(row("bytes of the choice", "", [whole["choice"]["bytes"]]))
        targets.append(target("seconds of mnist-edge tune, a student included", [whole["seconds"]], at_most=600))
    report("tune_regret", measured=str(__doc__), rows=rows, targets=targets)


def ratio(times: dict[Entry, list[float]], entry: Entry, other: Entry) -> float:
    """Return the time of a candidate over that of another."""
    return geometric_mean(times[entry]) / geometric_mean(times[other])


if __name__ == "__main__":
    main()
