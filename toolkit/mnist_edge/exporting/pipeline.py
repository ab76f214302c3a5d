"""Build a bundle, or add a variant to one: only what agrees with its reference is published, atomically."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.bundle.golden import (
    GOLDEN,
    Golden,
    golden_bytes,
    golden_inputs,
    layer_rows,
    sha256_array,
    sha256_of_test_set,
)
from mnist_edge.bundle.manifest import Manifest, is_variant_name
from mnist_edge.bundle.publish import MODEL_FILE, refuse_unexpected_files, staging, write_files
from mnist_edge.contract import INPUTS, LABELS, MAX_DROP, PYTORCH, InputKind, Normalization, variant_name
from mnist_edge.errors import UsageError
from mnist_edge.exporting import graph
from mnist_edge.exporting.exact import exact_outputs
from mnist_edge.exporting.kept import keep_variants
from mnist_edge.exporting.proof import joined, publish_proven, require_parity
from mnist_edge.exporting.variants.student_graph import student_graph, student_precision
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import ExportReport, OutputHashes, Variant, VariantSpec
from mnist_edge.records.data import Dataset, EvaluationSet, SelectionSplit
from mnist_edge.runtime.session import require_provider
from mnist_edge.training.model import reference_logits, reference_pre_activations
from mnist_edge.training.qat import QuantisedNetwork

FP32 = VariantSpec(name="fp32", precision="fp32", requirement="exact")
"""The variant that `export` itself makes; its file is MODEL_FILE."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export and where to.

    Attributes:
        student: the integers of the network where it is a student, which is then the only variant.
        selection: images to measure the selection accuracy of every variant on.
    """

    model: nn.Sequential
    dataset: Dataset
    output: Path
    input: InputKind
    opset: int
    normalization: Normalization = "seed"
    student: QuantisedNetwork | None = None
    selection: SelectionSplit | None = None


def export_bundle(request: ExportRequest, notify: Callable[[str], None] = lambda _line: None) -> ExportReport:
    """Export a network to a bundle folder, which is replaced atomically.

    Variants that were added to the bundle before are kept where it holds the same weights, input and dataset, and
    they pass again; the others are dropped, with the reason in the report.

    Raises:
        CheckFailedError: the exported graph does not predict as PyTorch does; the previous bundle stays.
        UsageError: `output` holds something that is not a bundle, or a student is asked for with float input.
        UnavailableError: onnxruntime is missing, or the folder cannot be written or is in use.
    """
    require_provider("cpu")
    if request.student is not None and request.input != "uint8":
        raise UsageError(f"--input {request.input}: a student takes raw images", hint="leave --input out")
    refuse_unexpected_files(request.output)
    with staging(request.output) as staged:
        origin = graph.Origin(
            dataset=request.dataset.name,
            weights_sha256=graph.weights_sha256(request.model),
            normalization=request.normalization,
        )
        notify("exporting the graph")
        spec, model = _first_model(request, origin)
        notify(f"running PyTorch on {len(request.dataset.test_images):,} test images")
        golden = golden_of(request.model, request.dataset, origin, model)
        packed = golden_bytes(golden)
        first = _variant(spec, MODEL_FILE, model)
        manifest = Manifest(
            dataset=request.dataset.name,
            input=request.input,
            input_description=INPUTS[request.input],
            labels=LABELS[request.dataset.name],
            normalization=origin.input_normalization(request.input),
            opset=request.opset,
            weights_sha256=origin.weights_sha256,
            versions=graph.versions(),
            accuracy=float((golden.test_logits.argmax(axis=1) == request.dataset.test_labels).mean()),
            parity={},
            variants=(first,),
            golden_sha256=sha256_bytes(packed),
        )
        write_files(staged, {MODEL_FILE: model, GOLDEN: packed})
        bundle = Bundle(folder=staged, manifest=manifest, golden=golden)
        notify("comparing onnxruntime with PyTorch")
        parity = require_parity(bundle, [first], request.dataset, "try another --opset, or report this as a bug")
        bundle, kept, dropped = keep_variants(request.output, bundle, request.dataset)
        return publish_proven(bundle, joined([parity, *kept]), request.output, request.selection, dropped)


def _first_model(request: ExportRequest, origin: graph.Origin) -> tuple[VariantSpec, bytes]:
    """Return specification and file of the variant that is compared with PyTorch logit by logit."""
    if request.student is None:
        return FP32, graph.export_graph(request.model, request.input, origin, request.opset)
    spec = VariantSpec(
        name=variant_name(request.student.name), precision=student_precision(request.student), requirement="exact"
    )
    return spec, student_graph(request.student, request.opset)


def add_variant(
    folder: Path,
    spec: VariantSpec,
    model: bytes,
    dataset: EvaluationSet | None = None,
    *,
    made: dict[str, Any] | None = None,
    selection: SelectionSplit | None = None,
    outputs_sha256: OutputHashes | None = None,
) -> ExportReport:
    """Add a model to a bundle, or replace the one of that name, if it passes; the folder is replaced atomically.

    Args:
        folder: the bundle.
        spec: name, precision, requirement and reference of the new variant.
        model: content of its file.
        dataset: predictions are compared on its test set; golden inputs alone are too few to show that a lossy variant
            is as accurate.
        made: how the file was made, as JSON values.
        selection: images to measure its selection accuracy on.
        outputs_sha256: what its logits must be on any runtime, byte for byte; None where rounding may differ.

    The settings of the other variants are kept, and so is the choice of `tune`, unless the chosen file changes.

    Raises:
        CheckFailedError: the variant, or one that refers to it, does not meet its requirement; the bundle stays.
        UsageError: the name is that of the variant that `export` makes, or the reference is no variant before it.
        BadFileError: the bundle is damaged, or the model does not have the input and output that the manifest states.
        UnavailableError: onnxruntime is missing, or the folder cannot be written or is in use.
    """
    require_provider("cpu")
    if spec.name == FP32.name:
        raise UsageError(f"the variant {FP32.name} is made by mnist-edge export", hint="choose another name")
    if not is_variant_name(spec.name):
        raise UsageError(
            f"{spec.name!r} is no name of a variant", hint="lower-case letters, digits, '.', '_' and '-', at most 64"
        )
    if spec.requirement != "exact" and spec.max_accuracy_drop is None:
        spec = dataclasses.replace(spec, max_accuracy_drop=MAX_DROP)
    with staging(folder) as staged:
        before = load_bundle(folder)
        variant = _variant(spec, f"{spec.name}.onnx", model, made, outputs_sha256)
        variants = list(before.manifest.variants)
        place = next((i for i, other in enumerate(variants) if other.name == spec.name), len(variants))
        references = (PYTORCH, *(other.name for other in variants[:place]))
        if spec.reference not in references:
            raise UsageError(
                f"the reference {spec.reference!r} of {spec.name} is not in {folder}",
                hint=f"one of {', '.join(references)}",
            )
        choice = before.manifest.choice
        if place < len(variants) and variants[place].sha256 == variant.sha256:
            variant = dataclasses.replace(variant, settings=variants[place].settings)
        elif choice == variant.name:
            choice = None
        variants[place : place + 1] = [variant]
        changed = _with_dependents(variant, variants)
        write_files(staged, {name: (folder / name).read_bytes() for name in (GOLDEN, *_files(variants, variant))})
        write_files(staged, {variant.file: model})
        manifest = dataclasses.replace(before.manifest, variants=tuple(variants), choice=choice)
        bundle = Bundle(folder=staged, manifest=manifest, golden=before.golden)
        return publish_proven(bundle, require_parity(bundle, changed, dataset), folder, selection)


def _with_dependents(variant: Variant, variants: list[Variant]) -> list[Variant]:
    """Return a variant and all that refer to it, directly or not; `variants` are in the order of the manifest."""
    found = [variant]
    for other in variants:
        if other.reference in {known.name for known in found} and other not in found:
            found.append(other)
    return found


def _files(variants: list[Variant], new: Variant) -> list[str]:
    return [variant.file for variant in variants if variant is not new]


def _variant(
    spec: VariantSpec,
    file: str,
    model: bytes,
    made: dict[str, Any] | None = None,
    outputs_sha256: OutputHashes | None = None,
) -> Variant:
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(VariantSpec)}
    return Variant(
        **fields,
        file=file,
        bytes=len(model),
        sha256=sha256_bytes(model),
        made=made or {},
        outputs_sha256=outputs_sha256,
    )


def golden_of(model: nn.Sequential, dataset: Dataset, origin: graph.Origin, exported: bytes) -> Golden:
    """Return the golden inputs of a test set with a network's outputs, and the exact ones of its exported graph."""
    images, labels = golden_inputs(dataset.test_images, dataset.test_labels)
    rows = layer_rows(labels)
    pre_activations = reference_pre_activations(model, images[rows], normalization=origin.normalization)
    exact_logits, difference = exact_outputs(model, exported, images, dataset.test_images, origin.normalization)
    return Golden(
        images=images,
        labels=labels,
        logits=reference_logits(model, images, normalization=origin.normalization),
        test_logits=reference_logits(model, dataset.test_images, normalization=origin.normalization),
        test_sha256=sha256_of_test_set(dataset.test_images, dataset.test_labels),
        weights_sha256=sha256_array(origin.weights_sha256),
        layer_rows=rows,
        layer_widths=np.array([values.shape[1] for values in pre_activations], dtype=np.int64),
        pre_activations=np.concatenate(pre_activations, axis=1),
        exact_logits=exact_logits,
        form_difference=np.array([difference]),
    )
