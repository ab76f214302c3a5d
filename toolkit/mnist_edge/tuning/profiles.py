"""Profiles of the candidates of a search: where the time of each goes."""

from __future__ import annotations

import dataclasses
from typing import Any

from mnist_edge.benchmarking.profile import profile_candidate
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.records.benchmark import Candidate, OperatorTime
from mnist_edge.tuning.candidates import Entry
from mnist_edge.tuning.journal import Journal
from mnist_edge.tuning.search import Search
from mnist_edge.tuning.timing import SCENARIO, lasting


def profiled(entry: Entry) -> Entry:
    """Return the candidate whose profile is that of `entry`: IO binding changes no operator."""
    return dataclasses.replace(entry, settings=dataclasses.replace(entry.settings, io_binding=False))


def profile_candidates(
    search: Search, journal: Journal, environment: dict[str, Any]
) -> dict[Entry, tuple[OperatorTime, ...]]:
    """Profile the candidates that meet the limits, and every variant with default settings.

    Args:
        search: that has run.
        journal: profiles of an earlier call are used again.
        environment: of the timing.
    """
    question = search.question
    profiles: dict[Entry, tuple[OperatorTime, ...]] = {}
    for entry in dict.fromkeys(profiled(each) for each in search.stopwatch.timed):
        variant = search.variants[entry.variant]
        if entry in search.stopwatch.problems or (entry.changes and search.misses[entry.variant]):
            continue
        needs = {
            "profile": variant.sha256,
            "golden": question.bundle.manifest.golden_sha256,
            "batch": question.batch,
            "settings": dataclasses.asdict(entry.settings),
            "environment": lasting(environment),
        }
        found = journal.get(tuple[OperatorTime, ...], needs)
        if found is None:
            candidate = Candidate(
                engine="onnxruntime",
                variant=variant.name,
                file=question.bundle.file(variant),
                batch=question.batch,
                scenario=SCENARIO,
                settings=entry.settings,
            )
            found = profile_candidate(candidate, question.bundle.folder / GOLDEN)
            journal.add(needs, [dataclasses.asdict(line) for line in found])
        profiles[entry] = found
    return profiles
