"""Accuracy and calibration of any model on a test set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import CLASSES, Normalization
from mnist_edge.errors import UnavailableError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.workflow.suspicion import suspect_normalization

if TYPE_CHECKING:
    from mnist_edge.pixels import Logits
    from mnist_edge.records.data import EvaluationSet
    from mnist_edge.records.evaluation import EvalReport


def evaluate(
    model: Path,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    settings: SessionSettings = DEFAULT_SETTINGS,
    normalization: Normalization | None = None,
    notify: Callable[[str], None] = lambda _line: None,
) -> EvalReport:
    """Run the test set through a model and report accuracy, calibration and the confusion matrix.

    Args:
        model: run folder, checkpoint, .pth, bundle folder or ONNX file.
        dataset: a name or a folder; None takes the model's.
        data_dir: folder in which datasets are looked for first.
        settings: of the session, for an ONNX file.
        normalization: of the pixels of a state_dict or a float ONNX file, which may not state it.
        notify: takes one plain line about what happens.
    """
    from mnist_edge.verification.accuracy import evaluate as judge

    data, logits = _outputs(model, dataset, data_dir, settings, normalization, notify)
    return judge(model, logits, data)


def _outputs(
    model: Path,
    dataset: str | None,
    data_dir: Path | None,
    settings: SessionSettings,
    normalization: Normalization | None,
    notify: Callable[[str], None],
) -> tuple[EvaluationSet, Logits]:
    """Load whatever `model` is, and run the test set through it."""
    from mnist_edge.bundle.folder import is_bundle, load_bundle
    from mnist_edge.data.sources import load_test_set

    if not model.exists():
        raise UnavailableError(
            f"{model} does not exist", hint="give a run folder, checkpoint, .pth, bundle or ONNX file"
        )
    kind = require_model_kind(model, "onnx", "bundle", "checkpoint", "state_dict", "run folder")
    if kind in {"onnx", "bundle"}:
        from mnist_edge.runtime.classifier import dataset_of, open_classifier

        path = model
        if is_bundle(model):
            bundle = load_bundle(model)
            path = bundle.file(bundle.manifest.variants[0])
        classifier = open_classifier(path, settings, normalization=normalization)
        data = load_test_set(dataset or dataset_of(classifier) or "mnist", data_dir, notify)
        return data, classifier.class_logits(data.test_images, CLASSES, classifier.bounded_batch(1000))
    from mnist_edge.training.model import reference_logits
    from mnist_edge.training.state_dict import read_model

    loaded = read_model(model, normalization)
    for note in loaded.notes:
        notify(note)
    data = load_test_set(dataset or loaded.dataset or "mnist", data_dir, notify)
    suspect_normalization(loaded, data, notify)
    return data, reference_logits(loaded.network, data.test_images, normalization=loaded.normalization)
