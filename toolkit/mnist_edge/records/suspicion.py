"""Evidence that a model was evaluated with other pixels, or on another dataset, than it was trained for."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_edge.contract import DatasetName, Normalization


@dataclass(frozen=True, kw_only=True)
class PixelReading:
    """How images are turned into the input of a model.

    Attributes:
        normalization: None where the model leaves no choice: its input is uint8.
        inverted: `255 - x`, dark strokes on a light background.
        transposed: rows and columns exchanged, as EMNIST's files store them.
    """

    normalization: Normalization | None
    inverted: bool = False
    transposed: bool = False

    @property
    def description(self) -> str:
        """The reading as a user would apply it: `--normalize unit on inverted images`."""
        option = "" if self.normalization is None else f"--normalize {self.normalization}"
        changes = " and ".join(
            name for name, applied in (("inverted", self.inverted), ("transposed", self.transposed)) if applied
        )
        images = f"{changes} images" if changes else ""
        return " on ".join(part for part in (option, images) if part)


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """What makes an accuracy suspicious.

    Attributes:
        images: test images that were compared; evenly spaced in the test set.
        accuracy: of the reading in use on these images, 0 to 1.
        near_chance: whether that is hardly better than guessing.
        better: a reading, or None, with clearly more predictions that agree with the labels.
        better_dataset: another dataset, or None, whose labels the model predicts clearly better.
        better_accuracy: of `better` or on `better_dataset`.
    """

    images: int
    accuracy: float
    near_chance: bool
    better: PixelReading | None = None
    better_dataset: DatasetName | None = None
    better_accuracy: float | None = None
