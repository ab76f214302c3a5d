"""One SGD step of the perceptron with its gradients written out.

Autograd spends a quarter of a batch-64 step on bookkeeping, and a step that allocates its arrays a sixth
of it on memory. The chain rule of linear layers and ReLUs is short enough to write down, and its arrays
are the same every time. `tests/test_step.py` compares it with autograd and torch.optim.
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
        """Take one step on a batch.

        Args:
            pixels: float32 (n, 784), normalised.
            targets: float32 (n, 10), each row a distribution over the classes.
            lr: learning rate of this step.

        Returns:
            The mean loss of the batch before the step, a new float32 scalar on the batch's device.
        """
        ...


class EagerStep(Step, Protocol):
    """A step that reads the learning rate from a number or, for a CUDA graph, from a tensor."""

    def __call__(self, pixels: Tensor, targets: Tensor, lr: float | Tensor) -> Tensor:
        """Take one step on a batch."""
        ...


def momentum_of(model: nn.Sequential, recipe: Recipe, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a momentum buffer per parameter, under its key and on its device; zeros where none was kept.

    Empty for plain SGD.
    """
    if not recipe.momentum:
        return {}
    return {
        key: kept[key].to(value.device, copy=True) if key in kept else torch.zeros_like(value)
        for key, value in parameters_of(model).items()
    }


def parameters_of(model: nn.Sequential) -> dict[str, Tensor]:
    """Return the tensors that are trained, by key: all of a state_dict but running statistics."""
    return {key: value.detach() for key, value in model.named_parameters()}


def update(model: nn.Sequential, momentum: dict[str, Tensor], recipe: Recipe, lr: float | Tensor) -> None:
    """Update the parameters from their `.grad`, as `torch.optim.SGD` does, with Nesterov's momentum where there is one.

    Momentum = mu * momentum + g; parameter -= lr * (g + mu * momentum), with g = gradient + decay * parameter.
    """
    descend(dict(model.named_parameters()), momentum, recipe, lr, recipe.weight_decay)


def descend(
    parameters: Mapping[str, nn.Parameter],
    momentum: dict[str, Tensor],
    recipe: Recipe,
    lr: float | Tensor,
    weight_decay: float,
) -> None:
    """Update some of a model's parameters, as `update` does, with a weight decay of their own."""
    sgd(
        [parameter.data for parameter in parameters.values()],
        [parameter.grad for parameter in parameters.values() if parameter.grad is not None],
        [momentum[key] if momentum else None for key in parameters],
        fused=True,  # one pass over memory
        weight_decay=weight_decay,
        momentum=recipe.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=bool(momentum),
        maximize=False,
    )


@dataclass(frozen=True)
class Layer:
    """The parameters of a linear layer, which change in place, and their gradients; all float32.

    Attributes:
        weight: (fan_out, fan_in).
        weight_t: its transpose, (fan_in, fan_out), a view of the same memory.
        bias: (fan_out,).
        weight_gradient: (fan_out, fan_in), the parameter's `.grad`.
        bias_gradient: (fan_out,), the parameter's `.grad`.
    """

    weight: Tensor
    weight_t: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> Layer:
        """Return the parameters of a layer of a model, and set the `.grad` of each to zeros."""
        weight, bias = linear.weight, linear.bias
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        return cls(weight.data, weight.data.t(), bias.data, weight.grad, bias.grad)


@dataclass(frozen=True)
class Buffers:
    """The arrays of a step on n images, float32.

    Attributes:
        outputs: per layer (n, width): its pre-activations, after the ReLU where there is one.
        deltas: per layer (n, width): the gradient of the loss with respect to its pre-activations.
        deltas_t: per layer (width, n): the transpose of its delta, a view of the same memory.
        log_probabilities: (n, 10).
    """

    outputs: list[Tensor]
    deltas: list[Tensor]
    deltas_t: list[Tensor]
    log_probabilities: Tensor

    @classmethod
    def of(cls, layers: list[Layer], rows: int) -> Buffers:
        """Allocate the arrays for `rows` images."""
        deltas = [layer.bias.new_empty(rows, len(layer.bias)) for layer in layers]
        outputs = [torch.empty_like(delta) for delta in deltas]
        return cls(outputs, deltas, [delta.t() for delta in deltas], torch.empty_like(deltas[-1]))


class WrittenStep:
    """The step with its gradients written out, for one process.

    Plain SGD updates a weight within the product that computes its gradient.
    """

    def __init__(self, model: nn.Sequential, recipe: Recipe, momentum: dict[str, Tensor]) -> None:
        self.model, self.recipe, self.momentum = model, recipe, momentum
        self.layers = [Layer.of(linear) for linear in linear_layers(model)]
        self.buffers: dict[int, Buffers] = {}  # of a full batch, and of the last one

    @torch.no_grad()
    def __call__(self, pixels: Tensor, targets: Tensor, lr: float | Tensor) -> Tensor:
        """Take one step, see `Step`; a CUDA graph reads the learning rate from a tensor."""
        count, layers = len(pixels), self.layers
        if count not in self.buffers:
            self.buffers[count] = Buffers.of(layers, count)
        buffers = self.buffers[count]
        inputs = [pixels, *buffers.outputs]  # of each layer, (n, fan_in); the last is the logits, (n, 10)
        for index, layer in enumerate(layers):
            # Inputs (n, fan_in) times weights (fan_in, fan_out), plus bias (fan_out,).
            torch.addmm(layer.bias, inputs[index], layer.weight_t, out=inputs[index + 1])
            if layer is not layers[-1]:
                inputs[index + 1].relu_()
        torch.log_softmax(inputs[-1], dim=1, out=buffers.log_probabilities)
        # Cross entropy, mean over the batch: -sum(targets * log p) / n.
        loss = torch.dot(buffers.log_probabilities.flatten(), targets.flatten()).div_(-count)
        # Its gradient with respect to the logits is (p - targets) / n, (n, 10).
        torch.exp(buffers.log_probabilities, out=buffers.deltas[-1]).sub_(targets).div_(count)
        for index in reversed(range(len(layers))):
            layer, delta, delta_t = layers[index], buffers.deltas[index], buffers.deltas_t[index]
            if index:
                # (n, fan_out) @ (fan_out, fan_in), before the weight changes
                below = torch.mm(delta, layer.weight, out=buffers.deltas[index - 1])
            torch.sum(delta, dim=0, out=layer.bias_gradient)
            if self.momentum or isinstance(lr, Tensor):
                torch.mm(delta_t, inputs[index], out=layer.weight_gradient)  # (fan_out, n) @ (n, fan_in)
            else:
                _descend(layer, delta_t, inputs[index], lr, self.recipe.weight_decay)
            if index:
                # ReLU passes what was positive: after relu_, that is what is still above 0.
                torch.ops.aten.threshold_backward.grad_input(below, inputs[index], 0, grad_input=below)
        if self.momentum or isinstance(lr, Tensor):
            update(self.model, self.momentum, self.recipe, lr)
        return loss


def _descend(layer: Layer, delta_t: Tensor, inputs: Tensor, lr: float, weight_decay: float) -> None:
    """Take a step of plain SGD: add the product that is the gradient to the weight, without an array for it."""
    if weight_decay:
        layer.weight.mul_(1 - lr * weight_decay)
        layer.bias.mul_(1 - lr * weight_decay)
    layer.weight.addmm_(delta_t, inputs, alpha=-lr)
    layer.bias.add_(layer.bias_gradient, alpha=-lr)
