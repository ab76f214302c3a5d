"""One SGD step of the perceptron with its gradients written out.

Autograd spends a quarter of a batch-64 step on bookkeeping, and a step that allocates its arrays a sixth
of it on memory. The chain rule of linear layers and ReLUs is short enough to write down, and its arrays
are the same every time. `tests/test_step.py` holds it against autograd and torch.optim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from mnist_edge.training.model import linear_layers
from mnist_edge.training.recipes import Recipe


class Step(Protocol):
    """One step on one batch; the model's parameters and their momentum change in place."""

    def __call__(self, pixels: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Learn from a batch.

        Args:
            pixels: float32 (n, 784), normalised.
            targets: float32 (n, 10), each row a distribution over the classes.
            lr: learning rate of this step.

        Returns:
            The mean loss of the batch before the step, a float32 scalar on the batch's device; the caller's to keep.
        """
        ...


def momentum_of(model: nn.Sequential, recipe: Recipe, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a momentum buffer a parameter, under its key and on its device; zeros where none was kept.

    Empty for plain SGD.
    """
    if not recipe.momentum:
        return {}
    return {
        key: kept[key].to(value.device, copy=True) if key in kept else torch.zeros_like(value)
        for key, value in model.state_dict().items()
    }


def update(model: nn.Sequential, momentum: dict[str, Tensor], recipe: Recipe, lr: float | Tensor) -> None:
    """Take the parameters along their `.grad`, as torch.optim.SGD with Nesterov's momentum does.

    Momentum = mu * momentum + g; parameter -= lr * (g + mu * momentum), with g = gradient + decay * parameter.
    """
    parameters = list(model.parameters())
    sgd(
        [parameter.data for parameter in parameters],
        [parameter.grad for parameter in parameters if parameter.grad is not None],
        list(momentum.values()) or [None] * len(parameters),
        fused=True,  # one pass over memory
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=bool(momentum),
        maximize=False,
    )


@dataclass(frozen=True)
class Layer:
    """One linear layer: its parameters, which change in place, and where their gradients go.

    Attributes:
        weight: (fan_out, fan_in); `turned` is the same memory, (fan_in, fan_out).
        bias: (fan_out,).
    """

    weight: Tensor
    turned: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> Layer:
        """Look at a layer of a model, and give its parameters a `.grad` each."""
        weight, bias = linear.weight, linear.bias
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        return cls(weight.data, weight.data.t(), bias.data, weight.grad, bias.grad)


@dataclass(frozen=True)
class Buffers:
    """The arrays of a step on n images, float32.

    Attributes:
        answers: (n, width) a layer: its sums, after the ReLU where there is one.
        deltas: (n, width) a layer: the gradient of the loss by its sums; `turned` is the same memory, (width, n).
        log_probabilities: (n, 10).
    """

    answers: list[Tensor]
    deltas: list[Tensor]
    turned: list[Tensor]
    log_probabilities: Tensor

    @classmethod
    def of(cls, layers: list[Layer], rows: int) -> Buffers:
        """Make them for so many images."""
        deltas = [layer.bias.new_empty(rows, len(layer.bias)) for layer in layers]
        answers = [torch.empty_like(delta) for delta in deltas]
        return cls(answers, deltas, [delta.t() for delta in deltas], torch.empty_like(deltas[-1]))


class WrittenStep:
    """The step with its gradients written out, for one process.

    Plain SGD updates a weight by the very product that makes its gradient.
    """

    def __init__(self, model: nn.Sequential, recipe: Recipe, momentum: dict[str, Tensor]) -> None:
        self.model, self.recipe, self.momentum = model, recipe, momentum
        self.layers = [Layer.of(linear) for linear in linear_layers(model)]
        self.buffers: dict[int, Buffers] = {}  # of a full batch, and of the last one

    @torch.no_grad()
    def __call__(self, pixels: Tensor, targets: Tensor, lr: float | Tensor) -> Tensor:
        """Take one step, as `Step` says; a CUDA graph reads its rate from a tensor."""
        count, layers = len(pixels), self.layers
        if count not in self.buffers:
            self.buffers[count] = Buffers.of(layers, count)
        buffers = self.buffers[count]
        entered = [pixels, *buffers.answers]  # what each layer is fed
        for index, layer in enumerate(layers):
            torch.addmm(layer.bias, entered[index], layer.turned, out=entered[index + 1])
            if layer is not layers[-1]:
                entered[index + 1].relu_()
        torch.log_softmax(entered[-1], dim=1, out=buffers.log_probabilities)
        loss = torch.dot(buffers.log_probabilities.flatten(), targets.flatten()).div_(-count)
        torch.exp(buffers.log_probabilities, out=buffers.deltas[-1]).sub_(targets).div_(count)
        for index in reversed(range(len(layers))):
            layer, delta, turned = layers[index], buffers.deltas[index], buffers.turned[index]
            if index:
                below = torch.mm(delta, layer.weight, out=buffers.deltas[index - 1])  # before the weight changes
            torch.sum(delta, dim=0, out=layer.bias_gradient)
            if self.momentum or isinstance(lr, Tensor):
                torch.mm(turned, entered[index], out=layer.weight_gradient)
            else:
                _descend(layer, turned, entered[index], lr, self.recipe.weight_decay)
            if index:
                # ReLU passes what was positive: after relu_, that is what is still above 0.
                torch.ops.aten.threshold_backward.grad_input(below, entered[index], 0, grad_input=below)
        if self.momentum or isinstance(lr, Tensor):
            update(self.model, self.momentum, self.recipe, lr)
        return loss


def _descend(layer: Layer, turned: Tensor, entered: Tensor, lr: float, weight_decay: float) -> None:
    """Plain SGD: the product that makes the gradient adds it to the weight."""
    if weight_decay:
        layer.weight.mul_(1 - lr * weight_decay)
        layer.bias.mul_(1 - lr * weight_decay)
    layer.weight.addmm_(turned, entered, alpha=-lr)
    layer.bias.add_(layer.bias_gradient, alpha=-lr)
