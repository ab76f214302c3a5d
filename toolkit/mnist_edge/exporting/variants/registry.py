"""The kinds of variants, in the order in which they are listed and built."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_edge.errors import UsageError
from mnist_edge.exporting.variants import exact, fp16, int8, int8_dynamic, pruned, student, student_exact
from mnist_edge.exporting.variants.kind import VariantKind

KINDS: tuple[VariantKind, ...] = (
    fp16.KIND,
    int8.KIND,
    int8_dynamic.KIND,
    *exact.KINDS_BY_BITS.values(),
    pruned.KIND,
    *student.KINDS,
    *student_exact.KINDS,
)
ALL = "all"


def select_kinds(names: Sequence[str]) -> tuple[VariantKind, ...]:
    """Return the kinds of these names, each once and in the order of the registry; `all` stands for every kind.

    Raises:
        UsageError: a name is not known.
    """
    known = [kind.name for kind in KINDS]
    for name in names:
        if name not in {*known, ALL}:
            raise UsageError(f"no kind of variant is called {name!r}", hint=f"one of {', '.join(known)}, {ALL}")
    return tuple(kind for kind in KINDS if ALL in names or kind.name in names)
