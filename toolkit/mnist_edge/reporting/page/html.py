"""Write the report of a bundle: one HTML file without scripts, under a policy that allows its own style and no request."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mnist_edge.bundle.evidence import ReportContent
from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.results import results_folder
from mnist_edge.errors import CheckFailedError
from mnist_edge.records.evidence import Evidence, Timed, Verified
from mnist_edge.records.tuning import TunedCandidate, TuneReport
from mnist_edge.reporting.escape import printable
from mnist_edge.reporting.page import figures
from mnist_edge.reporting.page.images import png_url
from mnist_edge.reporting.page.summary import (
    best_time,
    chosen_evaluation,
    commands,
    equal_bytes,
    order,
    verdict,
)
from mnist_edge.reporting.plots.pareto import drawable
from mnist_edge.reporting.tables.format import (
    bounded_share,
    counted,
    grouped,
    logit_error,
    micro,
    percent,
    ratio_words,
)
from mnist_edge.reporting.tables.tuning import best_of_variants, described, headline

PACKAGE = "mnist_edge.reporting.page"
MAX_BYTES = 1_000_000
LONGEST_TEXT = 2000
SHOWN_FIGURES = 8
"""Latency figures of one page."""
SHOWN_ROWS = 400
"""Rows of one table: the files of the results hold all."""


@dataclass(frozen=True, kw_only=True)
class TimedGroup:
    """Timings that can be compared: one host, scenario and batch."""

    title: str
    rows: tuple[Timed, ...]
    figure: Markup | None


def write_html(content: ReportContent) -> bytes:
    """Return the HTML file; the same content gives the same bytes.

    Raises:
        CheckFailedError: it would be larger than MAX_BYTES.
    """
    style = (files(PACKAGE) / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(style),  # noqa: S704 - a file of this package
            policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            **_values(content),
        )
    )
    data: bytes = page.encode(errors="replace")
    if len(data) > MAX_BYTES:
        raise CheckFailedError(
            f"the report would have {len(data):,} bytes, at most {MAX_BYTES:,} are meant to be sent around",
            hint=f"delete results that are not needed from {results_folder(content.bundle.folder)}",
        )
    return data


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mnist_edge.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "micro": micro,
        "number": grouped,
        "share": bounded_share,
        "error": logit_error,
        "short": lambda value: "-" if value is None else f"{value:.3g}",
        "whole": lambda value: "-" if value is None else f"{value:,.0f}",
        "ratio_words": ratio_words,
        "shell": shlex.join,
        "counted": counted,
        "png": png_url,
    }
    return environment


def shown(value: object) -> object:
    """Return a value as it is put into a page: text from files without control characters, and not longer than a page."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}...")


def _values(content: ReportContent) -> dict[str, Any]:
    bundle, evidence = content.bundle, content.evidence
    evaluated = chosen_evaluation(bundle, evidence)
    tuned = evidence.tuned
    return {
        "bundle": bundle,
        "manifest": bundle.manifest,
        "evidence": evidence,
        "absent": content.absent,
        "chosen": bundle.chosen(),
        "verdict": verdict(bundle, evidence),
        "best_time": best_time(bundle, evidence),
        "verified": sorted(
            evidence.verified.values(),
            key=lambda one: (order(bundle, one.parity.name), not one.runtime.startswith("onnxruntime,"), one.runtime),
        )[:SHOWN_ROWS],
        "certified": _certified(bundle, evidence),
        "equal_bytes": lambda one: equal_bytes(bundle, one),
        "evaluated": evaluated,
        "other_evaluations": [one for one in evidence.evaluated.values() if one is not evaluated],
        "heat": lambda report, count: _heat(report.confusion, count),
        "images": content.images,
        "groups": _groups(bundle, evidence),
        "tuned": tuned,
        "candidates": [] if tuned is None else best_of_variants(tuned.report.candidates),
        "settings_tried": [] if tuned is None else _settings_tried(tuned.report),
        "drawn": [] if tuned is None else drawable(tuned.report),
        "headline": headline,
        "limits": described,
        "machines": _machines(evidence),
        "commands": commands(evidence),
        "figures": {
            "loss": None
            if not (evidence.trained and evidence.trained.facts)
            else figures.loss_figure(evidence.trained.facts),
            "reliability": None if evaluated is None else figures.reliability_figure(evaluated.report),
            "pareto": None if tuned is None else figures.pareto_figure(tuned.report),
        },
    }


def _settings_tried(report: TuneReport) -> list[TunedCandidate]:
    """Return the other settings of the chosen variant."""
    best = best_of_variants(report.candidates)
    chosen = None if report.choice is None else report.choice.variant
    return [one for one in report.candidates if one.variant == chosen and one not in best][:SHOWN_ROWS]


def _certified(bundle: Bundle, evidence: Evidence) -> list[Verified]:
    """Return one comparison for each variant and arithmetic that predictions were certified for."""
    found = {
        (one.parity.name, one.parity.certificate.arithmetic): one
        for one in evidence.verified.values()
        if one.parity.certificate is not None
    }
    return sorted(found.values(), key=lambda one: order(bundle, one.parity.name))


def _heat(confusion: Iterable[Iterable[int]], count: int) -> int:
    """Return the shade of a count of errors, 1 to 4, relative to the largest of its matrix."""
    largest = max((value for i, row in enumerate(confusion) for j, value in enumerate(row) if i != j), default=1)
    return min(4, 1 + 4 * count // (max(largest, 5) + 1))


def _groups(bundle: Bundle, evidence: Evidence) -> list[TimedGroup]:
    def key(one: Timed) -> tuple[str, str, int]:
        return one.host or "", one.row.scenario.described, one.row.batch

    rows = sorted(evidence.timed.values(), key=lambda one: (key(one), order(bundle, one.row.variant)))[:SHOWN_ROWS]
    found = []
    for number, ((host, scenario, batch), group) in enumerate(itertools.groupby(rows, key)):
        timed = tuple(sorted(group, key=lambda one: (not one.row.quantiles_us,)))
        where = f", on {host}" if host else ""
        found.append(
            TimedGroup(
                title=f"{scenario}, batch {batch}{where}",
                rows=timed,
                figure=figures.latency_figure([one.row for one in timed], f"latency-{number}")
                if number < SHOWN_FIGURES
                else None,
            )
        )
    return found


def _machines(evidence: Evidence) -> list[dict[str, Any]]:
    """Return each machine once, with the results that were measured there."""
    found: dict[str, dict[str, Any]] = {}
    for measured in evidence.machines:
        environment = measured.environment
        versions = environment.get("versions")
        shown = {
            "host": measured.host or "this machine",
            **{name: environment.get(name) for name in ("cpu", "available_cpus", "machine", "system", "python")},
            "gpu": environment["gpu"].get("name") if isinstance(environment.get("gpu"), dict) else None,
            "versions": versions if isinstance(versions, dict) else {},
        }
        entry = found.setdefault(str(shown), {**shown, "files": []})
        entry["files"].append(measured.source.file)
    return list(found.values())
