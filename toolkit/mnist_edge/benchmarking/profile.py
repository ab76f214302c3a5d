"""Where the time goes: time by operator, from onnxruntime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.process import load_golden, random_feeds, row_groups
from mnist_edge.benchmarking.rounds import Plan, resolve_plan
from mnist_edge.records.benchmark import OperatorTime
from mnist_edge.runtime.classifier import open_classifier

RUNS = 300
"""The first tenth is left out: it is slower."""


def profile(plan: Plan) -> tuple[OperatorTime, ...]:
    """Profile the first candidate of a plan over 300 runs; the costliest operator first.

    Profiling itself costs time, about as much as a small operator: read the shares, not the sums.
    """
    resolved = resolve_plan(plan)
    one = resolved.candidates[0]
    with tempfile.TemporaryDirectory() as scratch:
        classifier = open_classifier(
            one.file,
            one.settings,
            normalization=plan.normalization,
            profile_prefix=Path(scratch) / "profile",
            trial=False,
        )
        golden = load_golden(str(resolved.golden) if resolved.golden else None)
        if golden is None:
            feeds = random_feeds(classifier.input, one.batch)
        else:
            feeds = [classifier.prepare(golden[0][rows]) for rows in row_groups(len(golden[0]), one.batch)]
        for turn in range(RUNS):
            classifier.run(feeds[turn % len(feeds)])
        events = json.loads(Path(classifier.session.end_profiling()).read_text())
    return operators(events, RUNS)


def operators(events: list[dict[str, Any]], runs: int) -> tuple[OperatorTime, ...]:
    """Sum the node events of a profile by operator and provider, without the first tenth of the runs."""
    nodes = [event for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
    nodes = nodes[len(nodes) // 10 :]
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in nodes:
        spent[event["args"]["op_name"], event["args"].get("provider", "")].append(float(event["dur"]))
    total = sum(sum(times) for times in spent.values()) or 1.0
    counted = runs * 0.9
    found = [
        OperatorTime(
            operator=operator,
            provider=provider,
            calls=len(times),
            us_per_run=sum(times) / counted,
            share=sum(times) / total,
        )
        for (operator, provider), times in spent.items()
    ]
    return tuple(sorted(found, key=lambda row: -row.us_per_run))
