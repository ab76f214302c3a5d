"""The kinds of variants: list them, and select those of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_edge.errors import UsageError
from mnist_edge.workflow.build import known_kinds

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.records.bundle import Variant, VariantsReport


def list_variants() -> VariantsReport:
    """Return every kind of variant that `export` makes, in the order in which it makes them."""
    from mnist_edge.exporting.variants.registry import KINDS
    from mnist_edge.records.bundle import KindRow, VariantsReport

    return VariantsReport(
        variants=tuple(
            KindRow(name=kind.name, precision=kind.precision, requirement=kind.requirement, advice=kind.advice)
            for kind in KINDS
        )
    )


def select_variants(bundle: Bundle, names: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants of these names; without names, all.

    Raises:
        UsageError: a name is not in the bundle; hints how to add it where it is that of a kind.
    """
    try:
        return bundle.select(names)
    except UsageError as error:
        known = {variant.name for variant in bundle.manifest.variants}
        missing = next(name for name in names if name not in known)
        if missing not in known_kinds():
            raise
        command = f"mnist-edge export --run RUN --output {bundle.folder} --variant {missing}"
        raise UsageError(error.message, hint=f"{command} adds it") from error
