"""`mnist-edge variants`: the kinds of variants that `export --variant` makes."""

from __future__ import annotations

from mnist_edge.cli.options import Json


def variants(*, json: Json = False) -> None:
    """List the kinds of variants: name, precision, what each must prove, and when to use it."""
    from mnist_edge.reporting.console import emit
    from mnist_edge.reporting.tables.variants import variants_table
    from mnist_edge.workflow.variants import list_variants

    emit(list_variants(), json, variants_table)
