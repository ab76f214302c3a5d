"""Check a bundle, or any ONNX file, against a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import MAX_DROP, Normalization, ProviderName, TargetName
from mnist_edge.cpus import require_cpus
from mnist_edge.errors import UsageError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.workflow.suspicion import first_images, suspect_normalization
from mnist_edge.workflow.test_set import find_test_set, refuse_other_dataset
from mnist_edge.workflow.variants import select_variants

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.pixels import Images
    from mnist_edge.records.data import EvaluationSet, StoredSet
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.runtime.recorded import RecordedOutputs
    from mnist_edge.verification.reference import ReferenceOutputs
    from mnist_edge.verification.verify import VerifyOptions

Notify = Callable[[str], None]


def verify(
    model: str | Path,
    *,
    variants: Sequence[str] = (),
    against: str | Path | None = None,
    outputs: str | Path | None = None,
    provider: ProviderName | None = None,
    threads: int | None = None,
    batches: Sequence[int] = (),
    layers: bool = False,
    max_accuracy_drop: float = MAX_DROP,
    normalization: Normalization | None = None,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    key: str | Path | None = None,
    signature: str | Path | None = None,
    notify: Notify = lambda _line: None,
) -> ParityReport:
    """Compare a bundle with the outputs that it records, or any model with another one.

    Args:
        model: bundle folder or ONNX file.
        variants: names of a bundle's variants; all by default.
        against: run folder, checkpoint, .pth or ONNX file that is run now as reference; an ONNX file needs one.
        outputs: a file of logits of another runtime, to check in place of a variant's own; see `runtime.recorded`.
        provider: no other is used; None takes the recorded one, or else the CPU.
        threads: of onnxruntime; None takes the recorded number, or else 1.
        batches: batch sizes to check besides 1, 2, 3, 7, 64 and all.
        layers: compare layer outputs also where the logits agree.
        max_accuracy_drop: accuracy that a variant may lose, a fraction of 1, where it is not exact.
        normalization: of the pixels of a model that does not state it.
        dataset: of an ONNX file; or the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        key: public key in PEM, with which the bundle must be signed.
        signature: file of that; None for `<bundle>.sig`.
        notify: takes one plain line about what happens.

    Returns:
        The report; `passed` states whether every check passed.

    Raises:
        BadFileError: a file was changed, or the signature is not valid.
        UnavailableError: a file, the provider or the data are not available.
        UsageError: arguments that contradict each other.
    """
    from mnist_edge.records.settings import DEFAULT_SETTINGS
    from mnist_edge.signature import check_signature
    from mnist_edge.verification.verify import VerifyOptions

    path, reference = Path(model), None if against is None else Path(against)
    if key is not None:
        check_signature(path, Path(key), None if signature is None else Path(signature))
    elif signature is not None:
        raise UsageError("a signature has no effect without a key", hint="name the public key")
    named = {name: value for name, value in (("provider", provider), ("threads", threads)) if value is not None}
    options = VerifyOptions(
        session=DEFAULT_SETTINGS.with_named(named),
        named=named,
        batches=tuple(batches),
        max_drop=max_accuracy_drop,
        layers=layers,
        normalization=normalization,
    )
    place = (None if dataset is None else str(dataset), None if data_dir is None else Path(data_dir), notify)
    recorded = None if outputs is None else Path(outputs)
    return verify_path(path, reference, options, *place, variants=variants, outputs=recorded)[0]


def verify_path(
    model: Path,
    against: Path | None,
    options: VerifyOptions,
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Notify = lambda _line: None,
    variants: Sequence[str] = (),
    outputs: Path | None = None,
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify a bundle or an ONNX file; arguments and what is returned are those of `verify_folder`."""
    if model.exists() and require_model_kind(model, "onnx", "bundle", "run folder") == "onnx":
        if variants or outputs is not None:
            raise UsageError("--variant and --outputs are for bundles", hint="name a bundle folder")
        return verify_file(model, against, options, dataset, data_dir, notify)
    if options.normalization is not None and against is None:
        raise UsageError("--normalize is for an ONNX file or a .pth; a bundle states its own", hint="leave it out")
    return verify_folder(model, against, options, dataset, data_dir, notify, variants=variants, outputs=outputs)


def verify_folder(
    folder: Path,
    against: Path | None,
    options: VerifyOptions,
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Notify = lambda _line: None,
    variants: Sequence[str] = (),
    outputs: Path | None = None,
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify a bundle on the golden inputs, and on the test set where it is available.

    Args:
        folder: the bundle.
        against: a model that is run live as reference; None takes the outputs recorded in the bundle.
        options: settings and how much to check.
        dataset: a folder with a test set of any size, which is read part by part; None takes the bundle's.
        data_dir: folder in which datasets are looked for first.
        notify: takes one plain line about what happens.
        variants: names of those to check; all by default.
        outputs: a file of logits to check in place of a variant's own; see `runtime.recorded`.

    Returns:
        The report, and the reference outputs that it is about.
    """
    from mnist_edge.benchmarking.environment import environment
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.data.sources import open_own_test_set
    from mnist_edge.verification.verify import stored_reference, verify_bundle, verify_outputs, with_logits_of

    bundle = load_bundle(folder)
    chosen = select_variants(bundle, variants)
    if outputs is None:
        require_cpus(max(options.of_variant(variant).session.threads for variant in chosen))
    if outputs is not None and len(chosen) > 1 and variants:
        raise UsageError("--outputs holds the outputs of one variant", hint=f"--variant {chosen[0].name}")
    stored = open_own_test_set(dataset) if outputs is None else None
    data: EvaluationSet | StoredSet | None = stored
    if stored is not None:
        reference = stored_reference(bundle, stored)
        if reference.stored is not None and not reference.stored.own:
            notify(f"{dataset} is not the test set that the bundle was exported with: no output is recorded for it")
    else:
        data, reference = recorded_outputs(bundle, dataset, data_dir, notify)
    if against is not None:
        golden, known = bundle.golden, reference
        reference = _run_live(against, golden.images, golden.labels, data, options, notify)
        reference = replace(
            reference, other_test_set=known.other_test_set, stored=with_logits_of(known.stored, reference.stored)
        )
    if outputs is None:
        # The option is for the reference: a bundle states what its own models expect.
        report = verify_bundle(bundle, reference, replace(options, normalization=None), chosen)
        return replace(report, environment=environment()), reference
    recorded = _read_outputs(outputs, reference, notify)
    report = verify_outputs(bundle, chosen[0], recorded, reference, options)
    return report, reference if report.test_set else replace(reference, test_set=None)


def recorded_outputs(
    bundle: Bundle, dataset: str | None, data_dir: Path | None, notify: Notify
) -> tuple[EvaluationSet | None, ReferenceOutputs]:
    """Return the test set, where it is available, and the outputs that the bundle records; arguments as `verify_folder`."""
    from mnist_edge.verification.reference import recorded_reference

    refuse_other_dataset(bundle, dataset)
    data = find_test_set(bundle, dataset, data_dir, notify, "only the golden inputs are compared")
    reference = recorded_reference(bundle, data)
    if dataset is not None and reference.test_set is None:
        raise UsageError(
            f"--dataset {dataset} holds another test set than {bundle.folder} was made with",
            hint="name the folder that it was trained on, or leave it out to compare the golden inputs only",
        )
    return data, reference


def _read_outputs(outputs: Path, reference: ReferenceOutputs, notify: Notify) -> RecordedOutputs:
    from mnist_edge.runtime.recorded import read_recorded

    known = [("golden images", reference.golden.images)]
    if reference.test_set is not None:
        known.append(("test images", reference.test_set.images))
    recorded = read_recorded(outputs, known)
    for name, images in known:
        if not recorded.covers(images):
            notify(f"{outputs} holds no logits for the {name}")
    return recorded


def verify_target(
    folder: Path,
    target: TargetName,
    *,
    device: str | None = None,
    variants: Sequence[str] = (),
    built: Path | None = None,
    images: int | None = None,
    timeout: float = 60.0,
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Notify = lambda _line: None,
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify what a target makes of the variants of a bundle, on the golden inputs and on the test set.

    Args:
        folder: the bundle.
        target: that the variants are generated for.
        device: of the target; None takes its first one.
        variants: names of those to check; all by default, without those that the target cannot express.
        built: a folder that was generated before from the one variant in `variants`; None generates one.
        images: number of test images to run; all by default.
        timeout: seconds that one run may take, besides those that a slow device needs for its images.
        dataset: the folder that a bundle of a user's own digits was made with.
        data_dir: folder in which datasets are looked for first.
        notify: takes one plain line about what happens.

    Returns:
        The report, and the bundle's reference outputs for the images that were run.

    Raises:
        UsageError: a named variant that the target cannot express; an unknown device; no variant named for `built`.
        UnavailableError: the device lacks a compiler or an emulator.
    """
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.targets.registry import REGISTRY, find_device
    from mnist_edge.targets.verify import TargetOptions, compared_images, expressible, verify_programs

    bundle = load_bundle(folder)
    found = REGISTRY[target]
    options = TargetOptions(device=find_device(found, device), built=built, images=images, timeout=timeout)
    chosen = select_variants(bundle, variants)
    if built is not None and len(chosen) > 1:
        raise UsageError(f"{built} was generated from one variant", hint=f"--variant {chosen[0].name}")
    if not variants:
        chosen = expressible(bundle, chosen, found, notify)
    _, reference = recorded_outputs(bundle, dataset, data_dir, notify)
    report = verify_programs(bundle, chosen, found, reference, options)
    return report, compared_images(bundle, found, reference, options)


def verify_file(
    model: Path,
    against: Path | None,
    options: VerifyOptions,
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Notify = lambda _line: None,
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify an ONNX file of any origin against another model on a test set; arguments as `verify_folder`."""
    from mnist_edge.benchmarking.environment import environment
    from mnist_edge.bundle.golden import golden_inputs
    from mnist_edge.data.sources import load_test_set, open_own_test_set
    from mnist_edge.runtime.classifier import dataset_of, open_classifier
    from mnist_edge.verification.verify import verify_model

    if against is None:
        raise UsageError(
            f"{model} has no reference to compare with", hint="--against OTHER.onnx, or a checkpoint, or name a bundle"
        )
    classifier = open_classifier(model, options.session, timeout=options.timeout)
    stored = open_own_test_set(dataset)
    if stored is not None:
        golden = golden_inputs(stored.images, stored.labels)
        reference = _run_live(against, *golden, stored, options, notify)
        report = verify_model(model, "folder", reference, options)
    else:
        data = load_test_set(dataset or dataset_of(classifier) or "auto", data_dir, notify)
        golden = golden_inputs(data.test_images, data.test_labels)
        reference = _run_live(against, *golden, data, options, notify)
        report = verify_model(model, data.name, reference, options)
    return replace(report, environment=environment()), reference


def _run_live(
    against: Path,
    images: Images,
    labels: Images,
    data: EvaluationSet | StoredSet | None,
    options: VerifyOptions,
    notify: Notify,
) -> ReferenceOutputs:
    """Run the reference model now: an ONNX file, or a network in PyTorch."""
    from mnist_edge.records.data import EvaluationSet, StoredSet
    from mnist_edge.verification.reference import live_reference, onnx_reference, with_relu

    golden = (images, labels)
    stored = data if isinstance(data, StoredSet) else None
    test_set = (data.test_images, data.test_labels) if isinstance(data, EvaluationSet) else None
    if require_model_kind(against, "onnx", "checkpoint", "state_dict", "run folder") == "onnx":
        return onnx_reference(against, golden, test_set, options.normalization, timeout=options.timeout, stored=stored)
    from mnist_edge.training.model import reference_logits, reference_pre_activations
    from mnist_edge.training.state_dict import read_model

    loaded = read_model(against, options.normalization)
    for note in loaded.notes:
        notify(note)
    network, normalization = loaded.network, loaded.normalization
    if data is not None:
        suspect_normalization(loaded, first_images(data), notify)
    return live_reference(
        golden,
        test_set,
        lambda batch: reference_logits(network, batch, normalization=normalization),
        lambda batch: with_relu(reference_pre_activations(network, batch, normalization=normalization)),
        f"PyTorch, live, {against}",
        stored,
    )
