"""One SGD step of a student, with gradients from autograd: its convolutions leave little of them to bookkeeping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnist_edge.training.recipes import Recipe
from mnist_edge.training.step import descend


class StudentStep:
    """An `EagerStep` for one process. Weight decay applies to weights, not to factors and biases of rows."""

    def __init__(self, model: nn.Sequential, recipe: Recipe, momentum: dict[str, Tensor]) -> None:
        self.model, self.recipe, self.momentum = model.train(), recipe, momentum
        self.parameters = dict(model.named_parameters())
        weights = {key: value for key, value in self.parameters.items() if key.endswith("weight")}
        others = {key: value for key, value in self.parameters.items() if key not in weights}
        self.groups = ((weights, recipe.weight_decay), (others, 0.0))

    def __call__(self, pixels: Tensor, targets: Tensor, lr: float | Tensor) -> Tensor:
        """Take one step, see `Step`; a CUDA graph reads the learning rate from a tensor."""
        # cuDNN's fastest kernels add up in any order, and a resumed run would not be bit-equal.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            log_probabilities = torch.log_softmax(self.model(pixels), dim=1)
            loss = -(log_probabilities * targets).sum() / len(pixels)
            # Not `backward`: its accumulation nodes belong to a stream, which a CUDA graph may not wait for.
            gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for parameters, weight_decay in self.groups:
            descend(parameters, self.momentum, self.recipe, lr, weight_decay)
        return loss.detach()
