"""Time by operator, from onnxruntime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.feeds import random_feeds
from mnist_edge.benchmarking.outputs import load_golden, row_groups
from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.contract import Normalization
from mnist_edge.records.benchmark import Candidate, OperatorTime
from mnist_edge.runtime.classifier import open_classifier

RUNS = 300
"""The first tenth is left out: caches and allocations are not warm yet."""


def profile(plan: Plan) -> tuple[OperatorTime, ...]:
    """Profile the first candidate of a plan; return the most expensive operator first."""
    resolved = resolve_plan(plan)
    return profile_candidate(resolved.candidates[0], resolved.golden, plan.normalization)


def profile_candidate(
    candidate: Candidate, golden: Path | None, normalization: Normalization | None = None
) -> tuple[OperatorTime, ...]:
    """Profile a candidate over 300 runs; return the most expensive operator first.

    Profiling itself costs about as much time as a small operator: the shares are meaningful, the totals are not.

    Args:
        candidate: what to run.
        golden: the golden file whose images are the inputs; None for random inputs.
        normalization: of the pixels of a float model that does not state it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        classifier = open_classifier(
            candidate.file,
            candidate.settings,
            normalization=normalization,
            profile_prefix=Path(scratch) / "profile",
            trial=False,
        )
        reference = load_golden(str(golden) if golden else None)
        if reference is None:
            feeds = random_feeds(classifier.input, candidate.batch)
        else:
            groups = row_groups(len(reference.images), candidate.batch)
            feeds = [classifier.prepare(reference.images[rows]) for rows in groups]
        for turn in range(RUNS):
            classifier.run_for([classifier.output.name], feeds[turn % len(feeds)])
        events = json.loads(Path(classifier.session.end_profiling()).read_text())
    return sum_by_operator(events, RUNS)


def sum_by_operator(events: list[dict[str, Any]], runs: int) -> tuple[OperatorTime, ...]:
    """Sum the node events of a profile by operator and provider, without the first tenth of the runs.

    Args:
        events: of onnxruntime's profile, `dur` in microseconds.
        runs: how many runs were profiled.
    """
    nodes = [event for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
    nodes = nodes[len(nodes) // 10 :]
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in nodes:
        durations[event["args"]["op_name"], event["args"].get("provider", "")].append(float(event["dur"]))
    total = sum(sum(times) for times in durations.values()) or 1.0
    counted = runs * 0.9
    found = [
        OperatorTime(
            operator=operator,
            provider=provider,
            calls=len(times),
            us_per_run=sum(times) / counted,
            share=sum(times) / total,
        )
        for (operator, provider), times in durations.items()
    ]
    return tuple(sorted(found, key=lambda row: -row.us_per_run))
