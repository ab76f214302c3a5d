"""What a model file declares about its input and its output, and how images are fitted to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnist_edge.contract import SIDE, Normalization

Layout = Literal["flat", "NHW", "NCHW", "NHWC"]
"""Order of the axes; `flat` is one axis of channels x height x width values, or of height x width."""

OutputKind = Literal["logits", "probabilities", "log-probabilities", "scores"]
"""What the output values are; `scores` lie in 0..1 and do not sum to 1, as one sigmoid per class gives them."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The one input of a classifier.

    Attributes:
        dtype: numpy's name: uint8, int8, float16, float32 or float64.
        shape: as declared, batch first; a None dimension is free.
        image_shape: the shape of one image in a run: `shape` without the batch, free dimensions filled in.
        layout, channels, height, width: how `image_shape` is read as an image.
        normalization: what a float model expects of its pixels; None if neither the file nor the user states it.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    image_shape: tuple[int, ...]
    layout: Layout
    channels: int
    height: int
    width: int
    normalization: Normalization | None

    @property
    def preparation(self) -> str:
        """What is done to a 28x28 image to fit it, in one phrase; empty where nothing is done."""
        steps = []
        if (self.height, self.width) != (SIDE, SIDE):
            steps.append(f"resized from {SIDE}x{SIDE} to {self.height}x{self.width} (bilinear)")
        if self.channels != 1:
            steps.append(f"grey repeated in {self.channels} channels")
        return ", ".join(steps)


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """The output that is read as one row of class values per image, or the one that is only timed.

    Attributes:
        dtype: numpy's name, or onnxruntime's type where it is no tensor: `seq(map(int64,tensor(float)))`.
        shape: as declared; empty for a scalar, no tensor, or an undeclared shape.
        classes: as declared, or None.
        scores_classes: whether it is a float tensor that can hold a value for each class.
        others: the other outputs of the graph.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    classes: int | None
    scores_classes: bool
    others: tuple[str, ...] = ()
