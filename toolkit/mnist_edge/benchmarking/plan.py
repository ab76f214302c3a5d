"""Turn a plan of `bench` into the list of candidates to time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnist_edge.benchmarking.c_library import c_libraries
from mnist_edge.benchmarking.feeds import require_finite_outputs
from mnist_edge.bundle.folder import Bundle, is_bundle, load_bundle
from mnist_edge.bundle.golden import GOLDEN
from mnist_edge.bundle.manifest import MANIFEST, read_manifest
from mnist_edge.contract import MAX_DROP, PIXELS, PYTORCH, Normalization, ProviderName, TargetName
from mnist_edge.cpus import require_cpus
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.files import sha256_file
from mnist_edge.records.benchmark import EXACT, Candidate, OutputRequirement, Scenario
from mnist_edge.records.bundle import Variant
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.trial import free_bytes, require_bounded
from mnist_edge.verification.requirement import with_tf32

ROUNDS = 5
SECONDS = 0.4
SINGLE_STREAM = Scenario(seconds=SECONDS)
WITHOUT_BASELINE = {"server", "idle"}
"""Scenarios in which PyTorch is not timed: they measure waiting more than the engine."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to time: a bundle folder or one ONNX file, and the settings to time it with.

    Attributes:
        variants: names of a bundle's variants; empty for all.
        batches: None for 1, or for the batch size of a fixed-batch model.
        threads: sizes of the thread pool on the CPU; None for that of the variant's recorded settings, one where none
            were recorded. A candidate on a GPU is timed once, with one thread.
        rounds: fresh processes for each candidate.
        normalization: of the pixels of a float model that does not state it.
        tf32: on CUDA, round the factors of fp32 products to 10 bits.
        target: also time what is generated for it, on one thread of the CPU.
    """

    model: Path
    variants: tuple[str, ...] = ()
    provider: ProviderName = "cpu"
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    rounds: int = ROUNDS
    scenario: Scenario = SINGLE_STREAM
    normalization: Normalization | None = None
    tf32: bool = False
    target: TargetName | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedPlan:
    """The candidates of a plan.

    Attributes:
        golden: the golden file of a bundle; None where inputs are random.
        weights_sha256: of the weights that the bundle was exported from, or of the file.
        notes: what the reader of the results should know, one sentence each.
    """

    candidates: tuple[Candidate, ...]
    golden: Path | None
    weights_sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Model:
    """One file to time, and on which engine."""

    engine: str
    variant: str
    file: Path
    requirement: OutputRequirement = EXACT
    recorded: SessionSettings = DEFAULT_SETTINGS


def recorded_provider(model: Path) -> ProviderName:
    """Return the provider that the bundle's choice was tuned for; the CPU for any other model."""
    if not is_bundle(model):
        return "cpu"
    manifest = read_manifest(model / MANIFEST)  # the files themselves are checked when the plan is resolved
    return next((one.settings.provider for one in manifest.variants if one.name == manifest.choice), "cpu")


def resolve_plan(plan: Plan) -> ResolvedPlan:
    """List the candidates of a plan.

    Raises:
        UnavailableError: there is no such model.
        BadFileError: the bundle was changed, or the file is no model that can be timed.
        UsageError: a batch size that a fixed-batch model does not take; a variant that the bundle lacks.
    """
    if plan.model.is_dir():
        return _resolve_bundle(plan)
    return _resolve_file(plan)


def _require_memory(batches: Sequence[int], image_bytes: int) -> None:
    """Raise UnavailableError for a batch whose input alone, twice, is more than the free memory."""
    free = free_bytes()
    for batch in batches:
        if 2 * batch * image_bytes > free:
            raise UnavailableError(
                f"batch {batch} needs {batch * image_bytes / 1e9:,.1f} GB for one input, and {free / 1e9:,.1f} GB of memory are free",
                hint=f"--batch {max(1, free // (8 * image_bytes))} or less",
            )


def _resolve_bundle(plan: Plan) -> ResolvedPlan:
    _require_memory(plan.batches or (), 4 * PIXELS)
    bundle = load_bundle(plan.model)
    variants = bundle.select(plan.variants)
    models = [
        _Model(
            engine="onnxruntime",
            variant=variant.name,
            file=bundle.file(variant),
            requirement=requirement_of(variant),
            recorded=variant.settings,
        )
        for variant in variants
    ]
    for model in models:
        require_bounded(model.file)
    notes: list[str] = []
    if plan.target is not None:
        libraries, notes = c_libraries(bundle, variants, plan.target)
        models += [
            _Model(engine=plan.target, variant=variant.name, file=library, requirement=requirement_of(variant))
            for variant, library in libraries
        ]
    baseline, note = _baseline(bundle, plan.scenario)
    return ResolvedPlan(
        candidates=_candidates(plan, models, baseline, plan.batches or (1,)),
        golden=plan.model / GOLDEN,
        weights_sha256=bundle.manifest.weights_sha256,
        notes=(*([note] if note else []), *notes),
    )


def _resolve_file(plan: Plan) -> ResolvedPlan:
    if plan.variants or plan.target is not None:
        option = "--variant" if plan.variants else "--target"
        raise UsageError(f"{plan.model} is one model, not a bundle with variants", hint=f"leave {option} out")
    classifier = open_classifier(plan.model, SessionSettings(provider=plan.provider), normalization=plan.normalization)
    require_finite_outputs(classifier)
    fixed = classifier.fixed_batch
    batches = plan.batches or (fixed or 1,)
    if fixed and set(batches) != {fixed}:
        raise UsageError(f"{plan.model} takes only batch {fixed}", hint=f"--batch {fixed}")
    _require_memory(batches, 8 * math.prod(classifier.input.image_shape))
    model = _Model(engine="onnxruntime", variant=plan.model.stem, file=plan.model)
    return ResolvedPlan(
        candidates=_candidates(plan, [model], None, batches),
        golden=None,
        weights_sha256=sha256_file(plan.model),
        notes=("inputs are random: an ONNX file has no golden inputs, so its predictions were not checked",),
    )


def _baseline(bundle: Bundle, scenario: Scenario) -> tuple[_Model | None, str]:
    """Return the file whose weights PyTorch is timed with, or a note why PyTorch is not timed.

    There is one baseline for all variants: the network in fp32 that the recorded outputs belong to, also where only
    other variants were selected.
    """
    if scenario.name in WITHOUT_BASELINE:
        return None, f"PyTorch is not timed in scenario {scenario.name}"
    if not (find_spec("torch") and find_spec("onnx")):
        return None, "PyTorch is not installed here: no baseline, no ratio"
    for variant in bundle.manifest.variants:
        if (variant.precision, variant.requirement, variant.reference) == ("fp32", "exact", PYTORCH):
            return _Model(engine="torch", variant=variant.name, file=bundle.file(variant)), ""
    return None, "the bundle has no fp32 variant whose weights PyTorch can read: no baseline, no ratio"


def _candidates(
    plan: Plan, models: Sequence[_Model], baseline: _Model | None, batches: Sequence[int]
) -> tuple[Candidate, ...]:
    """Combine models with batch sizes, session settings and scenarios; the baseline comes last in each group.

    On CUDA each model is also timed as a captured CUDA graph, and on the CPU for comparison. The thread pool
    belongs to the CPU: candidates on a GPU do not multiply by `threads`.
    """
    scenarios = [plan.scenario]
    if plan.scenario.name == "idle":  # the same model without pauses, for comparison
        scenarios.append(dataclasses.replace(plan.scenario, name="single-stream", gap_ms=None))
    groups = _groups(plan, models, baseline)
    require_cpus(max(settings.threads for group in groups for _, settings in group))
    return tuple(
        _candidate(model, batch, scenario, settings)
        for scenario in scenarios
        for batch in batches
        for group in groups
        for model, settings in group
    )


def _groups(
    plan: Plan, models: Sequence[_Model], baseline: _Model | None
) -> list[list[tuple[_Model, SessionSettings]]]:
    """Return what is timed side by side, with the settings of each; the baseline once for each provider and thread count."""
    in_sessions = [model for model in models if model.engine == "onnxruntime"]
    generated = [(model, SessionSettings()) for model in models if model.engine != "onnxruntime"]

    def with_recorded(provider: ProviderName, **named: Any) -> list[tuple[_Model, SessionSettings]]:
        return [(model, model.recorded.with_named({"provider": provider, **named})) for model in in_sessions]

    counts = [{}] if plan.threads is None else [{"threads": threads} for threads in plan.threads]
    on_cpu = [with_recorded("cpu", **count) for count in counts]
    on_cpu[0] += generated
    if plan.provider == "cpu":
        return [group + _baselines(baseline, group) for group in on_cpu]
    own = with_recorded(plan.provider, tf32=plan.tf32, cuda_graph=False)
    graphs = with_recorded(plan.provider, tf32=plan.tf32, cuda_graph=True)
    return [own + _baselines(baseline, own), graphs, *on_cpu]


def _baselines(
    baseline: _Model | None, group: Sequence[tuple[_Model, SessionSettings]]
) -> list[tuple[_Model, SessionSettings]]:
    """Return the baseline with the settings that it shares with the candidates of a group, each once."""
    if baseline is None:
        return []
    shared = [SessionSettings(provider=one.provider, threads=one.threads, tf32=one.tf32) for _, one in group]
    return [(baseline, settings) for settings in dict.fromkeys(shared)]


def requirement_of(variant: Variant) -> OutputRequirement:
    """Return what the outputs of a variant's timed runs must meet."""
    return OutputRequirement(
        kind=variant.requirement, precision=variant.precision, max_accuracy_drop=variant.max_accuracy_drop or 0.0
    )


def _with_tf32(requirement: OutputRequirement) -> OutputRequirement:
    kind, precision = with_tf32(requirement.kind, requirement.precision)
    drop = MAX_DROP if requirement.kind == "exact" else requirement.max_accuracy_drop
    return OutputRequirement(kind=kind, precision=precision, max_accuracy_drop=drop)


def _candidate(model: _Model, batch: int, scenario: Scenario, settings: SessionSettings) -> Candidate:
    return Candidate(
        engine=model.engine,
        variant=model.variant,
        file=model.file,
        batch=batch,
        scenario=scenario,
        settings=settings,
        requirement=_with_tf32(model.requirement) if settings.tf32 else model.requirement,
    )
