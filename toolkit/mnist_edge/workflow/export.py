"""Export a checkpoint to a published bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import MAX_DROP, OPSET, InputKind, Normalization, variant_name
from mnist_edge.errors import UsageError
from mnist_edge.workflow.folders import EXPORTED, RUNS, VARIANT_RUNS, newest_run
from mnist_edge.workflow.suspicion import suspect_normalization

if TYPE_CHECKING:
    from mnist_edge.exporting.pipeline import ExportRequest
    from mnist_edge.exporting.variants.kind import VariantContext
    from mnist_edge.records.bundle import ExportReport
    from mnist_edge.training.recipes import Recipe


def export(
    *,
    run: str | Path | None = None,
    output: str | Path | None = None,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    input_kind: InputKind = "uint8",
    opset: int = OPSET,
    normalization: Normalization | None = None,
    variants: Sequence[str] = (),
    max_accuracy_drop: float = MAX_DROP,
    notify: Callable[[str], None] = lambda _line: None,
) -> ExportReport:
    """Export a trained network to ONNX, compare it with PyTorch, and publish it only if they agree; then its variants.

    Args:
        run: run folder, checkpoint or .pth; None takes the newest run.
        output: bundle folder; None takes `exported/<dataset>`, with `-student-<name>` for the run of a student.
        dataset: a name or a folder; None takes the checkpoint's.
        data_dir: folder in which datasets are looked for first.
        input_kind: see `InputKind`.
        opset: ONNX operator set.
        normalization: of the pixels that a state_dict was trained on; folded into the graph for `uint8`.
        variants: names of the kinds of variants to add; `all` for every kind.
        max_accuracy_drop: accuracy that such a variant may lose, a fraction of 1.
        notify: takes one plain line about what happens.

    Returns:
        What was published, and why each requested variant that is not in it failed.

    Raises:
        CheckFailedError: the exported graph does not predict as PyTorch; the previous bundle stays.
        BadFileError, UnavailableError, UsageError: as the stages raise them.
    """
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
    from mnist_edge.exporting.variants.add import add_kinds
    from mnist_edge.exporting.variants.kind import selection_split
    from mnist_edge.exporting.variants.registry import select_kinds
    from mnist_edge.training.state_dict import read_model

    kinds = select_kinds(variants)
    source = newest_run() if run is None else Path(run)
    loaded = read_model(source, normalization)
    for note in loaded.notes:
        notify(note)
    data = load_dataset(str(dataset or loaded.dataset or "mnist"), None if data_dir is None else Path(data_dir), notify)
    if loaded.student is not None and kinds:
        raise UsageError(
            f"--variant {kinds[0].name}: variants are made from a perceptron, {source} is a student",
            hint="leave --variant out, or name the run of a perceptron",
        )
    own = "" if loaded.student is None else f"-{variant_name(loaded.student.name)}"
    target = EXPORTED / f"{data.name}{own}" if output is None else Path(output)
    newest = "" if run else ", the newest run,"
    notify(f"exporting {source}{newest} to {target}")
    suspect_normalization(loaded, data, notify)
    recipe = selection_recipe(loaded.recipe, notify)
    request = ExportRequest(
        model=loaded.network,
        dataset=data,
        output=target,
        input=input_kind,
        opset=opset,
        normalization=loaded.normalization,
        student=loaded.student,
        selection=selection_split(data, recipe),
    )
    report = dataclasses.replace(export_bundle(request, notify), training=loaded.training)
    for name, reason in report.dropped.items():
        notify(f"dropped the variant {name}: {reason}")
    if not kinds:
        return report
    added = add_kinds(report, kinds, variant_context(request, recipe, max_accuracy_drop, notify))
    return dataclasses.replace(added, training=loaded.training)


def selection_recipe(recipe: Recipe | None, notify: Callable[[str], None]) -> Recipe:
    """Return the recipe whose held-out images variants are chosen by: the network's own, or `fast`.

    Args:
        recipe: that the network was trained with; None where its file does not state it.
    """
    from mnist_edge.training.recipes import find_recipe

    if recipe is not None and recipe.holdout > 0:
        return recipe
    notify(
        "the images that variants are chosen by may be among those that the network was trained on: "
        + ("its file names no recipe" if recipe is None else f"its recipe {recipe.name} holds none out")
    )
    return find_recipe("fast")


def variant_context(
    request: ExportRequest, recipe: Recipe, max_accuracy_drop: float, notify: Callable[[str], None]
) -> VariantContext:
    """Return what the variants of an exported bundle are made from; the bundle is read and checked."""
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.exporting.pipeline import FP32
    from mnist_edge.exporting.variants.kind import VariantContext

    bundle = load_bundle(request.output)
    return VariantContext(
        fp32=bundle.file(bundle.variant(FP32.name)).read_bytes(),
        network=request.model,
        dataset=request.dataset,
        recipe=recipe,
        normalization=request.normalization,
        input=request.input,
        opset=request.opset,
        max_accuracy_drop=max_accuracy_drop,
        runs=VARIANT_RUNS / request.dataset.name,
        user_runs=RUNS,
        notify=notify,
    )
