"""Choose the variant and the session settings that are best on this machine within limits."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import MAX_DROP, Objective, ProviderName
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.records.tuning import Limits
from mnist_edge.workflow.folders import RUNS

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.records.bundle import FailedVariant
    from mnist_edge.records.tuning import TuneReport
    from mnist_edge.tuning.journal import Journal
    from mnist_edge.workflow.build import Builder

THROUGHPUT_BATCH = 64
"""Images of a run where throughput is the objective: enough to use the vector units, few enough for a buffer."""


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """What to choose for.

    Attributes:
        bundle: folder of the bundle.
        batch: images of a run; None for 64 where throughput is the objective, otherwise 1.
        variants: names of the candidates, which are built where the bundle lacks them; without any, all that can
            meet the limits at a reasonable cost.
        run: that the bundle was exported from; None looks for it in `runs/`.
        dataset: the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        overwrite: do not use the timings of an earlier call.
        notify: takes one plain line about what happens.
    """

    bundle: Path
    limits: Limits
    objective: Objective = "latency"
    provider: ProviderName = "cpu"
    batch: int | None = None
    variants: tuple[str, ...] = ()
    run: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    overwrite: bool = False
    notify: Callable[[str], None] = field(default=lambda _line: None)


def tune(request: TuneRequest) -> TuneReport:
    """Build what is missing, time variants and settings, choose, confirm the choice, and write it into the manifest.

    Work of an earlier call that was stopped is not repeated.

    Returns:
        The report; without a choice where no candidate meets the limits. The manifest is then as it was.

    Raises:
        UsageError: limits that contradict each other; a variant that nothing makes.
        UnavailableError: no such provider; the bundle or the folder of timings is in use; no memory.
        BadFileError: the bundle or the journal is damaged.
        CheckFailedError: the choice does not pass on the test set.
    """
    from mnist_edge.benchmarking.environment import environment
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.bundle.publish import staging
    from mnist_edge.records.tuning import TuneReport
    from mnist_edge.runtime.session import require_provider
    from mnist_edge.tuning.choose import require_consistent
    from mnist_edge.tuning.profiles import profile_candidates
    from mnist_edge.tuning.ranking import rank
    from mnist_edge.tuning.search import Question, Search
    from mnist_edge.tuning.timing import Stopwatch
    from mnist_edge.workflow.confirm import confirm

    started = time.monotonic()
    require_provider(request.provider)
    bundle = load_bundle(request.bundle)
    with staging(request.bundle):
        pass  # in use or not writable: now, not when all is timed
    sizes = {variant.name: variant.bytes for variant in bundle.manifest.variants}
    named = {name: sizes[name] for name in request.variants} if set(request.variants) <= set(sizes) else {}
    require_consistent(request.limits, named)
    with _journal(request) as journal:
        not_built, notes = _build(request, bundle, journal)
        bundle = load_bundle(request.bundle)
        found = environment()
        batch = request.batch or (THROUGHPUT_BATCH if request.objective == "throughput" else 1)
        stopwatch = Stopwatch(bundle, journal, request.objective, batch, found)
        question = Question(
            bundle=bundle,
            variants=_names(request, bundle),
            limits=request.limits,
            objective=request.objective,
            provider=request.provider,
            batch=batch,
        )
        request.notify(f"timing {len(question.variants)} variants and their settings in fresh processes")
        search = Search(question, stopwatch, request.notify)
        search.run()
        request.notify("profiling")
        profiles = profile_candidates(search, journal, found)
        choice = None if search.chosen is None else confirm(request, search)
    return TuneReport(
        bundle=request.bundle,
        objective=request.objective,
        provider=request.provider,
        batch=batch,
        limits=request.limits,
        environment=found,
        choice=choice,
        candidates=rank(search, profiles, found),
        not_built=tuple(not_built),
        profiles={entry.variant: lines for entry, lines in profiles.items() if not entry.changes},
        processes=stopwatch.processes,
        seconds=time.monotonic() - started,
        resumed=stopwatch.reused > 0,
        notes=(*notes, *search.notes),
    )


def study_folder(bundle: Path) -> Path:
    """Return the folder in which the timings of a bundle are kept."""
    return RUNS / f"tune-{bundle.resolve().name}"


@contextlib.contextmanager
def _journal(request: TuneRequest) -> Iterator[Journal]:
    """Open the journal of finished work, for this process alone."""
    from mnist_edge.files import ensure_folder, locked
    from mnist_edge.tuning.journal import JOURNAL, Journal

    folder = ensure_folder(study_folder(request.bundle))
    with locked(folder):
        if request.overwrite:
            (folder / JOURNAL).unlink(missing_ok=True)
        yield Journal(folder / JOURNAL)


def _names(request: TuneRequest, bundle: Bundle) -> tuple[str, ...]:
    """Return the names of the candidates that the bundle holds.

    Raises:
        UnavailableError: it holds none of those that were asked for.
    """
    present = [variant.name for variant in bundle.manifest.variants]
    names = tuple(name for name in present if not request.variants or name in request.variants)
    if not names:
        raise UnavailableError(
            f"{request.bundle} holds none of {', '.join(request.variants)}, and none could be built",
            hint=f"--variant {present[0]}",
        )
    return names


def _build(request: TuneRequest, bundle: Bundle, journal: Journal) -> tuple[list[FailedVariant], list[str]]:
    """Build the variants that the bundle lacks; return those that failed, and a note where nothing can be built.

    Raises:
        UsageError: a variant is named that nothing makes.
        UnavailableError: a variant is named that cannot be built here.
    """
    from mnist_edge.workflow.build import known_kinds, open_builder

    present = [variant.name for variant in bundle.manifest.variants]
    kinds = known_kinds()
    unknown = [name for name in request.variants if name not in present and kinds and name not in kinds]
    if unknown:
        known = [*present, *(kind for kind in kinds if kind not in present)]
        raise UsageError(f"no variant is called {unknown[0]!r}", hint=f"one of {', '.join(known)}")
    absent = [name for name in request.variants if name not in present]
    nothing_named = request.variants and not absent
    if nothing_named or (kinds and next(_to_build(request), None) is None):
        return [], []
    try:
        builder = open_builder(
            bundle,
            run=request.run,
            dataset=request.dataset,
            data_dir=request.data_dir,
            max_accuracy_drop=max(request.limits.max_accuracy_drop, MAX_DROP),
            notify=request.notify,
        )
    except UnavailableError as error:
        if absent or request.run is not None:
            raise
        return [], [f"only the variants of the bundle are timed: {error.message} ({error.hint})"]
    failed = [_build_once(request, journal, builder, name) for name in _to_build(request)]
    return [one for one in failed if one is not None], []


def _to_build(request: TuneRequest) -> Iterator[str]:
    """Yield the kinds that the bundle lacks; of students, unless they were named, only until one in it meets the limits.

    The bundle is read again before each student, as the one before may have been built meanwhile.
    """
    from mnist_edge.workflow.build import wanted_kinds

    others, students = wanted_kinds(request.variants, request.objective)
    yield from [name for name in others if _meets(request, name) is None]
    for name in students:
        if _meets(request, name) is None:
            yield name
        if _meets(request, name) and not request.variants:
            return


def _meets(request: TuneRequest, name: str) -> bool | None:
    """Return whether a variant meets the limits of accuracy and size; None where the bundle does not hold it."""
    from mnist_edge.bundle.manifest import MANIFEST, read_manifest
    from mnist_edge.tuning.choose import variant_misses
    from mnist_edge.tuning.search import FP32

    variants = {variant.name: variant for variant in read_manifest(request.bundle / MANIFEST).variants}
    if name not in variants:
        return None
    fp32 = variants[FP32].selection_accuracy if FP32 in variants else None
    return not variant_misses(variants[name], fp32, request.limits)


def _build_once(request: TuneRequest, journal: Journal, builder: Builder, name: str) -> FailedVariant | None:
    """Build a variant, unless an earlier call has found that it fails."""
    from mnist_edge.bundle.manifest import MANIFEST, read_manifest
    from mnist_edge.records.bundle import FailedVariant

    manifest = read_manifest(request.bundle / MANIFEST)
    needs = {
        "build": name,
        "weights": manifest.weights_sha256,
        "golden": manifest.golden_sha256,
        "versions": manifest.versions,
        "max_accuracy_drop": max(request.limits.max_accuracy_drop, MAX_DROP),
    }
    failed = journal.get(FailedVariant, needs)
    if failed is None:
        failed = builder.build(name)
        if failed is not None:
            journal.add(needs, dataclasses.asdict(failed))
    return failed
