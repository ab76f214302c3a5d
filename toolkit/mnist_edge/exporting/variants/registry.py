"""The kinds of variants, in the order in which they are listed and built."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_edge.errors import UsageError
from mnist_edge.exporting.variants import fp16, int8, int8_dynamic, pruned, student
from mnist_edge.exporting.variants.kind import VariantKind

KINDS: tuple[VariantKind, ...] = (fp16.KIND, int8.KIND, int8_dynamic.KIND, pruned.KIND, *student.KINDS)
ALL = "all"
RESERVED = {"int8-exact": "integer arithmetic that is the same on every CPU is not built yet"}
"""Names that a later version makes, and why this one does not."""


def select_kinds(names: Sequence[str]) -> tuple[VariantKind, ...]:
    """Return the kinds of these names, each once and in the order of the registry; `all` stands for every kind.

    Raises:
        UsageError: a name is not known, or is reserved.
    """
    known = [kind.name for kind in KINDS]
    for name in names:
        if name in RESERVED:
            raise UsageError(f"--variant {name}: {RESERVED[name]}", hint=f"one of {', '.join(known)}, {ALL}")
        if name not in {*known, ALL}:
            raise UsageError(f"no kind of variant is called {name!r}", hint=f"one of {', '.join(known)}, {ALL}")
    return tuple(kind for kind in KINDS if ALL in names or kind.name in names)
