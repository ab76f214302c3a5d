"""What `bench` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.benchmark import BenchReport, BenchRow
from mnist_edge.reporting.tables.format import micro, short_number


def bench_table(report: BenchReport) -> RenderableType:
    """One line a candidate; what all have in common above, the scenario's own figures, surroundings and notes below."""
    rows = report.results
    provider = rows[0].settings.provider
    alike = {
        "variant": len({row.variant for row in rows}) == 1,
        "threads": len({row.settings.threads for row in rows}) == 1,
    }
    common = [f"{report.model} on {provider}", rows[0].scenario.described]
    common += [rows[0].variant] if alike["variant"] else []
    common += [f"{rows[0].settings.threads} thread(s)"] if alike["threads"] else []
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("what", min_width=11)
    for heading in ("batch", *(() if alike["threads"] else ("threads",)), "p50"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", min_width=9)
    for heading in ("p99", "images/s", "cold\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of torch", justify="right", min_width=12)
    for row in rows:
        table.add_row(
            _what(row, provider, alike["variant"]),
            str(row.batch),
            *(() if alike["threads"] else (str(row.settings.threads),)),
            micro(row.p50_us),
            _interval(row, "p50_us"),
            micro(row.p99_us),
            f"{row.throughput_per_s:,.0f}",
            f"{row.cold_start_ms:,.0f}",
            "-" if row.ratio_to_torch is None else f"x{row.ratio_to_torch:.2f} {_interval(row, 'ratio_to_torch')}",
        )
    env = report.environment
    where = f"{env['cpu']}, {env['cores']} cores, load {env['load_1min']}; " + ", ".join(
        f"{name} {version}" for name, version in env["versions"].items()
    )
    lines = [line for row in rows for line in _scenario_lines(row)]
    outliers = sum(row.outliers for row in rows)
    lines.append(f"{outliers:,} of {sum(row.samples for row in rows):,} runs are far outliers; all are counted")
    if report.gpu_from_batch is not None:
        lines.append(f"the GPU beats the CPU from batch {report.gpu_from_batch}")
    heading = f"{', '.join(common)}: microseconds a request, [95 % interval]"
    return Group(heading, table, *([_profile_table(report)] if report.profile else []), *lines, where, *report.notes)


def _what(row: BenchRow, provider: str, alike: bool) -> str:
    """What a row is of, but for what the line above the table says."""
    extras = [f"on {row.settings.provider}"] if row.settings.provider != provider else []
    extras += ["CUDA graph"] if row.settings.cuda_graph else []
    extras += [row.scenario.described] if row.scenario.name != "single-stream" else []
    return ", ".join([row.engine if alike else f"{row.engine} {row.variant}", *extras])


def _interval(row: BenchRow, name: str) -> str:
    if name not in row.intervals or (name == "ratio_to_torch" and row.engine == "torch"):
        return ""
    low, high = row.intervals[name]
    return f"[{low:.2f}, {high:.2f}]" if name == "ratio_to_torch" else f"[{short_number(low)}, {short_number(high)}]"


def _scenario_lines(row: BenchRow) -> list[str]:
    lines = []
    if row.server is not None:
        s = row.server
        lines.append(
            f"batch {row.batch}, {row.settings.threads} thread(s): {s.achieved_per_s:,.1f} requests a second of {s.asked_per_s:,.1f} "
            f"asked, busy {s.utilization:.0%}; service p50 {micro(s.service_p50_us)} us, "
            f"wait p50 {micro(s.wait_p50_us)}, p99 {micro(s.wait_p99_us)} us"
        )
    if row.p999_us is not None:
        told = f"{row.engine} {row.variant}, batch {row.batch}, {row.settings.threads} thread(s)"
        lines.append(f"{told}: p99.9 {micro(row.p999_us)} {_interval(row, 'p999_us')} us")
    if row.transfers is not None:
        t = row.transfers
        lines.append(
            f"batch {row.batch}{', CUDA graph' if row.settings.cuda_graph else ''}: host to device {micro(t.host_to_device_us)}, "
            f"compute {micro(t.compute_us)}, device to host {micro(t.device_to_host_us)}, "
            f"whole {micro(t.whole_us)} us ({t.explained:.0%} explained)"
        )
    return lines


def _profile_table(report: BenchReport) -> Table:
    table = Table(box=box.SIMPLE, title="time by operator, from onnxruntime's profile (which itself costs time)")
    for heading in ("operator", "provider", "us a run", "share"):
        table.add_column(heading, justify="right" if heading in {"us a run", "share"} else "left")
    for line in report.profile:
        table.add_row(line.operator, line.provider, micro(line.us_per_run), f"{line.share:.1%}")
    return table
