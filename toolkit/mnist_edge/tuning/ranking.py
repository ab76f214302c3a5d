"""Rank the candidates of a finished search, each with the reason why it was chosen or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_edge.records.tuning import TunedCandidate
from mnist_edge.stats import geometric_mean, t_interval
from mnist_edge.tuning.candidates import Entry
from mnist_edge.tuning.profiles import profiled
from mnist_edge.tuning.reasons import Profile, Side, slower, slower_start, time_ratio
from mnist_edge.tuning.search import FP32, Search

LEVEL = 0.95


def rank(
    search: Search, profiles: Mapping[Entry, Profile], environment: Mapping[str, Any]
) -> tuple[TunedCandidate, ...]:
    """Return the choice, then the other candidates that meet the limits, best first, then the rest, nearest first.

    Args:
        search: that has run.
        profiles: time by operator; see `profiled`.
        environment: of the timing.
    """
    entries = sorted({**search.stopwatch.timed, **search.stopwatch.problems}, key=lambda entry: _order(search, entry))
    return tuple(_candidate(search, entry, profiles, environment) for entry in entries)


def objective_value(search: Search, entry: Entry) -> float:
    """Return what the objective makes small: bytes, or microseconds; infinite for a candidate without times."""
    if search.question.objective == "size":
        return search.variants[entry.variant].bytes
    figures = search.stopwatch.all_figures(entry)
    return geometric_mean([one.time(search.question.objective) for one in figures]) if figures else float("inf")


def ratio_to_fp32(search: Search, entry: Entry) -> float | None:
    """Return a candidate's p50 over that of fp32 with default settings; None where that was not timed."""
    default = next((one for one in search.stopwatch.timed if one.variant == FP32 and not one.changes), None)
    return None if default is None else search.p50_us(entry) / search.p50_us(default)


def _order(search: Search, entry: Entry) -> tuple[float, ...]:
    if entry in search.stopwatch.problems:
        return 3, 0, 0
    misses = search.misses_of(entry)
    if misses:
        return 2, max(miss.size for miss in misses), search.p50_us(entry)
    return int(entry != search.chosen), objective_value(search, entry), search.p50_us(entry)


def _candidate(
    search: Search, entry: Entry, profiles: Mapping[Entry, Profile], environment: Mapping[str, Any]
) -> TunedCandidate:
    variant, figures = search.variants[entry.variant], search.stopwatch.all_figures(entry)
    timed = bool(figures) and entry not in search.stopwatch.problems
    p50s, p50 = [one.p50_us for one in figures], search.p50_us(entry)
    return TunedCandidate(
        variant=entry.variant,
        settings=entry.settings,
        p50_us=p50 if timed else None,
        interval=t_interval(p50, p50s, LEVEL) if timed and len(p50s) > 1 else None,
        processes=len(figures),
        images_per_s=1e6 * search.question.batch / geometric_mean([one.mean_us for one in figures]) if timed else None,
        start_ms=geometric_mean([one.start_us for one in figures]) / 1000 if timed else None,
        bytes=variant.bytes,
        accuracy=variant.accuracy,
        selection_accuracy=variant.selection_accuracy,
        meets_limits=timed and not search.misses_of(entry),
        reason=_reason(search, entry, profiles, environment),
    )


def _reason(search: Search, entry: Entry, profiles: Mapping[Entry, Profile], environment: Mapping[str, Any]) -> str:
    if entry in search.stopwatch.problems:
        return f"not timed: {search.stopwatch.problems[entry]}"
    misses = search.misses_of(entry)
    if misses:
        return "; ".join(miss.text for miss in misses)
    chosen = search.chosen
    assert chosen is not None  # else no candidate meets the limits
    if entry == chosen:
        return _praise(search, entry)
    return _loser_reason(search, entry, chosen, profiles, environment)


def _praise(search: Search, entry: Entry) -> str:
    """Return in what the choice is best."""
    best = {
        "latency": "the fastest",
        "size": "the smallest",
        "throughput": "the most images per second",
        "cold-start": "the fastest to start",
    }[search.question.objective]
    ratio = ratio_to_fp32(search, entry)
    compared = "" if ratio is None or not (entry.variant != FP32 or entry.changes) else f"; {time_ratio(ratio, FP32)}"
    return f"{best} that meets the limits{compared}"


def _loser_reason(
    search: Search, entry: Entry, chosen: Entry, profiles: Mapping[Entry, Profile], environment: Mapping[str, Any]
) -> str:
    """Return how a candidate that meets the limits compares with the choice, and where its time goes."""
    variant, objective = search.variants[entry.variant], search.question.objective
    same = entry.variant == chosen.variant
    choice = "the choice" if same else chosen.variant
    if objective == "size" and not same:
        return f"{variant.bytes / search.variants[chosen.variant].bytes:,.1f} times the bytes of {choice}"
    ratio = time_ratio(_time_ratio(search, entry, chosen), choice)
    lane = search.lanes.get(entry)
    if same and lane is not None and lane.beaten_by is None:
        return f"{ratio}, which is no measurable difference: the simpler settings are chosen"
    if objective == "cold-start":
        own, others = (search.stopwatch.all_figures(each) for each in (entry, chosen))
        return f"{ratio}; {slower_start(own, others, choice, variant.bytes)}"
    if profiled(entry) == profiled(chosen):
        return ratio
    loser, winner = (
        Side(
            name=choice if each == chosen else each.variant,
            precision=search.variants[each.variant].precision,
            us=search.p50_us(each),
            profile=profiles.get(profiled(each), ()),
        )
        for each in (entry, chosen)
    )
    fp32 = next((lines for each, lines in profiles.items() if each.variant == FP32 and not each.changes), ())
    return "; ".join(filter(None, [ratio, slower(loser, winner, fp32=fp32, environment=environment)]))


def _time_ratio(search: Search, entry: Entry, chosen: Entry) -> float:
    objective = search.question.objective
    times = [
        geometric_mean([one.time(objective) for one in search.stopwatch.all_figures(each)]) for each in (entry, chosen)
    ]
    return times[0] / times[1]
