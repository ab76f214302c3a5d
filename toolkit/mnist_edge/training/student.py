"""Students: small convolutional networks whose weights are rounded to few bits while they are trained.

Every layer is a convolution; the last one, which is fully connected, is one whose kernel covers the whole feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnist_edge.contract import SIDE
from mnist_edge.training.qat import QuantisedLayer, QuantisedNetwork, layer_factors, quantised_layer, rounded
from mnist_edge.training.student_shape import LayerShape, StudentShape

EPSILON = 1e-5
AVERAGING = 0.1
"""Weight of a new batch in the running mean and variance."""


class StudentLayer(nn.Module):
    """A convolution with rounded weights and no padding."""

    variance_gain = 1.0
    """Variance of an initial weight, times the inputs of a row."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.bits, self.stride = shape.bits, shape.stride
        fan_in = shape.inputs * shape.kernel**2
        self.weight = nn.Parameter(torch.randn(shape.outputs, shape.inputs, shape.kernel, shape.kernel))
        self.weight.data *= (self.variance_gain / fan_in) ** 0.5

    def convolve(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the pre-activations, (n, outputs, side, side)."""
        weight = rounded(self.weight, self.bits)
        if weight.shape[1:] == values.shape[1:]:  # one output pixel: a matrix product is faster
            return nn.functional.linear(values.flatten(1), weight.flatten(1), bias)[:, :, None, None]
        return nn.functional.conv2d(values, weight, bias, self.stride)


class HiddenLayer(StudentLayer):
    """Convolution, batch normalisation, ReLU.

    Written out, because `nn.BatchNorm2d` keeps an int64 counter: every tensor of a checkpoint is float32.
    """

    variance_gain = 2.0  # a ReLU follows: He et al. (2015), "Delving Deep into Rectifiers"
    mean: Tensor
    variance: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.gain = nn.Parameter(torch.ones(shape.outputs))
        self.shift = nn.Parameter(torch.zeros(shape.outputs))
        self.register_buffer("mean", torch.zeros(shape.outputs))
        self.register_buffer("variance", torch.ones(shape.outputs))

    def forward(self, values: Tensor) -> Tensor:
        """Map (n, inputs, side, side) to activations (n, outputs, side, side)."""
        values = self.convolve(values)
        # One image of one pixel has no variance: the last batch of an epoch may be that small.
        training = self.training and len(values) > 1
        values = nn.functional.batch_norm(
            values, self.mean, self.variance, self.gain, self.shift, training, AVERAGING, EPSILON
        )
        return values.relu_()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return what batch normalisation with the running statistics multiplies by, and what it adds, (outputs,)."""
        gain = self.gain.detach() / (self.variance + EPSILON).sqrt()
        return gain, self.shift.detach() - self.mean * gain


class OutputLayer(StudentLayer):
    """The last layer: convolution and bias."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.bias = nn.Parameter(torch.zeros(shape.outputs))

    def forward(self, values: Tensor) -> Tensor:
        """Map (n, inputs, side, side) to logits (n, outputs, 1, 1)."""
        return self.convolve(values, self.bias)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return factor and bias, (outputs,)."""
        return torch.ones_like(self.bias), self.bias.detach()


class Student(nn.Sequential):
    """A student in training; takes pixels from 0 to 1, float32 (n, 784), and returns logits (n, 10).

    Its children are its layers. Its state is float32: `0.weight`, `0.gain`, `0.shift`, `0.mean`, `0.variance`, ...,
    and `weight` and `bias` of the last layer.
    """

    def __init__(self, shape: StudentShape) -> None:
        *hidden, last = shape.layers()
        super().__init__(*[HiddenLayer(layer) for layer in hidden], OutputLayer(last))
        self.shape = shape

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits."""
        values = pixels.reshape(-1, 1, SIDE, SIDE)
        for layer in self:
            values = layer(values)
        return values.flatten(1)


def quantised_network(student: Student) -> QuantisedNetwork:
    """Return a student as it is deployed, with batch normalisation and the factor of the pixels in scales and biases."""
    layers: list[QuantisedLayer] = []
    for index, layer in enumerate(student):
        assert isinstance(layer, HiddenLayer | OutputLayer)
        gain, bias = layer.folded()
        layers.append(
            quantised_layer(
                layer.weight,
                layer.bits,
                gain=gain,
                bias=bias,
                stride=layer.stride,
                factors=layer_factors(index),
            )
        )
    return QuantisedNetwork(name=student.shape.name, layers=tuple(layers))
