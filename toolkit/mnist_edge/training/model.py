"""The multilayer perceptron, with the keys and shapes of the `nn.Sequential` that this project started from (the seed)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_edge.contract import CLASSES, PIXELS, DeviceName, Normalization
from mnist_edge.errors import UnavailableError
from mnist_edge.pixels import AFFINE, ImageFile, Images, Logits
from mnist_edge.ranks import this_rank


def build_model(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with a ReLU between them; keys `0.weight`, `0.bias`, `2.weight`, ...

    Args:
        widths: hidden widths, input side first; may be empty.
    """
    sizes = (PIXELS, *widths, CLASSES)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    """Return the linear layers, input side first."""
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def widths_of(model: nn.Sequential) -> tuple[int, ...]:
    """Return the hidden widths, input side first."""
    return tuple(layer.out_features for layer in linear_layers(model)[:-1])


def normalize_pixels(pixels: Tensor, normalization: Normalization = "seed") -> Tensor:
    """Return uint8 pixels of any shape as normalised float32; step by step as `pixels.normalize` in numpy."""
    values = pixels.float()
    if normalization == "raw":
        return values
    values.div_(255)
    if normalization == "seed":
        return values.sub_(0.5).div_(0.5)
    return values.sub_(0.1307).div_(0.3081) if normalization == "mnist" else values


def rescale_input(model: nn.Sequential, divisor: float, shift: float) -> nn.Sequential:
    """Return a copy that takes `x` where `model` takes `x / divisor + shift`.

    `W (x / d + s) + b = (W / d) x + (b + s W 1)`, computed in float64 and rounded to float32 once.
    """
    layers = linear_layers(model)
    rescaled = build_model(widths_of(model))
    rescaled.load_state_dict(model.state_dict())
    first = linear_layers(rescaled)[0]
    weight, bias = layers[0].weight.detach().double().cpu(), layers[0].bias.detach().double().cpu()
    first.weight.data = (weight / divisor).float()
    first.bias.data = (bias + shift * weight.sum(dim=1)).float()
    return rescaled


def with_normalization(model: nn.Sequential, old: Normalization, new: Normalization) -> nn.Sequential:
    """Return a network that computes from pixels normalised as `new` what `model` computes from `old`.

    Training normalises as the seed does, so weights of another origin are converted before they are trained further.
    """
    if old == new:
        return model
    (divisor, shift), (new_divisor, new_shift) = AFFINE[old], AFFINE[new]
    # x = new_divisor (z - new_shift) for normalised pixels z; the network takes x / divisor + shift.
    return rescale_input(model, divisor / new_divisor, shift - new_shift * new_divisor / divisor)


@torch.no_grad()
def reference_logits(
    model: nn.Sequential, images: Images | ImageFile, batch: int = 1000, *, normalization: Normalization = "seed"
) -> Logits:
    """Return PyTorch's logits, float32 (N, 10), for uint8 images (N, 28, 28): the reference of every exported model."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(images), batch):
        pixels = torch.tensor(images[start : start + batch]).to(device).flatten(1)  # uint8 (batch, 784)
        parts.append(model(normalize_pixels(pixels, normalization)).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def reference_pre_activations(
    model: nn.Sequential, images: Images, *, normalization: Normalization = "seed"
) -> tuple[NDArray[np.float32], ...]:
    """Return the pre-activations of each linear layer or convolution, for uint8 images (N, 28, 28).

    Returns:
        float32 (N, width) each; of a convolution channel after channel.
    """
    device = next(model.parameters()).device
    values = normalize_pixels(torch.tensor(images).to(device).flatten(1), normalization)
    pre_activations = []
    for layer in model:
        values = layer(values)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            pre_activations.append(values.flatten(1).cpu().numpy())
    return tuple(pre_activations)


def accuracy(
    model: nn.Sequential, images: Images | ImageFile, labels: Images, *, normalization: Normalization = "seed"
) -> float:
    """Return the share of images, 0 to 1, whose predicted class is their label."""
    logits = reference_logits(model, images, normalization=normalization)
    return float((logits.argmax(axis=1) == labels).mean())


def resolve_device(name: DeviceName) -> torch.device:
    """Return the requested device; `auto` is CUDA where it is available.

    Raises:
        UnavailableError: CUDA was requested and is not available, or there are fewer GPUs than processes.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UnavailableError("PyTorch finds no CUDA device", hint="--device cpu, or mnist-edge doctor to see why")
    if name == "cpu" or not available:
        return torch.device("cpu")
    local = this_rank().local
    if local >= torch.cuda.device_count():
        raise UnavailableError(
            f"process {local + 1} of this machine has no GPU of its own: there are {torch.cuda.device_count()}",
            hint="--device cpu, or fewer processes",
        )
    return torch.device("cuda", local)


def require_devices(name: DeviceName, processes: int) -> None:
    """Raise UnavailableError unless each of several processes of this machine gets a GPU of its own, or none does.

    To be called before they are started: a process that waits in NCCL for one that has failed ends only when it is killed.
    """
    if resolve_device(name).type == "cuda" and torch.cuda.device_count() < processes:
        raise UnavailableError(
            f"{processes} processes need as many GPUs, and there are {torch.cuda.device_count()}",
            hint="--device cpu, or fewer processes",
        )
