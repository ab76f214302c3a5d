"""Build the variants that `tune` lacks, from the run that the bundle was exported from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import Normalization, Objective
from mnist_edge.errors import MnistEdgeError, UnavailableError, UsageError
from mnist_edge.workflow.folders import RUNS

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.exporting.variants.kind import VariantContext
    from mnist_edge.records.bundle import FailedVariant
    from mnist_edge.training.state_dict import LoadedModel

Notify = Callable[[str], None]

FASTEST_FIRST = ("student-fast", "student-6k", "student-12k", "student-40k")
STUDENTS: dict[Objective, tuple[str, ...]] = {"size": ("student-3k", "student-6k", "student-12k", "student-40k")}
"""By objective, the students that are built one after the other until one meets the limits: each is better than the next
in what is asked for, and less accurate."""
NAMED_ONLY = ("int4-exact",)
"""Kinds that never pay, as `pruned` is smaller and `int8` faster: candidates only where they are named."""


class Builder:
    """Makes variants of one bundle."""

    def __init__(self, folder: Path, context: VariantContext) -> None:
        self._folder = folder
        self._context = context

    def build(self, name: str) -> FailedVariant | None:
        """Build a variant, prove it and add it to the bundle; return why that failed.

        Raises:
            UnavailableError, StoppedError: as the export raises them.
        """
        from mnist_edge.exporting.variants.add import try_kind
        from mnist_edge.exporting.variants.registry import select_kinds
        from mnist_edge.records.bundle import FailedVariant

        added = try_kind(self._folder, select_kinds([name])[0], self._context)
        return added if isinstance(added, FailedVariant) else None


def known_kinds() -> tuple[str, ...]:
    """Return the names of the kinds of variants, in the order in which they are built; none without PyTorch."""
    if not _can_build():
        return ()
    from mnist_edge.exporting.variants.registry import KINDS

    return tuple(kind.name for kind in KINDS)


def open_builder(
    bundle: Bundle,
    *,
    run: Path | None,
    dataset: str | None,
    data_dir: Path | None,
    max_accuracy_drop: float,
    notify: Notify = lambda _line: None,
) -> Builder:
    """Return what builds variants of a bundle.

    Args:
        bundle: to add them to.
        run: that it was exported from; None looks for it in `runs/`.
        dataset: the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        max_accuracy_drop: accuracy that a variant may lose, a fraction of 1.
        notify: takes one plain line about what happens.

    Raises:
        UnavailableError: PyTorch, the run or the dataset is not available.
        UsageError: the run has other weights than the bundle.
    """
    from mnist_edge.extras import install_hint

    if not _can_build():
        raise UnavailableError("PyTorch is not installed", hint=install_hint("train"))
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.exporting.pipeline import ExportRequest
    from mnist_edge.exporting.variants.kind import selection_split
    from mnist_edge.workflow.export import selection_recipe, variant_context

    loaded = _find_run(bundle, run)
    data = load_dataset(dataset or bundle.manifest.dataset, data_dir, notify)
    recipe = selection_recipe(loaded.recipe, notify)
    request = ExportRequest(
        model=loaded.network,
        dataset=data,
        output=bundle.folder,
        input=bundle.manifest.input,
        opset=bundle.manifest.opset,
        normalization=loaded.normalization,
        selection=selection_split(data, recipe),
    )
    return Builder(bundle.folder, variant_context(request, recipe, max_accuracy_drop, notify))


def _can_build() -> bool:
    return all(find_spec(name) is not None for name in ("torch", "onnx", "onnxscript"))


def _find_run(bundle: Bundle, run: Path | None) -> LoadedModel:
    from mnist_edge.exporting.graph import weights_sha256
    from mnist_edge.training.state_dict import read_model

    wanted = bundle.manifest.weights_sha256
    for path in _runs() if run is None else [run]:
        try:
            loaded = read_model(path, _trained_normalization(bundle))
        except MnistEdgeError:
            if run is not None:
                raise
            continue
        if weights_sha256(loaded.network) == wanted:
            return loaded
        if run is not None:
            raise UsageError(
                f"{run} has other weights than {bundle.folder}", hint="name the run that it was exported from"
            )
    raise UnavailableError(
        f"no run in {RUNS}/ has the weights of {bundle.folder}",
        hint="--run FOLDER names the run that it was exported from",
    )


def _runs() -> Iterator[Path]:
    from mnist_edge.training.checkpoint import LAST

    yield from (path.parent for path in sorted(RUNS.glob(f"*/{LAST}"), key=lambda path: -path.stat().st_mtime_ns))


def _trained_normalization(bundle: Bundle) -> Normalization | None:
    """Return the normalisation that the network was trained with, from the metadata of the fp32 variant."""
    from mnist_edge.contract import NORMALIZATIONS
    from mnist_edge.runtime.classifier import open_classifier

    stated = open_classifier(bundle.file(bundle.manifest.variants[0])).metadata.get("mnist_edge.trained_normalization")
    return next((name for name in NORMALIZATIONS if name == stated), None)


def wanted_kinds(named: Sequence[str], objective: Objective) -> tuple[list[str], list[str]]:
    """Return the kinds that may be candidates: those that take seconds to build, and the students, which take minutes.

    Args:
        named: kinds that were asked for; without any, all but NAMED_ONLY and some students, see STUDENTS.
        objective: decides on the students and their order.
    """
    kinds = [name for name in known_kinds() if name in named or not (named or name in NAMED_ONLY)]
    students = [name for name in kinds if is_student(name)]
    if not named:
        students = [name for name in STUDENTS.get(objective, FASTEST_FIRST) if name in students]
    return [name for name in kinds if not is_student(name)], students


def is_student(name: str) -> bool:
    """Whether a kind is a small model that is trained from scratch."""
    return name.startswith("student-")
