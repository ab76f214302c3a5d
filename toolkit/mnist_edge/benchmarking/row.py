"""Combine the processes of one candidate into one row: percentiles, intervals, ratios."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from mnist_edge.benchmarking.outputs import OutputCheck
from mnist_edge.benchmarking.process import ProcessResult
from mnist_edge.benchmarking.scenarios import QUERY_IMAGES
from mnist_edge.errors import CheckFailedError
from mnist_edge.records.benchmark import BenchRow, Candidate, GpuCalls, ProcessTiming, ServerFigures
from mnist_edge.stats import percentile, t_interval

SHARES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}
LEVEL = 0.95
PERCENTS = 100


def make_row(candidate: Candidate, results: Sequence[ProcessResult]) -> BenchRow:
    """Combine the processes of one candidate.

    Raises:
        CheckFailedError: the outputs of timed runs do not meet the variant's requirement.
    """
    outputs = _checked_outputs(candidate, [result.check for result in results if result.check is not None])
    groups = tuple(tuple(ns / 1000 for ns in result.run_ns) for result in results)
    times = [time for group in groups for time in group]
    percentiles = {name: percentile(times, share) for name, share in SHARES.items()}
    cold = [
        [getattr(result, part) / 1e6 for result in results] for part in ("process_ns", "session_ns", "first_run_ns")
    ]
    elapsed_s = sum(result.elapsed_ns for result in results) / 1e9
    images = max(candidate.batch, QUERY_IMAGES) if candidate.scenario.name == "multi-stream" else candidate.batch
    return BenchRow(
        engine=candidate.engine,
        variant=candidate.variant,
        batch=candidate.batch,
        scenario=candidate.scenario,
        settings=candidate.settings,
        processes=tuple(_process(group) for group in groups),
        samples=len(times),
        outliers=_outliers(times),
        p50_us=percentiles["p50_us"] or 0.0,
        p90_us=percentiles["p90_us"],
        p99_us=percentiles["p99_us"],
        p999_us=percentiles["p999_us"],
        intervals={
            name: t_interval(value, [_quantile(group, SHARES[name]) for group in groups], LEVEL)
            for name, value in percentiles.items()
            if value is not None and len(groups) > 1
        },
        throughput_per_s=images * len(times) / elapsed_s,
        cold_start_ms=statistics.median(sum(parts) for parts in zip(*cold, strict=True)),
        process_ms=statistics.median(cold[0]),
        session_ms=statistics.median(cold[1]),
        first_run_ms=statistics.median(cold[2]),
        peak_rss_mb=max(result.peak_rss_bytes for result in results) / 1e6,
        bytes=candidate.file.stat().st_size,
        ratio_to_torch=None,
        server=_server(candidate, results),
        gpu_calls=_gpu_calls(results),
        placement=results[0].placement,
        outputs=outputs,
        quantiles_us=_quantiles(times),
        run_us=groups,
    )


def _checked_outputs(candidate: Candidate, checks: Sequence[OutputCheck]) -> str:
    """Return in words how outputs were checked, or raise CheckFailedError with the first problem."""
    for check in checks:
        if check.problem:
            raise CheckFailedError(
                f"{candidate.variant} on {candidate.engine}: {check.problem}", hint="mnist-edge verify shows where"
            )
    images, flips = sum(check.images for check in checks), sum(check.flips for check in checks)
    if not images:
        return "random inputs, not checked"
    changed = f", {flips} changed, as {candidate.requirement.precision} may" if flips else ""
    return f"{images} predictions checked against golden.npz{changed}"


def with_ratios(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Add to each row its ratio to PyTorch's p50 at the same batch, settings and scenario, with a t interval.

    There is one PyTorch row for all variants.
    """
    baselines = {_settings(row): row for row in rows if row.engine == "torch"}
    return [_with_ratio(row, baselines[_settings(row)]) if _settings(row) in baselines else row for row in rows]


def _settings(row: BenchRow) -> tuple[object, ...]:
    return row.settings.provider, row.settings.threads, row.batch, row.scenario


def _with_ratio(row: BenchRow, baseline: BenchRow) -> BenchRow:
    ratio = row.p50_us / baseline.p50_us
    intervals = dict(row.intervals)
    if len(row.processes) > 1:
        # Both processes of a round ran close to each other: what slowed the machine then cancels in their ratio.
        rounds = zip(row.processes, baseline.processes, strict=True)
        ratios = [one.p50_us / other.p50_us for one, other in rounds]
        intervals["ratio_to_torch"] = t_interval(ratio, ratios, LEVEL)
    return dataclasses.replace(row, ratio_to_torch=ratio, intervals=intervals)


def _quantile(group: Sequence[float], share: float) -> float:
    """Return the empirical quantile of one process for any number of runs; `percentile` returns None for few."""
    return float(np.quantile(group, share, method="inverted_cdf"))


def _quantiles(times: Sequence[float]) -> tuple[float, ...]:
    """Return the latency at 1 %, 2 % ... 99 % of the samples; nothing where a percent is less than one sample."""
    if len(times) < PERCENTS:
        return ()
    shares = np.arange(1, PERCENTS) / PERCENTS
    return tuple(float(value) for value in np.quantile(times, shares, method="inverted_cdf"))


def _process(group: Sequence[float]) -> ProcessTiming:
    return ProcessTiming(
        runs=len(group),
        p50_us=percentile(group, 0.5) or 0.0,
        p90_us=percentile(group, 0.9),
        p99_us=percentile(group, 0.99),
    )


def _outliers(times: Sequence[float]) -> int:
    """Count the runs that are far out by Tukey's rule."""
    low, high = np.percentile(times, [25, 75])
    return int((np.asarray(times) > high + 3 * (high - low)).sum())


def _server(candidate: Candidate, results: Sequence[ProcessResult]) -> ServerFigures | None:
    rate = candidate.scenario.rate_per_s
    if candidate.scenario.name != "server" or rate is None:
        return None
    waits = [ns / 1000 for result in results for ns in result.wait_ns]
    service = [
        (run - wait) / 1000 for result in results for run, wait in zip(result.run_ns, result.wait_ns, strict=True)
    ]
    elapsed_us = sum(result.elapsed_ns for result in results) / 1000
    return ServerFigures(
        asked_per_s=rate,
        achieved_per_s=len(waits) / (elapsed_us / 1e6),
        service_p50_us=percentile(service, 0.5) or 0.0,
        wait_p50_us=percentile(waits, 0.5) or 0.0,
        wait_p99_us=percentile(waits, 0.99),
        utilization=sum(service) / elapsed_us,
    )


def _gpu_calls(results: Sequence[ProcessResult]) -> GpuCalls | None:
    """Return the median over processes of each call."""
    found = [dataclasses.astuple(result.gpu_calls) for result in results if result.gpu_calls is not None]
    if not found:
        return None
    names = [field.name for field in dataclasses.fields(GpuCalls)]
    return GpuCalls(**dict(zip(names, (float(np.median(call)) for call in zip(*found, strict=True)), strict=True)))
