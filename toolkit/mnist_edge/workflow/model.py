"""Open a variant of a bundle, and predict images that are prepared as the dataset's are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import SIDE, ProviderName
from mnist_edge.errors import UsageError
from mnist_edge.pixels import Images, Logits, softmax

if TYPE_CHECKING:
    from mnist_edge.bundle.folder import Bundle
    from mnist_edge.records.bundle import Variant
    from mnist_edge.runtime.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model predicts for n images.

    Attributes:
        labels: int64 (n,), numbers of the most probable classes; `Model.labels` has their names.
        probabilities: float64 (n, classes), of each class, with the temperature that was fitted at export.
        logits: float32 (n, classes), as the model returned them.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    logits: Logits


@dataclass(frozen=True, kw_only=True)
class Model:
    """An open variant of a bundle.

    Attributes:
        bundle: its folder, its manifest and its golden images.
        variant: its record in the manifest: precision, accuracy, settings, hash.
        classifier: the session.
    """

    bundle: Bundle
    variant: Variant
    classifier: Classifier

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.bundle.manifest.labels

    def predict(self, images: Images) -> Predictions:
        """Predict images of any number.

        Args:
            images: uint8 (n, 28, 28) or (28, 28), 0 is background and 255 ink, as in MNIST.

        Raises:
            UsageError: another shape or dtype.
            CheckFailedError: the model's outputs are NaN or infinite.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim not in {2, 3} or images.shape[-2:] != (SIDE, SIDE):
            raise UsageError(
                f"images are {images.dtype} {images.shape}, expected uint8 (n, {SIDE}, {SIDE})",
                hint="0 is background, 255 is ink; mnist-edge predict prepares photos",
            )
        logits = self.logits(images.reshape(-1, SIDE, SIDE))
        return Predictions(
            labels=logits.argmax(axis=1), probabilities=softmax(logits, self.variant.temperature), logits=logits
        )

    def logits(self, images: Images) -> Logits:
        """Return float32 (n, classes), finite, of images uint8 (n, 28, 28)."""
        if not len(images):
            return np.empty((0, len(self.labels)), np.float32)
        from mnist_edge.runtime.probabilities import finite_logits

        return finite_logits(self.classifier, images, len(self.labels))


def load(bundle: str | Path, variant: str | None = None, *, provider: ProviderName | None = None) -> Model:
    """Open a variant of a bundle whose bytes agree with its manifest; needs no PyTorch.

    Args:
        bundle: the folder.
        variant: by name; None takes the one that `tune` chose, or else the first.
        provider: no other is used; None takes the one that the variant was tuned for, or else the CPU.

    Raises:
        UsageError: no such variant.
        BadFileError: the bundle is damaged.
        UnavailableError: there is no bundle, or onnxruntime or the provider is missing.
    """
    from mnist_edge.bundle.folder import load_bundle

    loaded = load_bundle(Path(bundle))
    return open_variant(loaded, loaded.chosen(variant), provider=provider)


def open_variant(
    bundle: Bundle, variant: Variant, *, provider: ProviderName | None = None, timeout: float = 60.0
) -> Model:
    """Open a variant of a bundle with its recorded settings; `timeout` is the seconds that one run may take."""
    from mnist_edge.runtime.classifier import open_classifier

    settings = variant.settings.with_named({} if provider is None else {"provider": provider})
    classifier = open_classifier(bundle.file(variant), settings, timeout=timeout)
    return Model(bundle=bundle, variant=variant, classifier=classifier)
