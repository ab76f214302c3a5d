"""`mnist-edge compare`: two results of bench, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json

if TYPE_CHECKING:
    from mnist_edge.records.comparison import CompareReport


def compare(
    baseline: Annotated[Path, typer.Argument(help="What bench --output wrote before.")],
    candidate: Annotated[Path, typer.Argument(help="What it wrote now.")],
    *,
    tolerance: Annotated[float, typer.Option(min=0, help="Slowdown in percent that is allowed.")] = 5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare although the environments differ.")] = False,
    json: Json = False,
) -> None:
    """Compare two results of bench, row by row. Only p50 decides; p99 is shown beside it.

    Exit 1: a row is shown to be slower by more than the tolerance, or is missing in the new result.

    Exit 2: they cannot be compared.

    Exit 0: neither. An undecided row passes, and the table says how large a slowdown it cannot rule out.
    """
    from mnist_edge.benchmarking.compare import compare as compare_results
    from mnist_edge.benchmarking.compare import read_result

    report = compare_results(
        read_result(baseline),
        read_result(candidate),
        (str(baseline), str(candidate)),
        tolerance=tolerance / 100,
        anyway=anyway,
    )
    show_comparison(report, json)


def show_comparison(report: CompareReport, json: bool) -> None:
    """Print a comparison; exit with 1 on a slowdown or a missing row."""
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.comparison import compare_table

    emit(report, json, compare_table)
    if report.passed:
        return
    reasons = []
    slower = [row for row in report.rows if row.beyond_tolerance]
    if slower:
        worst = max(slower, key=lambda row: row.effect.ratio)
        reasons.append(f"{worst.what} is {worst.effect.ratio - 1:.1%} slower, allowed {100 * report.tolerance:g} %")
    if report.lost:
        reasons.append(f"{report.candidate} lacks what {report.baseline} has: {'; '.join(report.lost)}")
    say(f"mnist-edge: {'; '.join(reasons)}")
    raise typer.Exit(1)
