"""Structured pruning: whole hidden neurons leave a perceptron, so that its matrices become smaller.

A neuron that leaves is replaced by its mean output, which the next bias takes up: `W a + b` becomes
`W' a' + (b + W'' mean'')`, with `'` for what stays and `''` for what leaves. A constant neuron leaves without a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnist_edge.pixels import Images
from mnist_edge.training.model import build_model, linear_layers, normalize_pixels


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """The neurons of one hidden layer, measured on images.

    Attributes:
        mean: float64 (width,), of each neuron's output.
        importance: float64 (width,), 0 for a constant neuron: what the loss changes by, squared, when it leaves.
    """

    mean: Tensor
    importance: Tensor


def measure_neurons(model: nn.Sequential, images: Images, labels: Images) -> tuple[Neurons, ...]:
    """Return the neurons of each hidden layer of a network that takes pixels normalised as the seed's.

    The importance is the first-order Taylor criterion of Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", eq. 8, for the output a of a neuron that is replaced by its mean m: (dL/da (a - m)) ** 2, averaged over the
    images.

    Args:
        model: as `build_model` makes it.
        images: uint8 (N, 28, 28), of the training set.
        labels: uint8 (N,).
    """
    values = normalize_pixels(torch.tensor(images).flatten(1))  # (N, 784)
    outputs: list[Tensor] = []
    for layer in model:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            outputs.append(values)  # (N, width)
    # The sum over images, not their mean: the gradient of each output is then that of its own image's loss.
    loss = nn.functional.cross_entropy(values, torch.tensor(labels).long(), reduction="sum")
    measured = []
    for output, gradient in zip(outputs, torch.autograd.grad(loss, outputs), strict=True):
        found = output.detach().double()
        mean = found.mean(dim=0)
        measured.append(Neurons(mean=mean, importance=((found - mean) * gradient.double()).square().mean(dim=0)))
    return tuple(measured)


def prune(model: nn.Sequential, neurons: Sequence[Neurons], widths: Sequence[int]) -> nn.Sequential:
    """Return a copy with the most important neurons of each hidden layer, in their order.

    Computed in float64 and rounded to float32 once.

    Args:
        model: as `build_model` makes it.
        neurons: of each hidden layer, as `measure_neurons` gives them.
        widths: of each hidden layer, at most that of the model.
    """
    pruned = build_model(widths)
    before: Tensor | None = None  # the neurons of the previous layer that stay
    for number, (layer, smaller) in enumerate(zip(linear_layers(model), linear_layers(pruned), strict=True)):
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        if before is not None:
            leaves = torch.ones(layer.in_features, dtype=torch.bool)
            leaves[before] = False
            bias = bias + weight[:, leaves] @ neurons[number - 1].mean[leaves]
            weight = weight[:, before]
        if number < len(widths):
            # Stable, so that of equally important neurons the first ones stay.
            order = neurons[number].importance.argsort(descending=True, stable=True)
            before = order[: widths[number]].sort().values
            weight, bias = weight[before], bias[before]
        smaller.weight.data, smaller.bias.data = weight.float(), bias.float()
    return pruned
