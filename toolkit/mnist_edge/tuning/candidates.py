"""The candidates of `tune`: variants with session settings that can matter."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.threads import thread_counts
from mnist_edge.contract import Objective, Optimization, ProviderName
from mnist_edge.files import sha256_file
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.session import open_session

LEVELS: tuple[Optimization, ...] = ("all", "extended", "basic", "none")
GAIN = 0.98
"""Part of the default's time below which a change of settings takes part in combinations."""
COMBINATIONS = 8
"""The most combinations of changes that are timed, those with the smallest predicted time."""
Change = Mapping[str, Any]
"""Fields of SessionSettings with other values than the default's."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A candidate: a variant by its name, and the settings of its session."""

    variant: str
    settings: SessionSettings

    @property
    def changes(self) -> int:
        """How many settings are not the default: of two equally good candidates, the simpler one is chosen."""
        default = SessionSettings(provider=self.settings.provider)
        fields = (field.name for field in dataclasses.fields(SessionSettings))
        return sum(getattr(self.settings, name) != getattr(default, name) for name in fields)


def single_changes(
    objective: Objective, provider: ProviderName, cpus: int, levels: Iterable[Optimization]
) -> list[Change]:
    """Return the changes of one setting that can matter.

    Args:
        objective: before its first run, a session neither spins between runs nor reads from bound buffers.
        provider: on CUDA only the CUDA graph is a choice; TF32 changes the outputs.
        cpus: that this process may use.
        levels: optimisation levels that give different graphs.
    """
    if provider != "cpu":
        return [{"cuda_graph": True}]
    many = thread_counts(cpus)[1:]
    changes: list[Change] = [{"threads": threads} for threads in many]
    if objective != "cold-start":  # one thread has nobody to wait for
        changes += [{"threads": threads, "spinning": False} for threads in many] + [{"io_binding": True}]
    changes += [{"optimization": level} for level in levels if level != "all"]
    return [*changes, {"prepacking": False}]


def with_changes(variant: str, provider: ProviderName, changes: Iterable[Change]) -> list[Entry]:
    """Return a variant with default settings, then with each change."""
    default = SessionSettings(provider=provider)
    return [Entry(variant=variant, settings=dataclasses.replace(default, **change)) for change in ({}, *changes)]


def distinct_levels(model: Path, provider: ProviderName) -> tuple[Optimization, ...]:
    """Return the optimisation levels at which onnxruntime makes different graphs of a model, `all` first.

    A level at which it makes the same graph as at a higher one need not be timed. On CUDA, levels are no choice.

    Raises:
        BadFileError: onnxruntime cannot build it.
    """
    if provider != "cpu":
        return ("all",)
    found: dict[str, Optimization] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for level in LEVELS:
            path = Path(scratch) / f"{level}.onnx"
            open_session(model, SessionSettings(optimization=level), optimized=path)
            found.setdefault(sha256_file(path), level)
    return tuple(found.values())


def combinations(times: Mapping[Entry, float]) -> list[Entry]:
    """Return combinations of changes that would beat every candidate timed so far, if their gains multiplied.

    Timing every combination of settings would take several times as long. Changes that help each by itself are
    combined; whether the gains do multiply is then measured.

    Args:
        times: of every candidate that may be chosen, each with at most one change of the default.

    Returns:
        At most COMBINATIONS candidates, the smallest predicted time first.
    """
    best = min(times.values(), default=0.0)
    predicted: dict[Entry, float] = {}
    for default, base in times.items():
        if default.changes:
            continue
        groups: dict[str, list[tuple[Change, float]]] = {}  # of one group only one change can be made
        for entry, time in times.items():
            if entry.variant == default.variant and time < GAIN * base:
                change = _difference(default.settings, entry.settings)
                groups.setdefault(next(iter(change)), []).append((change, time / base))
        for chosen in itertools.product(*([None, *group] for group in groups.values())):
            made = [part for part in chosen if part is not None]
            time = base * math.prod(gain for _, gain in made)
            if len(made) > 1 and time < best:
                changes = {name: value for change, _ in made for name, value in change.items()}
                settings = dataclasses.replace(default.settings, **changes)
                predicted[Entry(variant=default.variant, settings=settings)] = time
    return sorted(predicted, key=lambda entry: predicted[entry])[:COMBINATIONS]


def _difference(default: SessionSettings, settings: SessionSettings) -> Change:
    """Return the fields that differ, in the order of the record: threads before the spinning that comes with them."""
    values = dataclasses.asdict(settings)
    return {name: values[name] for name, value in dataclasses.asdict(default).items() if values[name] != value}
