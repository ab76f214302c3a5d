"""`mnist-edge compare`: is one benchmark result slower than another?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json

if TYPE_CHECKING:
    from mnist_edge.records.comparison import CompareReport


def compare(
    baseline: Annotated[Path, typer.Argument(help="Result file of an earlier bench --output.")],
    candidate: Annotated[Path, typer.Argument(help="Result file to compare with it.")],
    *,
    tolerance: Annotated[float, typer.Option(min=0, help="Estimated slowdown that passes, in percent.")] = 5,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare although environment, model or settings differ; list them.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also show p99 and adjusted p-values.")] = False,
    json: Json = False,
) -> None:
    """Compare two benchmark results row by row. Only p50 is judged.

    Exit 1: a row is shown to be slower (Welch's t on the log p50 of processes, 1 % with Holm's correction
    over the rows) and its estimated slowdown is over the tolerance, or a row is missing in the candidate.

    Exit 2: the results cannot be compared.

    Exit 0: neither. An undecided row passes; the report states how large a slowdown it cannot rule out.
    """
    from mnist_edge.benchmarking.compare import compare as compare_results
    from mnist_edge.benchmarking.results import read_result

    report = compare_results(
        read_result(baseline),
        read_result(candidate),
        (str(baseline), str(candidate)),
        tolerance=tolerance / 100,
        anyway=anyway,
    )
    show_comparison(report, json, verbose=verbose)


def show_comparison(report: CompareReport, json: bool, *, verbose: bool = False) -> None:
    """Print a comparison; exit with 1 on a slowdown or a missing row."""
    from functools import partial

    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.comparison import compare_table, failure

    emit(report, json, partial(compare_table, verbose=verbose))
    if not report.passed:
        say(f"mnist-edge: {failure(report)}")
        raise typer.Exit(1)
