"""Build kinds of variants and add those that pass to a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mnist_edge.exporting.pipeline import add_variant
from mnist_edge.exporting.proof import joined
from mnist_edge.exporting.variants.kind import VariantContext, VariantKind
from mnist_edge.records.bundle import VARIANT_ERRORS, ExportReport, FailedVariant


def add_kind(folder: Path, kind: VariantKind, context: VariantContext) -> ExportReport:
    """Build one variant and add it to a bundle, which is replaced atomically.

    Raises:
        CheckFailedError: it does not meet its requirement; the bundle stays.
        UsageError, BadFileError, UnavailableError: as `VariantKind.build` and `add_variant` raise them.
    """
    context.notify(f"building {kind.name}")
    built = kind.build(context)
    context.notify(f"comparing {kind.name} with its reference")
    selection = built.selection or context.selection
    return add_variant(
        folder,
        built.spec,
        built.model,
        context.dataset,
        made=built.made,
        selection=selection,
        outputs_sha256=built.outputs_sha256,
    )


def try_kind(folder: Path, kind: VariantKind, context: VariantContext) -> ExportReport | FailedVariant:
    """Build one variant and add it to a bundle, or return why that failed.

    Raises:
        UnavailableError, StoppedError: the environment lacks something, or a signal came.
    """
    try:
        return add_kind(folder, kind, context)
    except VARIANT_ERRORS as error:
        context.notify(f"{kind.name} failed: {error.message}")
        return FailedVariant.of(kind.name, error)


def add_kinds(report: ExportReport, kinds: Sequence[VariantKind], context: VariantContext) -> ExportReport:
    """Add variants to the bundle that `report` is about; one that fails leaves the others.

    Returns:
        The report on the bundle with all that passed, and why the others failed.

    Raises:
        UnavailableError, StoppedError: the environment lacks something, or a signal came; what passed before stays.
    """
    failed: list[FailedVariant] = []
    for kind in kinds:
        added = try_kind(report.bundle, kind, context)
        if isinstance(added, FailedVariant):
            failed.append(added)
        else:
            report = _merged(report, added)
    return dataclasses.replace(report, failed=tuple(failed))


def _merged(before: ExportReport, added: ExportReport) -> ExportReport:
    """Return the report on a bundle after another variant was added: comparisons of both, the newer ones first-hand."""
    newer = {entry.name for entry in added.parity.variants}
    older = tuple(entry for entry in before.parity.variants if entry.name not in newer)
    parity = joined([dataclasses.replace(before.parity, variants=older), added.parity])
    return dataclasses.replace(added, parity=parity, dropped=before.dropped)
