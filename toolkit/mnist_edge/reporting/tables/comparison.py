"""What `compare` and `bench --self-check` print."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.comparison import CompareReport, CompareRow, SelfCheckReport
from mnist_edge.reporting.tables.format import facts_table, micro, ratio_words

LABEL_WIDTH = 22


def compare_table(report: CompareReport, verbose: bool = False) -> RenderableType:
    """Return the verdict, a table with one line per row of both results, and notes; at most 80 columns wide.

    Args:
        report: at least one row.
        verbose: also show p99 and the adjusted p-values.
    """
    labels, common = _labels(report.rows)
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("row", no_wrap=True)
    for heading in ("batch", "verdict", "new/old\n99 % interval", "p50 us\nold", "\nnew"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, row in zip(labels, report.rows, strict=True):
        effect = row.effect
        table.add_row(
            label,
            f"{row.batch:,}",
            "undecided" if effect.verdict == "undecided" else ratio_words(effect.ratio),
            f"{_factor(effect.low)} to {_factor(effect.high)}",
            micro(row.baseline_p50_us),
            micro(row.candidate_p50_us),
        )
    shared = set.intersection(*(set(row.differences) for row in report.rows))
    notes = [
        f"{row.what}: slowdown of up to {row.not_ruled_out:.1%} not ruled out; more --rounds narrows the interval"
        for row in report.rows
        if row.not_ruled_out is not None and not row.beyond_tolerance
    ]
    notes += [f"differs: {difference}" for difference in report.rows[0].differences if difference in shared]
    notes += [
        f"differs in {row.what}: {difference}"
        for row in report.rows
        for difference in row.differences
        if difference not in shared
    ]
    notes += [f"missing, only in {report.baseline}: {what}" for what in report.missing]
    notes += [f"added, only in {report.candidate}: {what}" for what in report.added]
    return Group(
        _verdict(report),
        f"old: {report.baseline}; new: {report.candidate}; {common}; only p50 is judged",
        table,
        *(f"{label}: {row.what}" for label, row in zip(labels, report.rows, strict=True) if label.isdigit()),
        *([_verbose_table(report, labels)] if verbose else []),
        *notes,
    )


def failure(report: CompareReport) -> str:
    """Return why a comparison failed, in one line."""
    reasons = []
    slower = [row for row in report.rows if row.beyond_tolerance]
    if slower:
        worst = max(slower, key=lambda row: row.effect.ratio)
        reasons.append(
            f"{worst.what} is slower, estimated {worst.effect.ratio - 1:.1%}, allowed {100 * report.tolerance:g} %"
        )
    if report.missing:
        reasons.append(f"{report.candidate} lacks rows that {report.baseline} has: {'; '.join(report.missing)}")
    return "; ".join(reasons)


def _verdict(report: CompareReport) -> str:
    slower = sum(row.beyond_tolerance for row in report.rows)
    undecided = sum(row.effect.verdict == "undecided" for row in report.rows)
    return (
        f"{'passed (exit 0)' if report.passed else 'FAILED (exit 1)'}: {slower} of {len(report.rows)} slower, "
        f"estimated over {100 * report.tolerance:g} %; {undecided} undecided, {len(report.missing)} missing"
    )


def _labels(rows: tuple[CompareRow, ...]) -> tuple[list[str], str]:
    """Return a label of at most LABEL_WIDTH characters per row, from what varies between rows, and what all have in common.

    Where a label would be longer, rows are numbered.
    """
    parts: tuple[Callable[[CompareRow], str], ...] = (
        lambda row: row.engine,
        lambda row: row.variant,
        lambda row: ", ".join([row.settings.provider, *row.settings.extras]),
        lambda row: f"{row.settings.threads} thread{'' if row.settings.threads == 1 else 's'}",
        lambda row: row.scenario.described,
    )
    varying = [part for part in parts if len({part(row) for row in rows}) > 1]
    # Where only the batch varies, rows are labelled by the variant.
    common = ", ".join(part(rows[0]) for part in parts if part not in varying)
    labels = [", ".join(part(row) for part in varying) or row.variant for row in rows]
    if max(map(len, labels)) > LABEL_WIDTH:
        labels = [str(number) for number in range(1, len(rows) + 1)]
    return labels, common


def _factor(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:,.0f}"


def _verbose_table(report: CompareReport, labels: list[str]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("row", no_wrap=True)
    for heading in ("batch", "p99 us\nold", "\nnew", "adjusted\np-value"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, row in zip(labels, report.rows, strict=True):
        p99s = [micro(p99) for p99 in (row.baseline_p99_us, row.candidate_p99_us)]
        table.add_row(label, f"{row.batch:,}", *p99s, f"{row.effect.p_value:.2g}")
    return table


def self_check_table(report: SelfCheckReport) -> RenderableType:
    """Return the rate of false positives of comparisons of a model with itself."""
    widths = sorted(effect.high / effect.low - 1 for effect in report.effects)
    return facts_table(
        "bench --self-check",
        {
            "model": report.model,
            "comparisons": f"{report.comparisons} of the model with itself, {report.rounds} processes a side",
            "false positives": f"{report.false_positives} (rate at most {report.upper95:.1%}, 95 % confidence)",
            "interval": f"{widths[len(widths) // 2]:.1%} wide in the median",
            "verdict": "passed" if report.passed else "FAILED: timings on this machine vary too much to compare",
        },
    )
