"""`mnist-edge compare`: faster, slower, or not to be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json

if TYPE_CHECKING:
    from mnist_edge.records import BenchReport


def compare(
    baseline: Annotated[Path, typer.Argument(help="What bench --output wrote before.")],
    candidate: Annotated[Path, typer.Argument(help="What it wrote now.")],
    *,
    tolerance: Annotated[float, typer.Option(min=0, help="Percent of slowdown that is let pass.")] = 5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare although the surroundings differ.")] = False,
    json: Json = False,
) -> None:
    """Hold two results against each other. Exit 1 on a slowdown beyond the tolerance, 2 where they cannot be compared."""
    from mnist_edge.benchmarking.compare import read_result

    judge(read_result(baseline), read_result(candidate), (str(baseline), str(candidate)), tolerance, anyway, json)


def judge(
    baseline: BenchReport, candidate: BenchReport, names: tuple[str, str], tolerance: float, anyway: bool, json: bool
) -> None:
    """Compare, print, and exit with 1 on a slowdown."""
    from mnist_edge.benchmarking.compare import compare as hold
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables import compare_table

    report = hold(baseline, candidate, names, tolerance=tolerance / 100, anyway=anyway)
    emit(report, json, compare_table)
    if not report.passed:
        worst = max((row for row in report.rows if row.beyond_tolerance), key=lambda row: row.effect.ratio)
        say(f"mnist-edge: {worst.what} is {worst.effect.ratio - 1:.1%} slower, allowed {tolerance:g} %")
        raise typer.Exit(1)
