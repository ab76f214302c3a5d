"""Shapes of the students, small convolutional networks with low-bit weights, as data; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mnist_edge.contract import CLASSES, SIDE, StudentName

MAX_CONVS, MAX_CHANNELS = 8, 512
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
    """Shape of a student: convolutions, then a fully connected layer; a ReLU after each layer but the last.

    Attributes:
        convs: channels, kernel and stride of each convolution.
        bits: of the weights of each layer, the fully connected one included.
    """

    name: StudentName
    convs: tuple[tuple[int, int, int], ...]
    bits: tuple[int, ...]

    def layers(self) -> tuple[LayerShape, ...]:
        """Return the layers, input side first; only for a shape without `problem`."""
        convs = (*self.convs, (CLASSES, self._sides()[-1], 1))
        channels = (1, *(outputs for outputs, _, _ in self.convs))
        return tuple(
            LayerShape(outputs=outputs, inputs=inputs, kernel=kernel, stride=stride, bits=bits)
            for (outputs, kernel, stride), inputs, bits in zip(convs, channels, self.bits, strict=True)
        )

    def _sides(self) -> list[int]:
        """Return the side of the image and of the output of each convolution, in pixels; below 1 where none is left."""
        sides = [SIDE]
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
        if not 1 <= len(self.convs) <= MAX_CONVS:
            yield "convs", f"a list of {len(self.convs)}", f"1 to {MAX_CONVS}"
        for channels, kernel, stride in self.convs:
            if not (1 <= channels <= MAX_CHANNELS and 1 <= kernel <= SIDE and 1 <= stride <= SIDE):
                expected = f"channels to {MAX_CHANNELS}, kernel and stride to {SIDE}, at least 1 each"
                yield "convs", (channels, kernel, stride), expected
        if min(self._sides()) < 1:
            yield "convs", self.convs, "kernels that fit into the image"
        if len(self.bits) != len(self.convs) + 1 or not set(self.bits) <= set(BITS):
            expected = f"2, 4 or 8 for each of {len(self.convs) + 1} layers"
            yield "bits", self.bits[: len(self.convs) + 2], expected
        if any(layer.weights * layer.bits % 8 for layer in self.layers()):
            yield "convs", self.convs, "weights of each layer that fill whole bytes"


def _shape(name: StudentName, *convs: tuple[int, int, int]) -> StudentShape:
    return StudentShape(name=name, convs=convs, bits=(4,) * (len(convs) + 1))


# Chosen on 10,000 images held out of training. Multiples of 16 channels suit onnxruntime's blocked layout on x86.
STUDENTS: dict[StudentName, StudentShape] = {
    "fast": _shape("fast", (16, 8, 4)),
    "3k": _shape("3k", (16, 7, 3), (16, 3, 2), (28, 3, 1)),
    "6k": _shape("6k", (16, 5, 2), (16, 3, 2), (40, 3, 1)),
    "12k": _shape("12k", (16, 5, 2), (32, 3, 2), (40, 3, 1)),
    "40k": _shape("40k", (32, 5, 2), (64, 3, 2), (80, 3, 1)),
}
"""The students by name: the one for latency, and those for size by their approximate bytes of weights."""
