"""Shapes of the students, small convolutional networks with low-bit weights, as data; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mnist_edge.contract import CLASSES, SIDE, StudentName

MAX_CONVS, MAX_CHANNELS, MAX_HIDDEN = 8, 512, 4096
BITS = (2, 4, 8)
"""Bits that a weight may be stored in."""
BYTES_PER_ROW = 4
"""A row (output channel) has a scale and a bias, both float16."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One layer: a convolution without padding. A fully connected layer is one over the whole feature map.

    Attributes:
        outputs, inputs: channels.
        kernel, stride: pixels, in both directions.
        bits: of each weight.
    """

    outputs: int
    inputs: int
    kernel: int
    stride: int
    bits: int

    @property
    def weights(self) -> int:
        """Return the number of weights."""
        return self.outputs * self.inputs * self.kernel**2


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """Shape of a student: image, mean-pooling, convolutions, fully connected layers; a ReLU after each but the last.

    Attributes:
        pool: side of the blocks of pixels that are averaged first; 1 for none.
        convs: channels, kernel and stride of each convolution.
        hidden: width of a fully connected layer before the last one; 0 for none.
        bits: of the weights of each layer, the fully connected ones included.
    """

    name: StudentName
    pool: int = 1
    convs: tuple[tuple[int, int, int], ...]
    hidden: int = 0
    bits: tuple[int, ...]

    def layers(self) -> tuple[LayerShape, ...]:
        """Return the layers, input side first; only for a shape without `problem`."""
        channels, bits = 1, iter(self.bits)
        found = []
        for outputs, kernel, stride in self.convs:
            found.append(LayerShape(outputs=outputs, inputs=channels, kernel=kernel, stride=stride, bits=next(bits)))
            channels = outputs
        sizes = [channels, *([self.hidden] if self.hidden else []), CLASSES]
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            kernel = self._sides()[-1] if index == 0 else 1
            found.append(LayerShape(outputs=outputs, inputs=inputs, kernel=kernel, stride=1, bits=next(bits)))
        return tuple(found)

    def _sides(self) -> list[int]:
        """Return the side of the image and of the output of each convolution, in pixels; below 1 where none is left."""
        sides = [SIDE // self.pool]
        for _, kernel, stride in self.convs:
            sides.append((sides[-1] - kernel) // stride + 1)
        return sides

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights, scales and biases, packed."""
        return sum(-(-layer.weights * layer.bits // 8) + BYTES_PER_ROW * layer.outputs for layer in self.layers())

    def problem(self) -> tuple[str, object, str] | None:
        """Return the first field that no student can have, its value, and what is expected; None for a valid shape."""
        return next(self._problems(), None)

    def _problems(self) -> Iterator[tuple[str, object, str]]:
        """Yield each such field; a check relies on those before it."""
        if self.pool not in {1, 2}:
            yield "pool", self.pool, "1 or 2"
        if not 1 <= len(self.convs) <= MAX_CONVS:
            yield "convs", f"a list of {len(self.convs)}", f"1 to {MAX_CONVS}"
        for channels, kernel, stride in self.convs:
            if not (1 <= channels <= MAX_CHANNELS and 1 <= kernel <= SIDE and 1 <= stride <= SIDE):
                expected = f"channels to {MAX_CHANNELS}, kernel and stride to {SIDE}, at least 1 each"
                yield "convs", (channels, kernel, stride), expected
        if min(self._sides()) < 1:
            yield "convs", self.convs, "kernels that fit into the image"
        if not 0 <= self.hidden <= MAX_HIDDEN:
            yield "hidden", self.hidden, f"0 to {MAX_HIDDEN}"
        layers = len(self.convs) + (2 if self.hidden else 1)
        if len(self.bits) != layers or not set(self.bits) <= set(BITS):
            yield "bits", self.bits[: layers + 1], f"2, 4 or 8 for each of {layers} layers"


def _shape(
    name: StudentName, *convs: tuple[int, int, int], pool: int = 1, hidden: int = 0, bits: int = 4
) -> StudentShape:
    layers = len(convs) + (2 if hidden else 1)
    return StudentShape(name=name, pool=pool, convs=convs, hidden=hidden, bits=(bits,) * layers)


STUDENTS: dict[StudentName, StudentShape] = {
    "3k": _shape("3k", (12, 5, 2), (16, 3, 2), (16, 3, 1)),
    "6k": _shape("6k", (16, 5, 2), (24, 3, 2), (24, 3, 1)),
    "12k": _shape("12k", (24, 5, 2), (32, 3, 2), (40, 3, 1)),
    "40k": _shape("40k", (32, 5, 2), (64, 3, 2), (80, 3, 1)),
}
"""The students by name, which is about the bytes of their weights."""
