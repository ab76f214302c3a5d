"""What `tune` prints: at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.tuning import Limits, TuneChoice, TunedCandidate, TuneReport
from mnist_edge.reporting.tables.format import counted, micro, percent, ratio_words

WIDTH = 80


def tune_table(report: TuneReport) -> RenderableType:
    """Return the choice, its rivals, and why each lost: the best candidate of each variant, then settings of the choice."""
    best = best_of_variants(report.candidates)
    parts: list[RenderableType] = [headline(report), _rows(best, report), ""]
    rivals = [one for one in best if not _is_choice(one, report)]
    parts += [f"{one.variant}: {one.reason}" for one in rivals]
    if report.choice is not None:
        others = [one for one in report.candidates if one.variant == report.choice.variant and one not in best]
        parts += [f"{one.variant}, {_changed(one.settings)}: {one.reason}" for one in others]
    parts += [f"{one.name} was not built: {one.message}" for one in report.not_built]
    if report.choice is not None and not report.choice.test_set:
        parts.append(
            f"the test set is not available here: its accuracy is as export recorded it, and {report.choice.confirmed_images:,} "
            "golden inputs show no loss with these settings"
        )
    parts += report.notes
    seconds = f"{report.processes:,} processes in {report.seconds:,.0f} s"
    parts.append(f"{seconds}{', continued from an earlier call' if report.resumed else ''}")
    return Group(*parts)


def headline(report: TuneReport) -> str:
    """Return the choice, or that there is none, in one sentence."""
    asked = f"{report.objective} at batch {report.batch} on {report.provider}, {described(report.limits)}"
    if report.choice is None:
        return f"NO candidate meets the limits ({asked})"
    choice: TuneChoice = report.choice
    ratio = "" if choice.ratio is None else f", {ratio_words(choice.ratio)} than fp32"
    return (
        f"{choice.variant} with {choice.settings.described}: p50 {micro(choice.p50_us)} us{ratio}, {choice.bytes:,} bytes, "
        f"{percent(choice.accuracy)} on the test set ({asked})"
    )


def described(limits: Limits) -> str:
    """Return the limits in words."""
    parts = [f"at most {100 * limits.max_accuracy_drop:g} points below fp32"]
    parts += [f"{limits.max_latency_us:,g} us"] if limits.max_latency_us is not None else []
    parts += [f"{limits.max_bytes:,} bytes"] if limits.max_bytes is not None else []
    return ", ".join(parts)


def failure(report: TuneReport) -> str:
    """Return why there is no choice, in one line: the nearest candidate, and what it misses."""
    nearest = report.candidates[0]
    return (
        f"no candidate meets the limits ({described(report.limits)}); the nearest, {nearest.variant} with "
        f"{nearest.settings.described}, misses them: {nearest.reason}"
    )


def best_of_variants(candidates: Sequence[TunedCandidate]) -> list[TunedCandidate]:
    """Return the first candidate of each variant, in the order of the report."""
    first: dict[str, TunedCandidate] = {}
    for one in candidates:
        first.setdefault(one.variant, one)
    return list(first.values())


def _is_choice(one: TunedCandidate, report: TuneReport) -> bool:
    choice = report.choice
    return choice is not None and (one.variant, one.settings) == (choice.variant, choice.settings)


def _rows(candidates: Sequence[TunedCandidate], report: TuneReport) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1), width=WIDTH)
    for heading in ("", "variant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("p50 us", "±", "bytes", "held-out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("limits", no_wrap=True)
    table.add_column("settings", overflow="fold", ratio=1)
    for one in candidates:
        table.add_row(
            "*" if _is_choice(one, report) else "",
            one.variant,
            micro(one.p50_us),
            _margin(one),
            f"{one.bytes:,}",
            percent(one.selection_accuracy),
            "met" if one.meets_limits else "missed",
            _changed(one.settings),
        )
    return table


def _changed(settings: SessionSettings) -> str:
    """Return what is not the default."""
    threads = [counted(settings.threads, "thread")] if settings.threads > 1 else []
    return ", ".join([*threads, *settings.extras]) or "default"


def _margin(one: TunedCandidate) -> str:
    """Return the larger distance of p50 to the ends of its interval, in percent of it."""
    if one.p50_us is None or one.interval is None:
        return "-"
    low, high = one.interval
    margin = 100 * max(high - one.p50_us, one.p50_us - low) / one.p50_us
    return f"{margin:.1f}%" if margin < 9.95 else f"{margin:,.0f}%"
