"""Predict photos of digits with a variant of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import CheckFailedError, MnistEdgeError, UnavailableError
from mnist_edge.records.prediction import ClassProbability, Prediction, PredictReport
from mnist_edge.workflow.folders import newest_bundle

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.data.photo import PreparedPhoto
    from mnist_edge.pixels import Images
    from mnist_edge.runtime.familiarity import Familiarity
    from mnist_edge.workflow.model import Model

SHOWN = 3
"""Classes that a prediction lists."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image to predict: its name in the report, and its file, or its content where it has none."""

    name: str
    content: Path | bytes


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What led to a prediction, for a preview.

    Attributes:
        grey: the image as it was read, uint8 (h, w); None where it could not be read.
        prepared: the digit cut out of it; None as `grey`.
    """

    prediction: Prediction
    grey: Images | None
    prepared: PreparedPhoto | None


@dataclass(frozen=True, kw_only=True)
class DigitReader:
    """An open variant of a bundle that classifies digits.

    Attributes:
        known: what a digit should resemble; None where that is not checked.
    """

    model: Model
    known: Familiarity | None = None

    def predict(self, name: str, prepared: PreparedPhoto, shown: int = SHOWN) -> Prediction:
        """Return the prediction for a prepared photo; not accepted where preparation or model are unsure.

        Args:
            name: of the image.
            prepared: as `prepare_photo` returns it.
            shown: number of classes in `top`.

        Raises:
            CheckFailedError: the model's outputs are NaN or infinite.
        """
        import numpy as np

        from mnist_edge.runtime.acceptance import judge_photo

        judgement = judge_photo(self.model.logits, prepared, self.model.variant.temperature, self.known)
        shares, reason = judgement.probabilities, judgement.reason
        if shares is None:
            return refused(name, reason)
        order = np.argsort(-shares, kind="stable")[:shown]
        top = tuple(ClassProbability(label=self.model.labels[i], probability=float(shares[i])) for i in order)
        return Prediction(
            image=name,
            label=top[0].label,
            probability=top[0].probability,
            top=top,
            accepted=not reason,
            reason=reason,
            exit_code=CheckFailedError.exit_code if reason else 0,
        )


def refused(name: str, reason: str, exit_code: int = CheckFailedError.exit_code) -> Prediction:
    """Return the record of an image without a digit."""
    return Prediction(
        image=name, label=None, probability=None, top=(), accepted=False, reason=reason, exit_code=exit_code
    )


def open_reader(folder: Path, variant: str | None = None) -> DigitReader:
    """Open a variant of a bundle; None takes the one that `tune` chose, or else the first.

    Raises:
        UsageError: no such variant, or the classes are not digits.
        BadFileError: the bundle is damaged.
        UnavailableError: there is no bundle, or onnxruntime or the provider is missing.
    """
    from mnist_edge.workflow.model import load

    model = load(folder, variant)
    require_photo_classes(model.bundle)
    return DigitReader(model=model, known=known_digits(model.bundle))


def require_photo_classes(bundle: Bundle) -> None:
    """Raise UsageError unless a bundle classifies what photos are prepared for."""
    bundle.require_digits("photos are prepared for handwritten digits", hint="--model with a bundle of digits")


def known_digits(bundle: Bundle) -> Familiarity | None:
    """Return the golden test images of a bundle as what a digit should resemble; None where they are too few."""
    from mnist_edge.runtime.familiarity import familiarity

    labelled = bundle.golden.labels < len(bundle.manifest.labels)
    return familiarity(bundle.golden.images[labelled], bundle.golden.labels[labelled], len(bundle.manifest.labels))


def find_images(paths: Sequence[Path]) -> list[Source]:
    """Return the files among the paths, and the images of each folder in the order of their names.

    Raises:
        UnavailableError: a folder holds no image; its subfolders are not searched.
    """
    from mnist_edge.data.image_file import SUFFIXES

    found = []
    for path in paths:
        if not path.is_dir():
            found.append(Source(name=str(path), content=path))
            continue
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir())
        if not files:
            raise UnavailableError(
                f"{path} holds no image ({', '.join(SUFFIXES)})", hint="name the folder that the images are in"
            )
        found += [Source(name=str(file), content=file) for file in files]
    return found


def predict(
    sources: Sequence[Source],
    *,
    model: Path | None = None,
    variant: str | None = None,
    several: bool = False,
    notify: Callable[[str], None] = lambda _line: None,
    on_done: Callable[[int, int, Sequence[Seen]], None] = lambda _done, _all, _seen: None,
) -> PredictReport:
    """Read, prepare and predict images, one after the other.

    Args:
        sources: at least one. One that cannot be read raises if it is the only one; among others it becomes a
            prediction without a label.
        model: a bundle; None takes the newest in `exported/`.
        variant: of the bundle, by name; None takes the one that `tune` chose, or else the first.
        several: predict every digit of each image, in reading order.
        notify: called with one plain line.
        on_done: called after each image with their number, the number of all, and what was seen in the image.

    Raises:
        MnistEdgeError: as `open_reader`, and as `read_image` for the only image.
    """
    reader = open_reader(model or newest_bundle(notify), variant)
    predictions: list[Prediction] = []
    for done, source in enumerate(sources, start=1):
        try:
            seen = _look(reader, source, several)
        except MnistEdgeError as error:
            if len(sources) == 1 or isinstance(error, CheckFailedError):
                raise
            seen = [Seen(prediction=refused(source.name, error.message, error.exit_code), grey=None, prepared=None)]
        predictions += [one.prediction for one in seen]
        on_done(done, len(sources), seen)
    return PredictReport(
        model=reader.model.bundle.folder, variant=reader.model.variant.name, predictions=tuple(predictions)
    )


def _look(reader: DigitReader, source: Source, several: bool) -> list[Seen]:
    from mnist_edge.data.image_file import read_image
    from mnist_edge.data.photo import prepare_photo, prepare_several

    grey = read_image(source.content, source.name)
    found = prepare_several(grey) if several else []
    if not found:
        prepared = prepare_photo(grey)
        return [Seen(prediction=reader.predict(source.name, prepared), grey=grey, prepared=prepared)]
    return [
        Seen(prediction=reader.predict(f"{source.name}#{number}", prepared), grey=grey, prepared=prepared)
        for number, prepared in enumerate(found, start=1)
    ]
