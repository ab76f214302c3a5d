"""Accuracy, calibration, per-class figures and confusion matrix of a model's outputs on a test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_edge.bundle.golden import sha256_of_test_set
from mnist_edge.contract import LABELS, Normalization
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.data import EvaluationSet
from mnist_edge.records.evaluation import ClassFigures, EvalReport, Mistake, ReliabilityBin
from mnist_edge.records.model import OutputKind
from mnist_edge.runtime.interface import output_kind

BINS = 15
MISTAKES = 24
"""Wrong predictions that are kept."""
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""A probability that float32 rounded to 0 counts as this, so that its logarithm is finite."""
NO_PROBABILITIES = (
    "the outputs are scores from 0 to 1 that do not sum to 1 (as one sigmoid per class gives), not probabilities of "
    "the ten classes"
)


def evaluate(
    model: Path,
    outputs: Logits,
    dataset: EvaluationSet,
    *,
    variant: str | None = None,
    normalization: Normalization | None = None,
    preparation: str = "",
    temperature: float | None = None,
    warnings: tuple[str, ...] = (),
) -> EvalReport:
    """Compare a model's outputs on a test set with the labels.

    Args:
        model: as the user named it.
        outputs: float32 (N, 10), for the dataset's N test images in order.
        dataset: the test set.
        variant, normalization, preparation, temperature, warnings: see `EvalReport`.

    Raises:
        BadFileError: another number of classes.
        CheckFailedError: NaN or infinite outputs.
    """
    names = LABELS[dataset.name]
    expected = (len(dataset.test_labels), len(names))
    if outputs.shape != expected:
        raise BadFileError(
            f"{model} returns outputs of shape {outputs.shape}, expected {expected}",
            hint=f"give a model of {len(names)} classes",
        )
    if not np.isfinite(outputs).all():
        raise CheckFailedError(f"{model} returns NaN or infinite outputs", hint="mnist-edge verify shows where")
    predicted, labels = outputs.argmax(axis=1), dataset.test_labels
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    kind = output_kind(outputs)
    if kind != "logits":
        temperature = None
    log_probabilities = log_probabilities_of(outputs, kind, temperature)
    bins = () if log_probabilities is None else reliability(log_probabilities, labels)
    return EvalReport(
        model=model,
        variant=variant,
        dataset=dataset.name,
        images=len(labels),
        normalization=normalization,
        preparation=preparation,
        outputs=kind,
        temperature=temperature,
        accuracy=float((predicted == labels).mean()),
        negative_log_likelihood=None
        if log_probabilities is None
        else float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        calibration_error=None
        if log_probabilities is None
        else sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / len(labels),
        withheld=NO_PROBABILITIES if log_probabilities is None else "",
        reliability=bins,
        per_class=tuple(
            ClassFigures(
                label=label,
                images=int(confusion[i].sum()),
                recall=_share(confusion[i, i], confusion[i].sum()),
                precision=_share(confusion[i, i], confusion[:, i].sum()),
            )
            for i, label in enumerate(names)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        test_sha256=sha256_of_test_set(dataset.test_images, labels).tobytes().hex(),
        mistakes=_worst_mistakes(outputs, labels, log_probabilities),
        warnings=warnings,
    )


def _worst_mistakes(
    outputs: Logits, labels: Images, log_probabilities: NDArray[np.float64] | None
) -> tuple[Mistake, ...]:
    """Return the wrong predictions with the largest gap to the label's output, the worst first."""
    rows, predicted = np.arange(len(labels)), outputs.argmax(axis=1)
    # Of log-probabilities where there are any: one scale for logits and probabilities.
    values = outputs.astype(np.float64) if log_probabilities is None else log_probabilities
    gaps = values[rows, predicted] - values[rows, labels]
    worst = [int(row) for row in np.argsort(-gaps, kind="stable")[:MISTAKES] if predicted[row] != labels[row]]
    return tuple(
        Mistake(
            image=row,
            label=int(labels[row]),
            predicted=int(predicted[row]),
            outputs=tuple(float(value) for value in outputs[row]),
            probability=None if log_probabilities is None else float(np.exp(log_probabilities[row, predicted[row]])),
        )
        for row in worst
    )


def log_probabilities_of(
    outputs: Logits, kind: OutputKind, temperature: float | None = None
) -> NDArray[np.float64] | None:
    """Return the logarithms of the class probabilities, (N, classes); None for scores, which imply none.

    Only logits are divided by the temperature and go through a softmax: a second one would make probabilities nearly
    uniform.
    """
    values = outputs.astype(np.float64)
    if kind == "probabilities":
        return np.asarray(np.log(np.maximum(values, LEAST_PROBABILITY)))
    if kind == "log-probabilities":
        return values
    values /= temperature or 1.0
    return None if kind == "scores" else np.asarray(values - _log_sum_exp(values)[:, np.newaxis])


def reliability(log_probabilities: NDArray[np.float64], labels: Images) -> tuple[ReliabilityBin, ...]:
    """Sort predictions into 15 equal ranges of confidence (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
        log_probabilities: (N, classes), finite.
        labels: uint8 (N,).
    """
    confidence = np.minimum(np.exp(log_probabilities.max(axis=1)), 1.0)
    correct = log_probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return tuple(
        ReliabilityBin(
            images=int(members.sum()),
            confidence=float(confidence[members].mean()),
            accuracy=float(correct[members].mean()),
        )
        for members in (places == place for place in range(BINS))
        if members.any()
    )


def _log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of exponentials of each row, (N,)."""
    largest = values.max(axis=1)
    return np.asarray(largest + np.log(np.exp(values - largest[:, np.newaxis]).sum(axis=1)))


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
