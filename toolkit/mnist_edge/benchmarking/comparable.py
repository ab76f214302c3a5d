"""Check that two results are comparable, and match their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.benchmarking.results import describe, row_key
from mnist_edge.benchmarking.rounds import checked_environment
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.records.benchmark import BenchReport, BenchRow, Candidate

MIN_PROCESSES = 5
"""Processes a side. The level of Welch's t holds from 2 on; the limit is there for its power. Simulated with a
spread of 2 % between processes (benchmarks/compare_power.py), a slowdown of 10 % is found in 6 % of comparisons
with 2 processes a side, 57 % with 3, 95 % with 4 and over 99 % with 5."""
ENVIRONMENT_FIELDS = ("cpu", "cpu_features", "machine", "system", "cores", "affinity", "governor", "python")
GPU_FIELDS = ("name", "driver")
"""Of the GPU; its clocks vary from run to run."""
Timed = Sequence[BenchRow] | Sequence[Candidate]
"""Rows that were timed, or candidates that are to be."""


def require_processes(count: int, name: str) -> None:
    """Raise UsageError if a row has too few processes for a comparison."""
    if count < MIN_PROCESSES:
        raise UsageError(
            f"{name} has {count} processes per row, a comparison needs at least {MIN_PROCESSES}",
            hint=f"time it with bench --rounds {MIN_PROCESSES} or more",
        )


def require_comparable(baseline: BenchReport, plan: Plan, names: tuple[str, str], *, anyway: bool = False) -> None:
    """Raise, before anything is timed, where `compare` would refuse the plan's result or miss a row in it.

    Raises:
        UsageError: as `compare`.
        CheckFailedError: the baseline has rows that the plan does not time.
    """
    require_processes(plan.rounds, names[1])
    environment, _ = checked_environment(plan)
    resolved = resolve_plan(plan)
    find_differences(baseline, resolved.candidates, environment, resolved.weights_sha256, names, anyway=anyway)
    partners = match_rows(baseline.results, resolved.candidates, names, anyway=anyway)
    for other in partners:
        if other is not None:
            require_processes(len(other.processes), names[0])
    missing = missing_rows(baseline.results, partners)
    if missing:
        raise CheckFailedError(
            f"{names[1]} would lack rows that {names[0]} has: {'; '.join(missing)}",
            hint="time the same batches, threads, provider and engines",
        )


def find_differences(
    baseline: BenchReport,
    timed: Timed,
    environment: dict[str, Any],
    weights_sha256: str,
    names: tuple[str, str],
    *,
    anyway: bool,
) -> tuple[str, ...]:
    """Return what differs between two results other than their times, one phrase each.

    Raises:
        UsageError: something differs, and not `anyway`.
    """
    differences = (
        *_environment_differences(baseline, timed, environment),
        *_model_differences(baseline, timed, weights_sha256),
        *_scenario_differences(baseline.results, timed),
    )
    if differences and not anyway:
        raise UsageError(
            f"{names[0]} and {names[1]} cannot be compared: {'; '.join(differences)}",
            hint="--anyway compares them and lists the differences",
        )
    return differences


def match_rows(
    baseline: Sequence[BenchRow], timed: Timed, names: tuple[str, str], *, anyway: bool
) -> list[BenchRow | None]:
    """Return for each row or candidate the row of the baseline to compare it with, or None.

    Args:
        baseline: rows to choose from.
        timed: rows or candidates to be matched.
        names: of the two results, for errors.
        anyway: where no row has the same settings, match on engine, variant, batch and kind of scenario; variants
            of different names match too if each result has only one.

    Raises:
        UsageError: no row has a match.
    """
    exact = {row_key(row): row for row in baseline}
    renamed = _renamed(baseline, timed)
    loose = {_loose_key(row, renamed): row for row in baseline} if anyway else {}
    partners = [exact.get(row_key(row)) or loose.get(_loose_key(row, renamed)) for row in timed]
    if not any(partners):
        raise UsageError(
            f"{names[0]} and {names[1]} have no row in common: {_disjoint(baseline, timed)}",
            hint="time the same batch, threads, provider, engine, variant and scenario",
        )
    return partners


def missing_rows(baseline: Sequence[BenchRow], partners: Sequence[BenchRow | None]) -> list[str]:
    """Return the rows of the baseline that match none of the other result, in words."""
    found = {row_key(row) for row in partners if row is not None}
    return [describe(row) for row in baseline if row_key(row) not in found]


def row_differences(baseline: BenchRow, candidate: BenchRow) -> tuple[str, ...]:
    """Return what differs between two matched rows other than their times."""
    pairs = (
        ("settings", baseline.settings.described, candidate.settings.described),
        ("bytes", baseline.bytes, candidate.bytes),
    )
    return tuple(f"{name}: {one} and {other}" for name, one, other in pairs if one != other)


def _environment_differences(baseline: BenchReport, timed: Timed, environment: dict[str, Any]) -> list[str]:
    sides = (baseline.environment, environment)
    rows = (*baseline.results, *timed)
    found = [
        f"{name}: {sides[0].get(name)} and {sides[1].get(name)}"
        for name in ENVIRONMENT_FIELDS
        if sides[0].get(name) != sides[1].get(name)
    ]
    if any(row.settings.provider != "cpu" for row in rows):
        gpus: list[dict[str, Any]] = [gpu if isinstance(gpu := side.get("gpu"), dict) else {} for side in sides]
        found += [
            f"GPU {name}: {gpus[0].get(name)} and {gpus[1].get(name)}"
            for name in GPU_FIELDS
            if gpus[0].get(name) != gpus[1].get(name)
        ]
    engines = {row.engine for row in rows}
    versions = [side.get("versions") or {} for side in sides]
    for package in sorted(set(versions[0]) | set(versions[1])):
        if package == "torch" and "torch" not in engines:
            continue
        if versions[0].get(package) != versions[1].get(package):
            found.append(f"{package} {versions[0].get(package)} and {versions[1].get(package)}")
    return found


def _model_differences(baseline: BenchReport, timed: Timed, weights_sha256: str) -> list[str]:
    renamed = _renamed(baseline.results, timed)
    found = [f"variant: {renamed[0]} and {renamed[1]}"] if renamed else []
    if baseline.weights_sha256 != weights_sha256:
        found.append(f"weights: sha256 {baseline.weights_sha256[:12]} and {weights_sha256[:12]}")
    return found


def _scenario_differences(baseline: Sequence[BenchRow], timed: Timed) -> list[str]:
    """Return scenarios with the same name and other settings: in 10 seconds a queue grows longer than in 2."""
    found = []
    for name in sorted({row.scenario.name for row in baseline} & {row.scenario.name for row in timed}):
        sides = [{row.scenario for row in side if row.scenario.name == name} for side in (baseline, timed)]
        if sides[0] != sides[1]:
            texts = [", ".join(sorted(f"{one.described} for {one.seconds:g} s" for one in side)) for side in sides]
            found.append(f"scenario: {texts[0]} and {texts[1]}")
    return found


def _renamed(baseline: Sequence[BenchRow], timed: Timed) -> tuple[str, str] | None:
    """Return the names of both variants where each side has one and they differ."""
    variants = [{row.variant for row in side} for side in (baseline, timed)]
    if all(len(side) == 1 for side in variants) and variants[0] != variants[1]:
        return variants[0].pop(), variants[1].pop()
    return None


def _loose_key(row: BenchRow | Candidate, renamed: tuple[str, str] | None) -> tuple[object, ...]:
    return row.engine, None if renamed else row.variant, row.batch, row.scenario.name


def _disjoint(baseline: Sequence[BenchRow], timed: Timed) -> str:
    """Return which settings have no value in common, or an example of each side if all have one."""
    found = []
    for name in ("engine", "variant", "batch", "threads", "provider", "settings", "scenario"):
        sides = [{_setting(row, name) for row in side} for side in (baseline, timed)]
        if not sides[0] & sides[1]:
            found.append(f"{name} {' and '.join(', '.join(sorted(side)) for side in sides)}")
    return "; ".join(found) or "; ".join(describe(row) for row in (*baseline[:1], *timed[:1]))


def _setting(row: BenchRow | Candidate, name: str) -> str:
    if name == "scenario":
        return row.scenario.described
    if name == "settings":
        return ", ".join(row.settings.extras) or "default"
    return str(getattr(row.settings if name in {"threads", "provider"} else row, name))
