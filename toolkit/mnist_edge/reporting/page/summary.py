"""What a report shows in short: the variant to deploy, the verdict, and what it has no figure of."""

from __future__ import annotations

from pathlib import Path

from mnist_edge.bundle.evidence import ReportContent
from mnist_edge.bundle.folder import Bundle
from mnist_edge.records.evidence import Evaluated, Evidence, Timed, Verified
from mnist_edge.records.handover import ReportFormat, ReportReport, Unshown, Verdict
from mnist_edge.reporting.tables.format import counted


def summarise(content: ReportContent, output: Path, format: ReportFormat, size: int) -> ReportReport:  # noqa: A002
    """Return the record of a report that was written."""
    evidence = content.evidence
    result, reason = verdict(content.bundle, evidence)
    stale = [Unshown(what=one.about, why=f"stale, {one.reason}", command=one.source.command) for one in evidence.stale]
    absent = [Unshown(what=one.what, why="not measured", command=one.command) for one in content.absent]
    return ReportReport(
        bundle=content.bundle.folder,
        output=output,
        format=format,
        bytes=size,
        verdict=result,
        reason=reason,
        included=tuple(dict.fromkeys(source.file for source in evidence.sources)),
        unshown=(*stale, *absent),
    )


def order(bundle: Bundle, name: str) -> int:
    """Return the place of a variant in its bundle, to sort by."""
    return [variant.name for variant in bundle.manifest.variants].index(name)


def chosen_evaluation(bundle: Bundle, evidence: Evidence) -> Evaluated | None:
    """Return the evaluation of the chosen variant, or of the first in the bundle that has one."""
    names = [bundle.chosen().name, *(variant.name for variant in bundle.manifest.variants)]
    return next((evidence.evaluated[name] for name in names if name in evidence.evaluated), None)


def verdict(bundle: Bundle, evidence: Evidence) -> tuple[Verdict, str]:
    """Return `passed`, `failed` or `incomplete`, and why, in a sentence."""
    broken = [one for one in evidence.verified.values() if not one.parity.passed]
    if broken:
        return "failed", "; ".join(f"{one.parity.name} on {one.runtime}: {one.parity.reason}" for one in broken)
    if evidence.failures:
        return "failed", "; ".join(failure.message for failure in evidence.failures.values())
    names = [variant.name for variant in bundle.manifest.variants]
    absent = [name for name in names if all(key[0] != name for key in evidence.verified)]
    if absent:
        return "incomplete", f"no current comparison of {', '.join(absent)}"
    return "passed", f"every variant met its requirement in {counted(len(evidence.verified), 'comparison')}"


def best_time(bundle: Bundle, evidence: Evidence) -> Timed | None:
    """Return the timing of the chosen variant at the smallest batch, with the settings of the manifest if there is one."""
    chosen = bundle.chosen()
    timed = [
        one for one in evidence.timed.values() if one.row.variant == chosen.name and one.row.engine == "onnxruntime"
    ]
    key = lambda one: (one.host is not None, one.row.settings != chosen.settings, one.row.batch)  # noqa: E731
    return min(timed, key=key, default=None)


def equal_bytes(bundle: Bundle, verified: Verified) -> bool:
    """Whether a runtime computed the logits that the manifest records, byte for byte."""
    recorded = bundle.variant(verified.parity.name).outputs_sha256
    return recorded is not None and verified.parity.outputs_sha256 in {recorded.test, recorded.golden}


def commands(evidence: Evidence) -> list[tuple[str, ...]]:
    """Return the commands that led to what is shown, in order and each once."""
    trained = evidence.trained.facts.command if evidence.trained and evidence.trained.facts else ()
    exported = next((source.command for source in evidence.sources if source.command[1:2] == ("export",)), ())
    run = exported[exported.index("--run") + 1] if "--run" in exported[:-1] else ""
    if trained and run and not run.endswith(".safetensors"):  # otherwise export would not find what train writes
        trained = (*trained, "--run", run)
    found = [trained, *(source.command for source in sorted(evidence.sources, key=lambda source: source.time))]
    return list(dict.fromkeys(command for command in found if command))
