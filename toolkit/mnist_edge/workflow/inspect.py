"""Report what an ONNX file or a bundle holds, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import UsageError
from mnist_edge.model_kind import require_model_kind

if TYPE_CHECKING:
    from mnist_edge.records.inspection import InspectReport


def inspect(model: str | Path, *, variant: str | None = None) -> InspectReport:
    """Return inputs, outputs, layers, parameters, multiplications, operators and metadata of a model.

    Args:
        model: any ONNX file, or a bundle folder.
        variant: of the bundle, by name; None reads all of them.

    Returns:
        The report of the file or of the variant; a `BundleInspectReport` of a whole bundle.

    Raises:
        BadFileError: no ONNX model, a damaged bundle, or a graph that takes too much time or memory to read.
        UnavailableError: there is no such file, or the package onnx is not installed.
        UsageError: a variant that the bundle does not have, or a variant of a file.
    """
    from mnist_edge.inspection.process import inspect_file

    path = Path(model)
    if require_model_kind(path, "onnx", "bundle", "run folder") == "onnx":
        if variant is not None:
            raise UsageError("--variant names a model of a bundle", hint="leave --variant out, or give a bundle folder")
        return inspect_file(path)
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.records.inspection import BundleInspectReport
    from mnist_edge.workflow.variants import select_variants

    bundle = load_bundle(path)
    chosen = select_variants(bundle, [variant] if variant else [])
    reports = {one.name: inspect_file(bundle.file(one)) for one in chosen}
    if variant is not None:
        return reports[variant]
    first = bundle.chosen().name
    return BundleInspectReport(**{**vars(reports[first]), "model": path}, variant=first, variants=reports)
