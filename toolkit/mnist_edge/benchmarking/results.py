"""Read the result files of `bench --output`, and identify the rows in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import require_regular_file
from mnist_edge.records.benchmark import BenchReport, BenchRow, Candidate
from mnist_edge.validation import validated

MAX_BYTES = 16 * 2**20
"""A row takes about 2 kB: room for thousands."""
READABLE = ("mnist-edge/bench/4", "mnist-edge/bench/5", "mnist-edge/bench/6")
"""Older schemas: they lack fields whose defaults are what their rows were timed with."""
_HINT = "mnist-edge bench --output FILE writes one"
_AGAIN = "run mnist-edge bench --output again"


def read_result(path: Path) -> BenchReport:
    """Read what `bench --output` wrote.

    Raises:
        UnavailableError: the file does not exist or cannot be read.
        BadFileError: not a regular file, too large, not JSON, another schema, fields that are invalid or
            contradict each other.
    """
    if not path.exists():
        raise UnavailableError(f"{path} does not exist", hint=_HINT)
    require_regular_file(path, "a result of bench", limit=MAX_BYTES, hint=_HINT)
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON", hint=_HINT) from error
    return checked_result(content, path)


def checked_result(content: Any, path: Path) -> BenchReport:
    """Return the report that parsed JSON holds.

    Args:
        content: of the document.
        path: where it comes from, for the error.

    Raises:
        BadFileError: another schema, fields that are invalid or contradict each other.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema not in (BenchReport.schema, *READABLE):
        found = f"{schema!r}" if isinstance(schema, str | None) else f"a {type(schema).__name__}"
        raise BadFileError(f"{path} has schema {found[:80]}, this version reads {BenchReport.schema!r}", hint=_AGAIN)
    report = validated(BenchReport, content, path, _AGAIN)
    if not isinstance(report.environment.get("versions"), dict):
        raise BadFileError(f"{path}: environment.versions is not a table of package versions", hint=_AGAIN)
    seen = set()
    for row in report.results:
        contradiction = _contradiction(row)
        if contradiction:
            raise BadFileError(f"{path}: {describe(row)}: {contradiction}", hint=_AGAIN)
        if row_key(row) in seen:
            raise BadFileError(f"{path} has {describe(row)} twice", hint=_AGAIN)
        seen.add(row_key(row))
    return report


def row_key(row: BenchRow | Candidate) -> tuple[object, ...]:
    """Return what identifies a row within one result, and matches it with that of another."""
    return row.engine, row.variant, row.batch, row.scenario, row.settings


def describe(row: BenchRow | Candidate) -> str:
    """Return a row's identity in words."""
    extras = "".join(f", {extra}" for extra in row.settings.extras)
    scenario = "" if row.scenario.name == "single-stream" else f", {row.scenario.described}"
    threads = f"{row.settings.threads} thread{'' if row.settings.threads == 1 else 's'}"
    return f"{row.engine} {row.variant} on {row.settings.provider}{extras}{scenario}, batch {row.batch}, {threads}"


def process_medians(row: BenchRow) -> list[float]:
    """Return the p50 of each process in microseconds."""
    return [process.p50_us for process in row.processes]


def _contradiction(row: BenchRow) -> str | None:
    """Return why no measurement can have produced this row, or None."""
    if not row.processes:
        return "it has no processes"
    figures = [row.p50_us, row.p99_us, *process_medians(row)]
    wrong = [figure for figure in figures if figure is not None and not 0 < figure < math.inf]
    if wrong:
        return f"a percentile is {wrong[0]:g} us, expected a positive time"
    runs = sum(process.runs for process in row.processes)
    if row.samples != runs:
        return f"it has {row.samples} samples, but its {len(row.processes)} processes have {runs} runs"
    medians = process_medians(row)
    if not min(medians) <= row.p50_us <= max(medians):  # the median of a union lies between those of its parts
        return f"its p50 of {row.p50_us:g} us is outside the range of its processes' p50"
    if row.p99_us is not None and row.p99_us < row.p50_us:
        return f"its p99 of {row.p99_us:g} us is below its p50"
    return None
