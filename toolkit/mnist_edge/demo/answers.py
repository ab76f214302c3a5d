"""From the bytes of an image file to what every variant of a bundle predicts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.contract import CLASSES, LABELS
from mnist_edge.data.image_file import read_image
from mnist_edge.data.photo import prepare_photo
from mnist_edge.demo.latency import median_latency_us
from mnist_edge.errors import MnistEdgeError, UnavailableError, UsageError
from mnist_edge.pixels import Images, softmax
from mnist_edge.records.bundle import Variant
from mnist_edge.records.demo import AnswerReport, VariantAnswer
from mnist_edge.runtime.classifier import Classifier, open_classifier

IMAGE_NAME = "the image"
"""What errors call it: a page does not send the name of a file."""


@dataclass(frozen=True, kw_only=True)
class OpenVariant:
    """A variant of the bundle, and its session."""

    variant: Variant
    classifier: Classifier


class Answers:
    """The open models of a bundle; they answer one image at a time, so that nothing disturbs what is timed.

    Attributes:
        labels: class names.
        models: the chosen variant first.
    """

    def __init__(self, models: Sequence[OpenVariant], labels: Sequence[str], timeout: float) -> None:
        self.models = tuple(models)
        self.labels = tuple(labels)
        self._timeout = timeout
        self._running = threading.Lock()

    def answer(self, content: bytes) -> AnswerReport:
        """Prepare an image and run every variant on it.

        Args:
            content: of a PNG, JPEG or WebP file.

        Raises:
            BadFileError: it cannot be read as an image.
            UnavailableError: other images take all the time that this one may wait.
        """
        if not self._running.acquire(timeout=self._timeout):
            raise UnavailableError("the models are busy with another image", hint="try again")
        try:
            prepared = prepare_photo(read_image(content, IMAGE_NAME))
            if prepared.image is None:
                return AnswerReport(prepared=None, accepted=False, reason=prepared.reason, variants=())
            answers = tuple(self._ask(model, prepared.image) for model in self.models)
        finally:
            self._running.release()
        rows = tuple(tuple(map(int, row)) for row in prepared.image)
        return AnswerReport(prepared=rows, accepted=answers[0].accepted, reason=answers[0].reason, variants=answers)

    def idle_within(self, seconds: float) -> bool:
        """Wait until no model runs, and let none run any more; return whether that was so in time."""
        return self._running.acquire(timeout=seconds)

    def _ask(self, model: OpenVariant, image: Images) -> VariantAnswer:
        """Run one variant; what fails is part of the answer, because the other variants are of interest too."""
        classifier, name = model.classifier, model.variant.name
        try:
            feed = classifier.prepare(image[np.newaxis])
            logits = classifier.class_logits(image[np.newaxis], CLASSES)
        except MnistEdgeError as error:
            return VariantAnswer(variant=name, accepted=False, reason=error.message)
        probabilities = softmax(logits, model.variant.temperature)[0]
        best = int(probabilities.argmax())
        run = partial(classifier.session.run, [classifier.output.name], {classifier.input.name: feed})
        return VariantAnswer(
            variant=name,
            probabilities=tuple(map(float, probabilities)),
            label=self.labels[best],
            probability=float(probabilities[best]),
            latency_us=median_latency_us(run),
            accepted=True,
            reason="",
        )


def open_answers(bundle: Bundle, timeout: float, on_variant: Callable[[int, int], None]) -> Answers:
    """Open every variant of a bundle, as its manifest records the settings.

    Args:
        bundle: of digits.
        timeout: seconds that one run may take.
        on_variant: called with the number of variants that are open, and of all.

    Raises:
        UsageError: the bundle classifies something else.
        UnavailableError, BadFileError, CheckFailedError: as `open_classifier`.
    """
    manifest = bundle.manifest
    if manifest.labels != LABELS["mnist"]:
        raise UsageError(
            f"{bundle.folder} classifies {manifest.dataset}; the page is for digits that a person draws",
            hint="mnist-edge eval shows what the model does on its test set",
        )
    first = manifest.choice or manifest.variants[0].name
    ordered = sorted(manifest.variants, key=lambda variant: variant.name != first)
    models = []
    for variant in ordered:
        classifier = open_classifier(bundle.file(variant), variant.settings, timeout=timeout)
        models.append(OpenVariant(variant=variant, classifier=classifier))
        on_variant(len(models), len(ordered))
    return Answers(models, manifest.labels, timeout)
