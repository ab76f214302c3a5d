"""Tell noise from news: two sets of timing processes held against each other."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.benchmarking.rounds import OnProcess, checked_environment, run_rounds
from mnist_edge.benchmarking.row import make_row
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.records.benchmark import BenchReport, BenchRow, Candidate
from mnist_edge.records.comparison import CompareReport, CompareRow, Effect, SelfCheckReport
from mnist_edge.stats import ratio_of_means, upper_bound95
from mnist_edge.validation import validated

LEVEL = 0.99
"""Of the interval that decides."""
MIN_PROCESSES = 5
"""A bootstrap over fewer has too few draws to be wide enough. Simulated on equal lognormal speeds, the
interval cries "different" in 9 % of cases with 3 processes a side, 1.8 % with 5, 0.6 % with 10."""
COMPARISONS = 40
FALSE_POSITIVES = 0.05
"""Share of false alarms that `self_check` lets pass."""
ENVIRONMENT_FIELDS = ("cpu", "cpu_features", "machine", "system", "cores", "affinity", "governor", "python")
Timed = Sequence[BenchRow] | Sequence[Candidate]
"""What was timed, or is to be."""
_HINT = "mnist-edge bench --output FILE writes one"


def effect(baseline: Sequence[float], candidate: Sequence[float]) -> Effect:
    """Compare two sets of processes by their p50, a median already, averaged over processes.

    Args:
        baseline, candidate: p50 of each process, microseconds.
    """
    ratio, low, high = ratio_of_means(baseline, candidate, LEVEL)
    verdict = "slower" if low > 1 else "faster" if high < 1 else "undecided"
    return Effect(ratio=ratio, low=low, high=high, verdict=verdict)  # type: ignore[arg-type]


def read_result(path: Path) -> BenchReport:
    """Read what `bench --output` wrote.

    Raises:
        UnavailableError: there is no such file.
        BadFileError: not JSON, another schema, fields that do not fit, or that contradict each other.
    """
    if not path.is_file():
        raise UnavailableError(f"{path} does not exist", hint=_HINT)
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON", hint=_HINT) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != BenchReport.schema:
        raise BadFileError(
            f"{path} has schema {schema!r}, this version compares {BenchReport.schema!r}", hint="time it again"
        )
    report = validated(BenchReport, content, path, "time it again")
    if not isinstance(report.environment.get("versions"), dict):
        raise BadFileError(f"{path} does not say which versions it was timed with", hint="time it again")
    for row in report.results:
        wrong = _contradiction(row)
        if wrong:
            raise BadFileError(f"{path}: {_name(row)}: {wrong}", hint="time it again")
    twice = [row for place, row in enumerate(report.results) if _key(row) in map(_key, report.results[:place])]
    if twice:
        raise BadFileError(f"{path} has {_name(twice[0])} twice", hint="time it again")
    return report


def _contradiction(row: BenchRow) -> str | None:
    """What no timing could have written, in words."""
    if not row.processes:
        return "no process timed it"
    figures = [row.p50_us, row.p99_us, *(process.p50_us for process in row.processes)]
    if not all(0 < figure < math.inf for figure in figures if figure is not None):
        return "a percentile is no time"
    if row.samples != sum(process.runs for process in row.processes):
        return f"its {row.samples} samples are not those of its {len(row.processes)} processes"
    medians = _medians(row)
    if not min(medians) <= row.p50_us <= max(medians):  # the median of a whole lies among those of its parts
        return f"its p50 of {row.p50_us:g} us is not among those of its processes"
    if row.p99_us is not None and row.p99_us < row.p50_us:
        return f"its p99 of {row.p99_us:g} us is below its p50"
    return None


def require_processes(count: int, what: str) -> None:
    """Raise UsageError where there are too few processes to tell noise from news."""
    if count < MIN_PROCESSES:
        raise UsageError(
            f"{what} has {count} processes a candidate, a comparison needs {MIN_PROCESSES}",
            hint=f"bench --rounds {MIN_PROCESSES} or more",
        )


def compare(
    baseline: BenchReport,
    candidate: BenchReport,
    names: tuple[str, str],
    *,
    tolerance: float,
    anyway: bool = False,
) -> CompareReport:
    """Hold two results against each other, row by row.

    Args:
        names: of the two, for the report.
        tolerance: slowdown that is let pass, a fraction of 1.
        anyway: compare although the surroundings differ, and say so in every row.

    Raises:
        UsageError: the surroundings, the models or the settings of a scenario differ, no row is in both, or
            one has too few processes.
    """
    differences = _require_alike(
        baseline, candidate.results, candidate.environment, candidate.weights_sha256, names, anyway=anyway
    )
    partners = _partners(baseline.results, candidate.results, names, anyway=anyway)
    rows, added = [], []
    for row, other in zip(candidate.results, partners, strict=True):
        if other is None:
            added.append(_name(row))
            continue
        for one, name in ((other, names[0]), (row, names[1])):
            require_processes(len(one.processes), name)
        rows.append(_compare_row(other, row, tolerance, (*differences, *_settings_differ(other, row))))
    lost = _lost(baseline.results, partners)
    return CompareReport(
        baseline=names[0],
        candidate=names[1],
        tolerance=tolerance,
        rows=tuple(rows),
        lost=tuple(lost),
        added=tuple(added),
        passed=not lost and not any(row.beyond_tolerance for row in rows),
    )


def require_comparable(baseline: BenchReport, plan: Plan, names: tuple[str, str], *, anyway: bool = False) -> None:
    """Before anything is timed, refuse a plan whose result `compare` would refuse, or fail for what it lacks.

    Raises:
        UsageError: as `compare`.
        CheckFailedError: the baseline has rows that the plan does not time.
    """
    require_processes(plan.rounds, names[1])
    environment, _ = checked_environment(plan)
    resolved = resolve_plan(plan)
    _require_alike(baseline, resolved.candidates, environment, resolved.weights_sha256, names, anyway=anyway)
    partners = _partners(baseline.results, resolved.candidates, names, anyway=anyway)
    for other in partners:
        if other is not None:
            require_processes(len(other.processes), names[0])
    lost = _lost(baseline.results, partners)
    if lost:
        raise CheckFailedError(
            f"{names[1]} would lack what {names[0]} has: {'; '.join(lost)}",
            hint="time the same batches, threads, provider and engines",
        )


def _require_alike(
    baseline: BenchReport,
    timed: Timed,
    environment: dict[str, Any],
    weights_sha256: str,
    names: tuple[str, str],
    *,
    anyway: bool,
) -> tuple[str, ...]:
    """Return what differs around the two, in words; without `anyway` that is refused."""
    differences = (
        *_environment_differences(baseline, timed, environment),
        *(["they are of different models"] if baseline.weights_sha256 != weights_sha256 else []),
        *_scenarios_differ(baseline.results, timed),
    )
    if differences and not anyway:
        raise UsageError(
            f"{names[0]} and {names[1]} cannot be compared: {'; '.join(differences)}",
            hint="--anyway compares all the same, and says so in every line",
        )
    return differences


def _partners(
    baseline: Sequence[BenchRow], timed: Timed, names: tuple[str, str], *, anyway: bool
) -> list[BenchRow | None]:
    """For each thing timed the row of the baseline under the same settings; refused where there is none at all."""
    exactly = {_key(row): row for row in baseline}
    loosely = {_loose_key(row): row for row in baseline} if anyway else {}
    partners = [exactly.get(_key(row)) or loosely.get(_loose_key(row)) for row in timed]
    if not any(partners):
        raise UsageError(
            f"{names[0]} and {names[1]} have no row in common: "
            f"{'; '.join(_name(row) for row in (*baseline[:1], *timed[:1]))}",
            hint="time the same batch, threads, provider and scenario",
        )
    return partners


def _lost(baseline: Sequence[BenchRow], partners: Sequence[BenchRow | None]) -> list[str]:
    found = {_key(row) for row in partners if row is not None}
    return [_name(row) for row in baseline if _key(row) not in found]


def self_check(
    plan: Plan, comparisons: int = COMPARISONS, on_process: OnProcess = lambda _done, _all: None
) -> SelfCheckReport:
    """Time a plan's first candidate against itself and count how often that is called a difference (A/A).

    Both sides of a comparison are taken in turn, in an order drawn anew, as two results would be at best.
    """
    require_processes(plan.rounds, "this plan")
    environment, _ = checked_environment(plan)
    resolved = resolve_plan(plan)
    one = resolved.candidates[0]
    twice = [one, dataclasses.replace(one, variant=f"{one.variant} again")]
    effects = []
    each = plan.rounds * len(twice)
    for turn in range(comparisons):
        answers, _ = run_rounds(
            plan,
            resolved,
            twice,
            random.Random(turn).randrange(2**30),  # noqa: S311 - no secret depends on it
            _shifted(on_process, turn * each, comparisons * each),
        )
        effects.append(effect(*(_medians(make_row(side, answers[side])) for side in twice)))
    alarms = sum(found.verdict != "undecided" for found in effects)
    return SelfCheckReport(
        model=str(plan.model),
        environment=environment,
        comparisons=comparisons,
        rounds=plan.rounds,
        false_positives=alarms,
        upper95=upper_bound95(alarms, comparisons),
        effects=tuple(effects),
        passed=alarms <= FALSE_POSITIVES * comparisons,
    )


def _shifted(on_process: OnProcess, before: int, everything: int) -> OnProcess:
    return lambda done, _all: on_process(before + done, everything)


def _compare_row(baseline: BenchRow, candidate: BenchRow, tolerance: float, differences: tuple[str, ...]) -> CompareRow:
    found = effect(_medians(baseline), _medians(candidate))
    return CompareRow(
        what=_name(candidate),
        baseline_p50_us=baseline.p50_us,
        candidate_p50_us=candidate.p50_us,
        baseline_p99_us=baseline.p99_us,
        candidate_p99_us=candidate.p99_us,
        effect=found,
        beyond_tolerance=found.verdict == "slower" and found.ratio > 1 + tolerance,
        not_ruled_out=found.high - 1 if found.high > 1 + tolerance else None,
        differences=differences,
    )


def _medians(row: BenchRow) -> list[float]:
    return [process.p50_us for process in row.processes]


def _environment_differences(baseline: BenchReport, timed: Timed, other: dict[str, Any]) -> list[str]:
    one = baseline.environment
    found = [
        f"{name}: {one.get(name)} and {other.get(name)}"
        for name in ENVIRONMENT_FIELDS
        if one.get(name) != other.get(name)
    ]
    engines = {row.engine for row in (*baseline.results, *timed)}
    versions = [result.get("versions") or {} for result in (one, other)]
    for package in sorted(set(versions[0]) | set(versions[1])):
        if package == "torch" and "torch" not in engines:
            continue
        if versions[0].get(package) != versions[1].get(package):
            found.append(f"{package} {versions[0].get(package)} and {versions[1].get(package)}")
    return found


def _scenarios_differ(baseline: Sequence[BenchRow], timed: Timed) -> list[str]:
    """Scenarios of one name with other settings: a queue of 10 seconds is longer than one of 2."""
    found = []
    for name in sorted({row.scenario.name for row in baseline} & {row.scenario.name for row in timed}):
        sides = [{row.scenario for row in side if row.scenario.name == name} for side in (baseline, timed)]
        if sides[0] != sides[1]:
            told = [", ".join(sorted(f"{one.described} for {one.seconds:g} s" for one in side)) for side in sides]
            found.append(f"scenario: {told[0]} and {told[1]}")
    return found


def _settings_differ(one: BenchRow, other: BenchRow) -> tuple[str, ...]:
    return tuple(
        f"{name}: {first} and {second}"
        for name, first, second in (
            ("settings", one.settings.described, other.settings.described),
            ("bytes", one.bytes, other.bytes),
        )
        if first != second
    )


def _key(row: BenchRow | Candidate) -> tuple[object, ...]:
    return row.engine, row.variant, row.batch, row.scenario, row.settings


def _loose_key(row: BenchRow | Candidate) -> tuple[object, ...]:
    return row.engine, row.variant, row.batch, row.scenario.name


def _name(row: BenchRow | Candidate) -> str:
    graph = ", CUDA graph" if row.settings.cuda_graph else ""
    scenario = "" if row.scenario.name == "single-stream" else f", {row.scenario.described}"
    return f"{row.engine} {row.variant} on {row.settings.provider}{graph}{scenario}, batch {row.batch}, {row.settings.threads} thread(s)"
