"""Accuracy and calibration of any model on a test set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_edge.contract import CLASSES, SIDE, DatasetName, Normalization, ProviderName
from mnist_edge.errors import MnistEdgeError, UsageError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings

if TYPE_CHECKING:
    from mnist_edge.pixels import Images, Logits
    from mnist_edge.records.data import EvaluationSet
    from mnist_edge.records.evaluation import EvalReport

Notify = Callable[[str], None]

SUSPICIOUS_BELOW = 0.95
"""Accuracy below which the images are checked, and other readings of their pixels are tried."""
OTHER_DATASETS_BELOW = 0.5
"""Accuracy below which other datasets, which have to be read first, are tried as well."""


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that can be run, whatever its file format.

    Attributes:
        predict: uint8 images (n, 28, 28) and a normalisation (None: the model takes uint8) to outputs (n, 10).
        normalization: the one that it expects; None where it takes uint8.
        normalization_certain: whether the model itself was trained with it by mnist-edge.
        dataset: what it was trained on, where that is known.
        variant: name in the bundle.
        preparation: how images are fitted to its input; empty where they are not changed.
        temperature: that its bundle states.
    """

    predict: Callable[[Images, Normalization | None], Logits]
    normalization: Normalization | None
    dataset: DatasetName | None
    normalization_certain: bool = False
    variant: str | None = None
    preparation: str = ""
    temperature: float | None = None


def evaluate(
    model: str | Path,
    *,
    variant: str | None = None,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    provider: ProviderName | None = None,
    normalization: Normalization | None = None,
    timeout: float = 60.0,
    notify: Notify = lambda _line: None,
) -> EvalReport:
    """Run the test set through a model and report accuracy, calibration and the confusion matrix.

    Args:
        model: run folder, checkpoint, .pth, bundle folder or ONNX file.
        variant: a model of the bundle, by name; None takes the one that `tune` chose, or else its first, which is the
            reference of the others.
        dataset: a name or a folder; None takes the model's.
        data_dir: folder in which datasets are looked for first.
        provider: of an ONNX model; None takes that of the variant's recorded settings, or else the CPU.
        normalization: of the pixels of a state_dict or a float ONNX file, which may not state it.
        timeout: seconds that one run of an ONNX file may take.
        notify: called with one plain line about progress, or a warning.

    Raises:
        UnavailableError: the model, the data or the provider is not available.
        BadFileError: the model or the data cannot be read, or the model has other classes.
        UsageError: an option that the model does not take.
        CheckFailedError: NaN or infinite outputs.
    """
    from mnist_edge.data.sources import load_test_set
    from mnist_edge.verification.accuracy import evaluate as compare_with_labels

    model, data_dir = Path(model), None if data_dir is None else Path(data_dir)
    named = {} if provider is None else {"provider": provider}
    opened = _open_model(model, variant, named, normalization, timeout, notify)
    data = load_test_set(str(dataset or opened.dataset or "mnist"), data_dir, notify)
    outputs = opened.predict(data.test_images, opened.normalization)
    report = compare_with_labels(
        model,
        outputs,
        data,
        variant=opened.variant,
        normalization=opened.normalization,
        preparation=opened.preparation,
        temperature=opened.temperature,
    )
    warning = _warning(opened, report.accuracy, data, data_dir)
    if not warning:
        return report
    notify(warning)
    return dataclasses.replace(report, warnings=(warning,))


def _open_model(
    model: Path,
    variant: str | None,
    named: Mapping[str, Any],
    normalization: Normalization | None,
    timeout: float,
    notify: Notify,
) -> OpenModel:
    """Open a model by its content, not by its suffix."""
    kind = require_model_kind(model, "onnx", "bundle", "checkpoint", "state_dict", "run folder")
    if variant is not None and kind != "bundle":
        raise UsageError("--variant names a model of a bundle", hint="leave --variant out, or give a bundle folder")
    if kind == "bundle":
        from mnist_edge.bundle.folder import load_bundle

        bundle = load_bundle(model)
        chosen = bundle.chosen(variant)
        opened = _open_onnx(bundle.file(chosen), chosen.settings.with_named(named), normalization, timeout)
        others = [other.name for other in bundle.manifest.variants if other != chosen]
        if variant is None and others:
            why = ", which tune chose" if bundle.manifest.choice else ""
            notify(
                f"evaluating the variant {chosen.name}{why}; the bundle also has {', '.join(others)} (--variant NAME)"
            )
        return dataclasses.replace(
            opened, variant=chosen.name, dataset=bundle.manifest.dataset, temperature=chosen.temperature
        )
    if kind == "onnx":
        return _open_onnx(model, DEFAULT_SETTINGS.with_named(named), normalization, timeout)
    return _open_torch(model, normalization, notify)


def _open_onnx(
    model: Path, settings: SessionSettings, normalization: Normalization | None, timeout: float
) -> OpenModel:
    from mnist_edge.runtime.classifier import dataset_of, open_classifier

    classifier = open_classifier(model, settings, normalization=normalization, timeout=timeout)
    classifier.require_scores()
    classifier.prepare(np.zeros((1, SIDE, SIDE), np.uint8))  # refuses what does not fit before data are downloaded
    expected = None if classifier.input.dtype == "uint8" else classifier.input.normalization

    def predict(images: Images, name: Normalization | None) -> Logits:
        reading = dataclasses.replace(classifier, input=dataclasses.replace(classifier.input, normalization=name))
        return reading.class_logits(images, CLASSES, reading.bounded_batch(1000))

    return OpenModel(
        predict=predict,
        normalization=expected,
        dataset=dataset_of(classifier),
        preparation=classifier.input.preparation,
    )


def _open_torch(model: Path, normalization: Normalization | None, notify: Notify) -> OpenModel:
    from mnist_edge.training.model import reference_logits
    from mnist_edge.training.state_dict import read_model

    loaded = read_model(model, normalization)
    for note in loaded.notes:
        notify(note)
    return OpenModel(
        predict=lambda images, name: reference_logits(
            loaded.network, images, normalization=name or loaded.normalization
        ),
        normalization=loaded.normalization,
        normalization_certain=loaded.dataset is not None,  # a checkpoint of mnist-edge
        dataset=loaded.dataset,
    )


def _warning(opened: OpenModel, accuracy: float, data: EvaluationSet, data_dir: Path | None) -> str:
    """Return what is probably wrong with the images, their reading or the dataset in one line; empty if nothing is.

    Neither the result nor the exit code depends on it; a thousand images of the test set are run again.
    """
    if accuracy >= SUSPICIOUS_BELOW:
        return ""
    from mnist_edge.verification.suspicion import find_suspicion, suspicion_line
    from mnist_edge.verification.unusual_images import describe_unusual

    if unusual := describe_unusual(data.test_images):
        return unusual
    others = _other_test_sets(data.name, data_dir) if accuracy < OTHER_DATASETS_BELOW else []
    suspected = None if opened.normalization_certain else opened.normalization
    try:
        found = find_suspicion(opened.predict, suspected, data, others)
    except MnistEdgeError:  # another reading may need more memory or time than the one in use
        return ""
    return "" if found is None else suspicion_line(found)


def _other_test_sets(name: DatasetName, data_dir: Path | None) -> list[EvaluationSet]:
    """Read the test sets of the other datasets that are on this machine; nothing is downloaded."""
    from mnist_edge.data.sources import SOURCES, load_test_set

    found = []
    for other in (*SOURCES, "digits"):
        if other != name:
            try:
                found.append(load_test_set(other, data_dir, may_download=False))
            except MnistEdgeError:
                continue
    return found
