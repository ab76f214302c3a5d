"""`mnist-edge bench`: how fast it is, really, on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import Json, positive_numbers
from mnist_edge.contract import ProviderName

if TYPE_CHECKING:
    from mnist_edge.records import BenchReport


def bench(
    model: Annotated[
        Path | None, typer.Argument(help="Bundle folder, or any ONNX file. Default: the newest in exported/.")
    ] = None,
    *,
    provider: Annotated[ProviderName, typer.Option(help="No other is used: exit 4 if it cannot be had.")] = "cpu",
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes, with commas. Default: 1, or a fixed-batch model's own.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, with commas.")] = "1",
    output: Annotated[Path | None, typer.Option(help="Also write the JSON into this file.")] = None,
    json: Json = False,
) -> None:
    """Time onnxruntime, and PyTorch eager beside it, in fresh processes taken in turn."""
    from mnist_edge.cli.verify import newest_bundle
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables import bench_table

    report = bench_stage(
        model or newest_bundle(),
        provider,
        None if batch is None else positive_numbers(batch, "--batch"),
        positive_numbers(threads, "--threads"),
    )
    if output is not None:
        from json import dumps

        from mnist_edge.files import write_atomic

        write_atomic(output, (dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode())
        say(f"wrote {output}")
    emit(report, json, bench_table)


def bench_stage(
    model: Path, provider: ProviderName, batches: tuple[int, ...] | None, threads: tuple[int, ...]
) -> BenchReport:
    """Time with a progress bar on standard error."""
    from mnist_edge.benchmarking import rounds
    from mnist_edge.reporting.console import progress

    with progress("timing") as on_process:
        plan = rounds.Plan(
            model=model,
            provider=provider,
            batches=batches,
            threads=threads,
            rounds=rounds.ROUNDS,
            seconds=rounds.SECONDS,
        )
        return rounds.bench(plan, on_process)
