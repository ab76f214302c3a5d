"""Compare a model with itself: does this machine produce false positives?"""

from __future__ import annotations

import dataclasses
import random

from mnist_edge.benchmarking.comparable import require_processes
from mnist_edge.benchmarking.compare import effect
from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.benchmarking.results import process_medians
from mnist_edge.benchmarking.rounds import OnProcess, checked_environment, run_rounds
from mnist_edge.benchmarking.row import make_row
from mnist_edge.records.comparison import SelfCheckReport
from mnist_edge.stats import upper_bound95

COMPARISONS = 40
FALSE_POSITIVES = 0.05
"""Largest share of false positives that passes."""


def self_check(
    plan: Plan, comparisons: int = COMPARISONS, on_process: OnProcess = lambda _done, _all: None
) -> SelfCheckReport:
    """Time a plan's first candidate against itself and count the differences found (an A/A test).

    The processes of both sides are interleaved in a random order, which is the best case for two results.

    Args:
        plan: its number of rounds is that of the processes a side.
        comparisons: how many to make, each of fresh processes.
        on_process: called after each process with the number done and the number in all.

    Raises:
        UsageError: too few rounds.
    """
    require_processes(plan.rounds, "this plan")
    environment, _ = checked_environment(plan)
    resolved = resolve_plan(plan)
    one = resolved.candidates[0]
    sides = [one, dataclasses.replace(one, variant=f"{one.variant} again")]
    effects = []
    each = plan.rounds * len(sides)
    for turn in range(comparisons):
        outputs, _ = run_rounds(
            plan,
            resolved,
            sides,
            random.Random(turn).randrange(2**30),  # noqa: S311 - no secret depends on it
            _offset(on_process, turn * each, comparisons * each),
        )
        effects.append(effect(*(process_medians(make_row(side, outputs[side])) for side in sides)))
    false_positives = sum(found.verdict != "undecided" for found in effects)
    return SelfCheckReport(
        model=str(plan.model),
        environment=environment,
        comparisons=comparisons,
        rounds=plan.rounds,
        false_positives=false_positives,
        upper95=upper_bound95(false_positives, comparisons),
        effects=tuple(effects),
        passed=false_positives <= FALSE_POSITIVES * comparisons,
    )


def _offset(on_process: OnProcess, before: int, total: int) -> OnProcess:
    return lambda done, _all: on_process(before + done, total)
