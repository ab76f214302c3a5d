"""From the bytes of an image file to what every variant of a bundle predicts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mnist_edge.bundle.folder import Bundle
from mnist_edge.data.image_file import read_image
from mnist_edge.data.photo import PreparedPhoto, prepare_photo
from mnist_edge.demo.latency import median_latency_us
from mnist_edge.errors import MnistEdgeError, UnavailableError
from mnist_edge.pixels import Images
from mnist_edge.records.demo import AnswerReport, VariantAnswer
from mnist_edge.workflow.model import open_variant
from mnist_edge.workflow.predict import DigitReader, known_digits, refused

IMAGE_NAME = "the image"
"""What errors call it: a page does not send the name of a file."""


class Answers:
    """The open models of a bundle; they answer one image at a time, so that nothing disturbs what is timed.

    Attributes:
        readers: the open variants, the chosen one first.
    """

    def __init__(self, readers: Sequence[DigitReader], timeout: float) -> None:
        self.readers = tuple(readers)
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
            answers = tuple(self._ask(reader, prepared, prepared.image) for reader in self.readers)
        finally:
            self._running.release()
        first = answers[0].prediction
        rows = tuple(tuple(map(int, row)) for row in prepared.image)
        return AnswerReport(prepared=rows, accepted=first.accepted, reason=first.reason, variants=answers)

    def idle_within(self, seconds: float) -> bool:
        """Wait until no model runs, and let none run any more; return whether that was so in time."""
        return self._running.acquire(timeout=seconds)

    def _ask(self, reader: DigitReader, prepared: PreparedPhoto, image: Images) -> VariantAnswer:
        """Run one variant; what fails is part of the answer, because the other variants are of interest too."""
        classifier, name = reader.model.classifier, reader.model.variant.name
        try:
            prediction = reader.predict(IMAGE_NAME, prepared, shown=len(reader.model.labels))
            inputs = {classifier.input.name: classifier.prepare(image[np.newaxis])}
            with classifier.ended_in_time(batch=1) as options:
                run = partial(classifier.session.run, [classifier.output.name], inputs, options)
                latency = median_latency_us(run)
        except MnistEdgeError as error:
            failed = refused(IMAGE_NAME, error.message, error.exit_code)
            return VariantAnswer(variant=name, prediction=failed, latency_us=None)
        return VariantAnswer(variant=name, prediction=prediction, latency_us=latency)


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
    bundle.require_digits(
        "the page is for digits that a person draws", hint="mnist-edge eval shows what the model does on its test set"
    )
    first = bundle.chosen()
    ordered = sorted(bundle.manifest.variants, key=lambda variant: variant != first)
    known = known_digits(bundle)
    readers: list[DigitReader] = []
    for variant in ordered:
        model = open_variant(bundle, variant, timeout=timeout)
        model.classifier.require_scores()
        readers.append(DigitReader(model=model, known=known))
        on_variant(len(readers), len(ordered))
    return Answers(readers, timeout)
