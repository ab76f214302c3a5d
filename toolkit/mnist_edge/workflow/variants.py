"""List the kinds of variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_edge.records.bundle import VariantsReport


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
