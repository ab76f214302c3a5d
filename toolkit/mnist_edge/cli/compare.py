"""`mnist-edge compare`: faster, slower, or not to be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json

if TYPE_CHECKING:
    from mnist_edge.records.benchmark import BenchReport


def compare(
    baseline: Annotated[Path, typer.Argument(help="What bench --output wrote before.")],
    candidate: Annotated[Path, typer.Argument(help="What it wrote now.")],
    *,
    tolerance: Annotated[float, typer.Option(min=0, help="Percent of slowdown that is let pass.")] = 5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare although the surroundings differ.")] = False,
    json: Json = False,
) -> None:
    """Hold two results against each other, row by row. Only p50 is judged; p99 is shown beside it.

    Exit 1: a row is shown to be slower by more than the tolerance, or is missing in the new result.

    Exit 2: they cannot be compared.

    Exit 0: neither. An undecided row passes, and the table says how large a slowdown it cannot rule out.
    """
    from mnist_edge.benchmarking.compare import read_result

    judge(read_result(baseline), read_result(candidate), (str(baseline), str(candidate)), tolerance, anyway, json)


def judge(
    baseline: BenchReport, candidate: BenchReport, names: tuple[str, str], tolerance: float, anyway: bool, json: bool
) -> None:
    """Compare, print, and exit with 1 on a slowdown or a lost row."""
    from mnist_edge.benchmarking.compare import compare as hold
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.comparison import compare_table

    report = hold(baseline, candidate, names, tolerance=tolerance / 100, anyway=anyway)
    emit(report, json, compare_table)
    if report.passed:
        return
    reasons = []
    slower = [row for row in report.rows if row.beyond_tolerance]
    if slower:
        worst = max(slower, key=lambda row: row.effect.ratio)
        reasons.append(f"{worst.what} is {worst.effect.ratio - 1:.1%} slower, allowed {tolerance:g} %")
    if report.lost:
        reasons.append(f"{names[1]} lacks what {names[0]} has: {'; '.join(report.lost)}")
    say(f"mnist-edge: {'; '.join(reasons)}")
    raise typer.Exit(1)
