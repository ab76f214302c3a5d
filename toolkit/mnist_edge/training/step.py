"""One SGD step of the perceptron with its gradients written out.

Autograd spends a quarter of a batch-64 step on bookkeeping; the chain rule of linear layers and
ReLUs is short enough to write down. `tests/test_step.py` holds it against autograd and torch.optim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from mnist_edge.training.model import linear_layers
from mnist_edge.training.recipes import Recipe


@dataclass(frozen=True)
class Layer:
    """Parameters of one linear layer, updated in place, and their momentum (empty for plain SGD)."""

    weight: Tensor  # (fan_out, fan_in)
    bias: Tensor  # (fan_out,)
    momentum: tuple[Tensor, ...]  # of weight and bias, same shapes


def layers_of(model: nn.Sequential, recipe: Recipe) -> list[Layer]:
    """Views of a model's parameters with momentum buffers of zeros where the recipe has momentum."""
    return [
        Layer(
            weight=linear.weight.data,
            bias=linear.bias.data,
            momentum=(torch.zeros_like(linear.weight), torch.zeros_like(linear.bias)) if recipe.momentum else (),
        )
        for linear in linear_layers(model)
    ]


@torch.no_grad()
def sgd_step(layers: list[Layer], pixels: Tensor, targets: Tensor, recipe: Recipe, lr: float) -> Tensor:
    """Take one step on one batch, as `torch.optim.SGD(..., nesterov=True)` on cross entropy would.

    Args:
        layers: changed in place.
        pixels: float32 (n, 784), normalised.
        targets: float32 (n, 10), each row a distribution over the classes.
        recipe: its momentum and weight decay are used.
        lr: learning rate of this step.

    Returns:
        The mean loss of the batch before the step, a float32 scalar on the batch's device.
    """
    count = len(pixels)
    inputs = [pixels]
    for layer in layers[:-1]:
        inputs.append(torch.addmm(layer.bias, inputs[-1], layer.weight.t()).relu_())
    logits = torch.addmm(layers[-1].bias, inputs[-1], layers[-1].weight.t())
    log_probabilities = torch.log_softmax(logits, dim=1)
    loss = torch.dot(log_probabilities.flatten(), targets.flatten()).div_(-count)
    delta = log_probabilities.exp_().sub_(targets).div_(count)  # (n, 10), the gradient of the mean loss
    for index in range(len(layers) - 1, -1, -1):
        layer, entered = layers[index], inputs[index]
        below = delta @ layer.weight if index else None  # before the weight changes
        if layer.momentum:
            _nesterov_step(layer, delta, entered, recipe, lr)
        elif recipe.weight_decay:
            decay = 1 - lr * recipe.weight_decay
            layer.weight.addmm_(delta.t(), entered, beta=decay, alpha=-lr)
            layer.bias.mul_(decay).add_(delta.sum(dim=0), alpha=-lr)
        else:
            layer.weight.addmm_(delta.t(), entered, alpha=-lr)
            layer.bias.add_(delta.sum(dim=0), alpha=-lr)
        if below is not None:
            # ReLU passes what was positive: after relu_, that is what is still above 0.
            delta = torch.ops.aten.threshold_backward(below, entered, 0)
    return loss


def _nesterov_step(layer: Layer, delta: Tensor, entered: Tensor, recipe: Recipe, lr: float) -> None:
    """Momentum = mu * momentum + g; parameter -= lr * (g + mu * momentum), with g = gradient + decay * parameter."""
    sgd(
        [layer.weight, layer.bias],
        [torch.mm(delta.t(), entered), delta.sum(dim=0)],
        list(layer.momentum),
        fused=True,  # one pass over memory
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=True,
        maximize=False,
    )
