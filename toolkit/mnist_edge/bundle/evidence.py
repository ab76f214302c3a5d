"""What the results beside a bundle show about it today: results of a changed model or test set are not taken.

A result is current for a variant if the variant's file has the SHA-256 that it had when the command ran. Comparisons and
accuracy also need the same golden.npz, which names the test set, and training the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_edge.bundle.folder import Bundle
from mnist_edge.bundle.results import AGAIN, read_results, results_folder
from mnist_edge.contract import PYTORCH, allowed_drop
from mnist_edge.errors import BadFileError
from mnist_edge.pixels import Images
from mnist_edge.records.benchmark import BenchReport
from mnist_edge.records.bundle import ExportReport
from mnist_edge.records.evaluation import EvalReport
from mnist_edge.records.evidence import (
    Evaluated,
    Evidence,
    Failure,
    Measured,
    Missing,
    Source,
    Stale,
    Timed,
    Trained,
    Tuned,
    Verified,
)
from mnist_edge.records.result import StoredResult
from mnist_edge.records.tuning import TuneReport
from mnist_edge.records.verification import ParityReport, VariantParity
from mnist_edge.validation import validated

CHANGED = "measured before the bundle changed"
OTHER_VERSION = "written by another version of mnist-edge"
ERROR = "mnist-edge/error/1"


def collect(bundle: Bundle) -> Evidence:
    """Read the results of a bundle; the newest of each kind counts.

    Raises:
        BadFileError: a result is damaged, or holds what no command writes.
        UnavailableError: a result cannot be read.
    """
    evidence = Evidence()
    for name, stored in read_results(bundle.folder).items():
        path = results_folder(bundle.folder) / f"{name}.json"
        source = Source(file=path.name, command=stored.command, time=stored.time)
        schema = str(stored.document.get("schema"))
        if schema == ERROR:
            _add_failure(evidence, bundle, stored, source)
            continue
        reader = next((_READERS[record] for record in _READERS if record.schema == schema), None)
        if reader is not None:
            reader(evidence, bundle, stored, source, path)
        elif schema.rpartition("/")[0] in {record.schema.rpartition("/")[0] for record in _READERS}:
            evidence.stale.append(Stale(source=source, about="all of it", reason=OTHER_VERSION))
        else:
            raise BadFileError(f"{path} holds a document of schema {schema[:80]!r}, which is no result", hint=AGAIN)
    return evidence


def _add_failure(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source) -> None:
    error = stored.document.get("error")
    message = str(error.get("message", "")) if isinstance(error, dict) else ""
    if all(_is_current(bundle, stored, name) for name in stored.state.variants):
        evidence.failures[source.file] = Failure(source=source, message=message)
        evidence.sources.append(source)
    else:
        evidence.stale.append(Stale(source=source, about="a failed check", reason=CHANGED))


def _is_current(bundle: Bundle, stored: StoredResult, name: str, *, golden: bool = True) -> bool:
    """Whether a variant is still that of a result; with `golden`, and its reference outputs and test set too."""
    now = {variant.name: variant.sha256 for variant in bundle.manifest.variants}
    same = name in now and stored.state.variants.get(name) == now[name]
    return same and (not golden or stored.state.golden_sha256 == bundle.manifest.golden_sha256)


def _is_compared_now(bundle: Bundle, stored: StoredResult, name: str) -> bool:
    """Whether a variant, and the one that it is compared with, are still those of a result."""
    if not _is_current(bundle, stored, name):
        return False
    reference = bundle.variant(name).reference
    return reference == PYTORCH or _is_current(bundle, stored, reference)


def _finish(
    evidence: Evidence, source: Source, outdated: list[str], *, shown: bool, machine: Measured | None = None
) -> None:
    """Add the source of what is shown, and a note on what is not."""
    if outdated:
        about = ", ".join(dict.fromkeys(outdated))
        evidence.stale.append(Stale(source=source, about=about, reason=CHANGED))
    if shown:
        evidence.sources.append(source)
        evidence.machines += [] if machine is None else [machine]


def _add_export(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source, path: Path) -> None:
    report = _document(ExportReport, stored, path)
    current = stored.state.weights_sha256 == bundle.manifest.weights_sha256
    if current:
        evidence.trained = Trained(source=source, facts=report.training, failed=report.failed)
    _finish(evidence, source, [] if current else ["training"], shown=current)


def _add_verify(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source, path: Path) -> None:
    report = _document(ParityReport, stored, path)
    current = [one for one in report.variants if _is_compared_now(bundle, stored, one.name)]
    for parity in current:
        runtime = runtime_of(report, parity)
        allowed = None if parity.accuracy is None else parity.accuracy.max_drop
        evidence.verified[parity.name, runtime, parity.images, allowed] = Verified(
            source=source,
            runtime=runtime,
            reference=parity.reference if parity.reference != "pytorch" else report.reference,
            test_set=report.test_set,
            parity=parity,
        )
    outdated = [one.name for one in report.variants if one not in current]
    machine = _machine(source, report.host, report.environment)
    _finish(evidence, source, outdated, shown=bool(current), machine=machine)


def runtime_of(report: ParityReport, parity: VariantParity) -> str:
    """Return what ran a variant, where, in one phrase: `onnxruntime, cpu, 1 thread`, `generated C on cortex-m3`."""
    if report.outputs is not None:
        found = f"recorded outputs {report.outputs}"
    elif report.target is not None:
        found = f"{TARGET_WORDS[report.target]} on {report.device}"
    else:
        found = f"onnxruntime, {parity.settings.described if parity.settings else 'settings unknown'}"
    return found if report.host is None else f"{found}, on {report.host}"


TARGET_WORDS = {
    "c": "generated C",
    "web": "page with WebAssembly",
    "triton": "Triton repository",
    "onnxruntime": "onnxruntime",
    "onnxruntime-web": "onnxruntime-web",
}


def _add_eval(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source, path: Path) -> None:
    report = _document(EvalReport, stored, path)
    classes = len(bundle.manifest.labels)
    rows = [report.per_class, report.confusion, *report.confusion]
    if any(len(row) != classes for row in rows) or any(
        not (0 <= one.label < classes and 0 <= one.predicted < classes) for one in report.mistakes
    ):
        raise BadFileError(f"{path}: it is not about {classes} classes", hint=AGAIN)
    name = report.variant or ""
    current = _is_current(bundle, stored, name) and _same_temperature(bundle, report)
    if current and report.test_sha256 != bundle.golden.test_sha256.tobytes().hex():
        evidence.stale.append(Stale(source=source, about=name, reason="measured on another test set than the bundle's"))
        return
    if current:
        evidence.evaluated[name] = Evaluated(source=source, report=report)
    _finish(evidence, source, [] if current else [name], shown=current)


def _same_temperature(bundle: Bundle, report: EvalReport) -> bool:
    """Whether calibration was measured with the temperature that the bundle states; only logits have one."""
    return report.outputs != "logits" or report.temperature == bundle.variant(report.variant or "").temperature


def _add_bench(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source, path: Path) -> None:
    report = _document(BenchReport, stored, path)
    outdated, shown = [], False
    for row in report.results:
        if min([row.p50_us, *row.quantiles_us]) <= 0:
            raise BadFileError(f"{path}: a latency is not above 0", hint=AGAIN)
        if not _is_current(bundle, stored, row.variant, golden=False):
            outdated.append(row.variant)
            continue
        shown = True
        key = (row.engine, row.variant, row.batch, row.scenario, row.settings, report.host)
        evidence.timed[key] = Timed(source=source, host=report.host, row=row)
    evidence.notes |= dict.fromkeys(report.notes if shown else ())
    machine = _machine(source, report.host, report.environment)
    _finish(evidence, source, outdated, shown=shown, machine=machine)


def _add_tune(evidence: Evidence, bundle: Bundle, stored: StoredResult, source: Source, path: Path) -> None:
    report = _document(TuneReport, stored, path)
    if any(one.p50_us is not None and one.p50_us <= 0 for one in report.candidates):
        raise BadFileError(f"{path}: a latency is not above 0", hint=AGAIN)
    outdated = [one.variant for one in report.candidates if not _is_current(bundle, stored, one.variant, golden=False)]
    choice = None if report.choice is None else report.choice.variant
    if choice is not None and choice != bundle.manifest.choice:
        outdated.append("the choice")
    if not outdated:
        evidence.tuned = Tuned(source=source, report=report)
    machine = _machine(source, None, report.environment)
    _finish(evidence, source, outdated, shown=not outdated, machine=machine)


def _machine(source: Source, host: str | None, environment: dict[str, Any] | None) -> Measured | None:
    return None if environment is None else Measured(source=source, host=host, environment=environment)


def _document(record: type[Any], stored: StoredResult, path: Path) -> Any:
    content = {key: value for key, value in stored.document.items() if key != "schema"}
    return validated(record, content, path, AGAIN)


_Reader = Callable[[Evidence, Bundle, StoredResult, Source, Path], None]
_READERS: dict[Any, _Reader] = {
    ExportReport: _add_export,
    ParityReport: _add_verify,
    EvalReport: _add_eval,
    BenchReport: _add_bench,
    TuneReport: _add_tune,
}


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What a report shows.

    Attributes:
        absent: what was not measured.
        images: the test images that `eval` got most wrong, by number, uint8 (28, 28); None where the test set is not
            available.
    """

    bundle: Bundle
    evidence: Evidence
    absent: tuple[Missing, ...]
    images: Mapping[int, Images] | None


def missing(bundle: Bundle, evidence: Evidence) -> Iterator[Missing]:
    """Yield what was not measured of the bundle as it is."""
    folder = str(bundle.folder)
    if evidence.trained is None:
        yield Missing(what="how it was trained", command=("mnist-edge", "export", "--run", "RUN", "--output", folder))
    names = [variant.name for variant in bundle.manifest.variants]
    chosen = bundle.chosen().name
    if chosen not in evidence.evaluated:
        words = ("mnist-edge", "eval", folder, "--variant", chosen)
        yield Missing(what=f"confusion matrix and calibration of {chosen}", command=words)
    for verb, what, found in (
        ("verify", "predictions", {name for name, *_ in evidence.verified}),
        ("bench", "latency", {timed.row.variant for timed in evidence.timed.values()}),
    ):
        absent = [name for name in names if name not in found]
        if absent:
            options = [] if len(absent) == len(names) else [word for name in absent for word in ("--variant", name)]
            if verb == "verify":
                options += allowed_drop(max(100 * (bundle.variant(name).max_accuracy_drop or 0) for name in absent))
            yield Missing(what=f"{what} of {', '.join(absent)}", command=("mnist-edge", verb, folder, *options))
    if evidence.tuned is None:
        yield Missing(what="the best variant for this device", command=("mnist-edge", "tune", folder))
