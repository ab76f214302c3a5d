"""Search for the best candidate: one race of variants and single changes of settings, one of combinations of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import Objective, ProviderName
from mnist_edge.cpus import available_cpus
from mnist_edge.errors import BadFileError
from mnist_edge.records.bundle import Variant
from mnist_edge.records.tuning import Limits
from mnist_edge.stats import geometric_mean
from mnist_edge.tuning.candidates import Entry, combinations, distinct_levels, single_changes, with_changes
from mnist_edge.tuning.choose import Chooser, Miss, latency_miss, variant_misses
from mnist_edge.tuning.racing import ROUNDS, Lane, race
from mnist_edge.tuning.timing import SEED, Stopwatch

FP32 = "fp32"
"""The variant whose accuracy the others are compared with."""
OVERVIEW_ROUNDS = 3
"""Processes of each variant where only bytes are compared, so that the table has a latency for each."""
RACE_SECONDS = 300.0
"""Time of all processes after which no further round is begun; those of earlier calls count."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a search.

    Attributes:
        variants: names of the candidates.
        batch: images of a run.
    """

    bundle: Bundle
    variants: tuple[str, ...]
    limits: Limits
    objective: Objective
    provider: ProviderName
    batch: int


class Search:
    """A search, and what it finds.

    Attributes:
        chosen: the choice, or None where no candidate meets the limits.
        lanes: of every candidate that was raced, by the last race that it took part in.
        notes: what a reader should know, one sentence each.
        misses: limits that a variant misses whatever its settings, by name; empty for one that may be chosen.
    """

    def __init__(
        self, question: Question, stopwatch: Stopwatch, notify: Callable[[str], None] = lambda _line: None
    ) -> None:
        self.question = question
        self.stopwatch = stopwatch
        self._notify = notify
        self.chosen: Entry | None = None
        self.lanes: dict[Entry, Lane[Entry]] = {}
        self.notes: list[str] = []
        bundle = question.bundle
        self.variants: Mapping[str, Variant] = {name: bundle.variant(name) for name in question.variants}
        known = {variant.name: variant.selection_accuracy for variant in bundle.manifest.variants}
        self.misses: dict[str, list[Miss]] = {
            name: variant_misses(variant, known.get(FP32), question.limits) for name, variant in self.variants.items()
        }
        self._chooser = Chooser(
            self.variants, {n for n, m in self.misses.items() if not m}, self.p50_us, question.limits
        )

    def p50_us(self, entry: Entry) -> float:
        """Return the geometric mean of the p50 of all processes of a candidate; infinite without any."""
        figures = self.stopwatch.all_figures(entry)
        return geometric_mean([one.p50_us for one in figures]) if figures else float("inf")

    def misses_of(self, entry: Entry) -> list[Miss]:
        """Return every limit that a candidate misses."""
        return [*self.misses[entry.variant], *latency_miss(self.p50_us(entry), self.question.limits)]

    def run(self) -> None:
        """Time candidates until one is chosen."""
        if self.question.objective == "size":
            self._smallest()
        else:
            self._fastest()

    def _fastest(self) -> None:
        entries = [entry for name in self.variants for entry in self._star(name)]
        first = self._race("variants", entries)
        picked = self._picked(first)
        may_win = {
            entry: geometric_mean(lane.times)
            for entry, lane in first.items()
            if lane.times and not lane.failed and not self.misses[entry.variant]
        }
        combined = combinations(may_win)
        if picked is not None and combined:
            left = _left(first)
            finalists = dict.fromkeys([picked, self._chooser.leader(left), *combined])
            picked = self._picked(self._race("combinations", list(finalists)))
        self._choose(picked)

    def _smallest(self) -> None:
        """Choose the smallest variant that meets the limits, then its settings by latency."""
        entries = [entry for name in self.variants for entry in with_changes(name, self.question.provider, [])]
        for turn in range(OVERVIEW_ROUNDS):
            for entry in entries:
                if self.stopwatch.problems.get(entry) is None:
                    self.stopwatch.measure("overview", entry, turn)
        allowed = [name for name, misses in self.misses.items() if not misses]
        for name in sorted(allowed, key=lambda name: self.variants[name].bytes):
            self._choose(self._picked(self._race(f"settings of {name}", self._star(name))))
            if self.chosen is not None:
                return

    def _choose(self, picked: Entry | None) -> None:
        self.chosen = picked if picked is not None and not self.misses_of(picked) else None

    def _star(self, name: str) -> list[Entry]:
        """Return a variant with default settings and, if it may be chosen, with each single change of them."""
        question = self.question
        if self.misses[name]:
            return with_changes(name, question.provider, [])
        try:
            levels = distinct_levels(question.bundle.file(self.variants[name]), question.provider)
        except BadFileError:  # the race reports why it does not run
            levels = ()
        changes = single_changes(question.objective, question.provider, available_cpus(), levels)
        return with_changes(name, question.provider, changes)

    def _race(self, stage: str, entries: list[Entry]) -> dict[Entry, Lane[Entry]]:
        lanes = race(
            entries,
            lambda entry, turn: self.stopwatch.measure(stage, entry, turn),
            self._chooser,
            seed=SEED,
            rounds=ROUNDS,
            stop=lambda: self._time_is_up(stage),
            on_round=lambda turn, left: self._notify(f"{stage}: round {turn + 1}, {left} candidates"),
        )
        self.lanes |= lanes
        return lanes

    def _time_is_up(self, stage: str) -> bool:
        up = self.stopwatch.seconds > RACE_SECONDS
        if up:
            self.notes.append(
                f"{stage}: ended early, as all processes took {self.stopwatch.seconds:,.0f} s; on an idle machine less is left open"
            )
        return up

    def _picked(self, lanes: Mapping[Entry, Lane[Entry]]) -> Entry | None:
        left = _left(lanes)
        return self._chooser.pick(left) if left else None


def _left(lanes: Mapping[Entry, Lane[Entry]]) -> dict[Entry, Sequence[float]]:
    """Return the times of the candidates that were neither beaten nor failed."""
    return {entry: lane.times for entry, lane in lanes.items() if lane.beaten_by is None and not lane.failed}
