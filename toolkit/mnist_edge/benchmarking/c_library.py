"""Shared libraries of the variants of a bundle, for as long as this process runs."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import TargetName
from mnist_edge.errors import UsageError
from mnist_edge.records.bundle import Variant
from mnist_edge.targets.c99.library import build_library
from mnist_edge.targets.c99.target import C99
from mnist_edge.targets.verify import expressible


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mnist-edge-libraries-")


def c_libraries(
    bundle: Bundle, variants: Sequence[Variant], target: TargetName
) -> tuple[list[tuple[Variant, Path]], list[str]]:
    """Generate and compile C for the variants that it can express.

    Returns:
        Each such variant with its shared library; and a note on each of the others.

    Raises:
        UsageError: another target, which is not timed here; no variant can be expressed.
        UnavailableError: there is no compiler.
    """
    if target != "c":
        raise UsageError(f"--target {target} is not timed", hint="--target c times generated C")
    notes: list[str] = []
    found = []
    for variant in expressible(bundle, variants, C99, notes.append):
        folder = Path(_place().name) / bundle.manifest.weights_sha256[:16] / variant.name
        C99.build(bundle, variant, folder)
        found.append((variant, build_library(folder)))
    return found, notes
