"""The table of `bench`: at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.benchmark import BenchReport, BenchRow, ThreadAdvice
from mnist_edge.reporting.tables.format import counted, micro, ratio_words, short_number

ENGINES = {"torch": "PyTorch eager", "c": "C"}
"""Names of the engines in print, where they differ from those in records."""
MILLISECONDS_FROM = 100_000
"""Median in microseconds from which a table is in milliseconds: six digits are its widest number."""


def bench_table(report: BenchReport, *, verbose: bool = False) -> RenderableType:
    """Return the headline of each variant, one row per candidate, then the environment and notes.

    Args:
        report: to show.
        verbose: also show p99.9 and the number of outliers.
    """
    lines = [line for row in report.results for line in _scenario_lines(row)]
    if verbose:
        lines += _verbose_lines(report.results)
    if report.gpu_from_batch is not None:
        lines.append(f"the GPU is faster than the CPU from batch {report.gpu_from_batch}")
    environment = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    device = "" if report.host is None else f"on {report.host}: "
    where = f"{device}{environment['cpu']}, {environment['cores']} cores, load {environment['load_1min']}; {versions}"
    parts: list[RenderableType] = [*_headlines(report.results), "", _subject(report), _rows_table(report.results)]
    parts += [_profile_table(report)] if report.profile else []
    return Group(*parts, *lines, where, *report.notes, *map(_thread_line, report.thread_advice))


def headline(row: BenchRow) -> str:
    """Return latency and throughput in one sentence: `onnxruntime fp32, batch 1: p50 121.6 us, 8,120 images/s, ...`."""
    ratio = ""
    if row.ratio_to_torch is not None and row.engine != "torch":
        ratio = f", {versus_torch(row.ratio_to_torch)}{_margin(row, 'ratio_to_torch', ' ')}"
    threads = f", {row.settings.threads} threads" if row.settings.threads > 1 else ""
    return (
        f"{ENGINES.get(row.engine, row.engine)} {row.variant}, batch {row.batch}{threads}: p50 {_time(row.p50_us)}, "
        f"{row.throughput_per_s:,.0f} images/s{ratio}"
    )


def versus_torch(ratio: float) -> str:
    """Return a ratio of times to PyTorch eager in words: `1.87x faster than PyTorch eager`."""
    words = ratio_words(ratio)
    return f"{words} {'as' if words == 'same speed' else 'than'} PyTorch eager"


def _headlines(rows: Sequence[BenchRow]) -> list[str]:
    """Return the headline of the first row of each variant."""
    first: dict[str, BenchRow] = {}
    for row in rows:
        if row.engine != "torch":
            first.setdefault(row.variant, row)
    return [headline(row) for row in first.values()]


def _subject(report: BenchReport) -> str:
    """Return what all rows have in common, and how to read the numbers."""
    rows = report.results
    common = [f"{report.model} on {rows[0].settings.provider}", rows[0].scenario.described]
    threads = {row.settings.threads for row in rows}
    common += [counted(threads.pop(), "thread")] if len(threads) == 1 else []
    common += _shared_extras(rows)
    return f"{', '.join(common)}: {_unit(rows)[0]} a request, ± 95 % interval"


def _time(us: float) -> str:
    """Return microseconds with the unit that suits them: `121.6 us`, `250.0 ms`."""
    return f"{micro(us / 1000)} ms" if us >= MILLISECONDS_FROM else f"{micro(us)} us"


def _unit(rows: Sequence[BenchRow]) -> tuple[str, float]:
    """Return the unit of a table, and the factor from microseconds to it."""
    return ("ms", 1e-3) if max(row.p50_us for row in rows) >= MILLISECONDS_FROM else ("us", 1.0)


def _rows_table(rows: Sequence[BenchRow]) -> Table:
    scale = _unit(rows)[1]
    several = len({row.settings.threads for row in rows}) > 1
    table = Table(box=box.SIMPLE, padding=0, show_edge=False)
    table.add_column("what", overflow="fold", max_width=14)
    for heading in ("batch", *(["threads"] if several else []), "p50"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for heading in ("to PyTorch", "images/s", "p99", "start\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        ours = row.engine != "torch" and row.ratio_to_torch is not None
        table.add_row(
            _what(row, rows),
            str(row.batch),
            *([str(row.settings.threads)] if several else []),
            micro(scale * row.p50_us),
            _margin(row, "p50_us"),
            ratio_words(row.ratio_to_torch) if ours and row.ratio_to_torch else "-",
            short_number(row.throughput_per_s),
            "-" if row.p99_us is None else micro(scale * row.p99_us),
            f"{row.cold_start_ms:,.0f}",
        )
    return table


def _what(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    """Return the label of a row, without what the line above the table states for all rows."""
    first, shared = rows[0], _shared_extras(rows)
    extras = [f"on {row.settings.provider}"] if row.settings.provider != first.settings.provider else []
    extras += [extra for extra in row.settings.extras if extra not in shared]
    extras += [row.scenario.described] if row.scenario.name != first.scenario.name else []
    named = {"torch": ENGINES["torch"], "c": f"C {row.variant}"}.get(row.engine, row.variant)
    return ", ".join([named, *extras])


def _shared_extras(rows: Sequence[BenchRow]) -> list[str]:
    """Return the settings other than the defaults that all rows have."""
    return [extra for extra in rows[0].settings.extras if all(extra in row.settings.extras for row in rows)]


def _margin(row: BenchRow, name: str, before: str = "") -> str:
    """Return the larger distance of a value to the ends of its interval, in percent of the value: `±1.2%`."""
    value: float | None = getattr(row, name)
    if value is None or name not in row.intervals:
        return ""
    low, high = row.intervals[name]
    margin = 100 * max(high - value, value - low) / value
    return f"{before}±{margin:.1f}%" if margin < 9.95 else f"{before}±{margin:,.0f}%"


def _scenario_lines(row: BenchRow) -> list[str]:
    where = f"batch {row.batch}, {counted(row.settings.threads, 'thread')}"
    lines = []
    if row.server is not None:
        s = row.server
        lines.append(
            f"{where}: {s.achieved_per_s:,.1f} of {s.asked_per_s:,.1f} requests per second, busy {s.utilization:.0%}; "
            f"service p50 {micro(s.service_p50_us)} us, wait p50 {micro(s.wait_p50_us)}, p99 {micro(s.wait_p99_us)} us"
        )
    if row.gpu_calls is not None:
        c = row.gpu_calls
        graph = ", CUDA graph" if row.settings.cuda_graph else ""
        lines.append(
            f"batch {row.batch}{graph}: copy in {micro(c.copy_in_us)}, compute {micro(c.compute_us)}, copy out "
            f"{micro(c.copy_out_us)} us as blocking calls; all in one {micro(c.whole_us)} us ({c.sum_over_whole:.0%})"
        )
    return lines


def _verbose_lines(rows: Sequence[BenchRow]) -> list[str]:
    lines = [
        f"{ENGINES.get(row.engine, row.engine)} {row.variant}, batch {row.batch}, {counted(row.settings.threads, 'thread')}: "
        f"p99.9 {micro(row.p999_us)} us{_margin(row, 'p999_us', ' ')}"
        for row in rows
        if row.p999_us is not None
    ]
    outliers, samples = sum(row.outliers for row in rows), sum(row.samples for row in rows)
    return [*lines, f"{outliers:,} of {samples:,} runs are far outliers; all are counted"]


def _thread_line(advice: ThreadAdvice) -> str:
    start = f"{advice.variant}, batch {advice.batch}: --threads {advice.threads} is recommended"
    if advice.threads == 1:
        return f"{start}: no other count is clearly faster"
    low, high = (1 / end for end in reversed(advice.interval))
    return f"{start}: {ratio_words(advice.ratio)} than 1 thread (99 % interval {low:.2f}x to {high:.2f}x)"


def _profile_table(report: BenchReport) -> Table:
    table = Table(box=box.SIMPLE, title="time by operator, from onnxruntime's profile (which itself costs time)")
    for heading in ("operator", "provider", "us a run", "share"):
        table.add_column(heading, justify="right" if heading in {"us a run", "share"} else "left")
    for line in report.profile:
        table.add_row(line.operator, line.provider, micro(line.us_per_run), f"{line.share:.1%}")
    return table
