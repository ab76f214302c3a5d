"""What `compare` and `bench --self-check` print."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.comparison import CompareReport, SelfCheckReport
from mnist_edge.reporting.tables.format import facts_table, micro


def compare_table(report: CompareReport) -> RenderableType:
    """One line a row that both results have; what cannot be ruled out, lost and added rows and the verdict below."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("what", min_width=12, max_width=24)
    for heading in ("p50\nbefore", "\nafter", "effect"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("99 % interval", justify="right", min_width=9)
    table.add_column("verdict", min_width=9)
    table.add_column("p99", justify="right", min_width=7)
    for row in report.rows:
        verdict = f"{row.effect.verdict}{', BEYOND THE TOLERANCE' if row.beyond_tolerance else ''}"
        differs = f" (differs: {'; '.join(row.differences)})" if row.differences else ""
        table.add_row(
            row.what,
            micro(row.baseline_p50_us),
            micro(row.candidate_p50_us),
            f"{row.effect.ratio - 1:+.1%}",
            f"{row.effect.low - 1:+.1%} to {row.effect.high - 1:+.1%}",
            verdict + differs,
            " to ".join(micro(p99) for p99 in (row.baseline_p99_us, row.candidate_p99_us)),
        )
    lines = [
        f"{row.what}: cannot rule out a slowdown of up to {row.not_ruled_out:.1%}; more --rounds narrows it"
        for row in report.rows
        if row.not_ruled_out is not None and not row.beyond_tolerance
    ]
    lines += [f"LOST, only in {report.baseline}: {what}" for what in report.lost]
    lines += [f"only in {report.candidate}: {what}" for what in report.added]
    return Group(
        f"{report.candidate} against {report.baseline}, microseconds a request; only p50 is judged, p99 is not",
        table,
        *lines,
        _compare_verdict(report),
    )


def _compare_verdict(report: CompareReport) -> str:
    slower = sum(row.beyond_tolerance for row in report.rows)
    undecided = sum(row.effect.verdict == "undecided" for row in report.rows)
    verdict = "passed (exit 0)" if report.passed else "FAILED (exit 1)"
    return (
        f"{verdict}: {slower} of {len(report.rows)} rows shown to be over {100 * report.tolerance:g} % slower, "
        f"{len(report.lost)} lost; {undecided} undecided, which fails nothing"
    )


def self_check_table(report: SelfCheckReport) -> RenderableType:
    """How often noise was called news."""
    widths = sorted(effect.high / effect.low - 1 for effect in report.effects)
    return facts_table(
        "bench --self-check",
        {
            "model": report.model,
            "comparisons": f"{report.comparisons} of the same thing, {report.rounds} processes a side",
            "false alarms": f"{report.false_positives} (rate at most {report.upper95:.1%} with 95 % confidence)",
            "interval": f"{widths[len(widths) // 2]:.1%} wide in the median",
            "verdict": "passed" if report.passed else "FAILED: the machine is too noisy to compare timings on",
        },
    )
