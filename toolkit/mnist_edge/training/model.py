"""The multilayer perceptron, named and shaped as the seed's `nn.Sequential`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_edge.contract import CLASSES, PIXELS, DeviceName
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import ImageFile, Images, Logits
from mnist_edge.ranks import this_rank


def build_model(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with a ReLU between them; keys `0.weight`, `0.bias`, `2.weight`, ...

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


def model_from_state(state: Mapping[str, Tensor], source: Path) -> nn.Sequential:
    """Rebuild the model that a state_dict belongs to, its widths read from the shapes.

    Raises:
        BadFileError: names the key: missing, unexpected, of another shape or dtype, NaN or infinite.
    """
    hint = "give a checkpoint of mnist-edge, or a state_dict with keys 0.weight, 0.bias, 2.weight, ..."
    sizes: list[int] = []
    while (key := f"{2 * len(sizes)}.weight") in state and state[key].ndim == 2:
        sizes.append(int(state[key].shape[0]))
    if not sizes or min(sizes) < 1:
        found = ", ".join(list(state)[:4]) or "none"
        raise BadFileError(f"{source}: no matrix 0.weight of a 784-...-10 network (keys: {found})", hint=hint)
    model = build_model(sizes[:-1])
    check_state(model, state, source, hint)
    model.load_state_dict(dict(state))
    return model


def check_state(model: nn.Sequential, state: Mapping[str, Tensor], source: Path, hint: str) -> None:
    """Raise BadFileError unless `state` has exactly the model's keys, shapes, float32 and finite values."""
    expected = model.state_dict()
    for key in [*expected, *(key for key in state if key not in expected)]:
        if key not in state:
            raise BadFileError(f"{source}: {key} is missing", hint=hint)
        if key not in expected:
            raise BadFileError(f"{source}: {key} is not a key of this network", hint=hint)
        found, wanted = state[key], expected[key]
        if found.shape != wanted.shape:
            raise BadFileError(
                f"{source}: {key} is {tuple(found.shape)}, the network has {tuple(wanted.shape)}", hint=hint
            )
        if found.dtype != wanted.dtype:
            raise BadFileError(f"{source}: {key} is {found.dtype}, expected {wanted.dtype}", hint=hint)
        if not bool(torch.isfinite(found).all()):
            raise BadFileError(f"{source}: {key} holds NaN or infinite values", hint="take an earlier checkpoint")


def normalize_pixels(pixels: Tensor) -> Tensor:
    """The seed's normalisation, `((x / 255) - 0.5) / 0.5`: uint8 of any shape to float32 -1..1."""
    return pixels.float().div_(255).sub_(0.5).div_(0.5)


@torch.no_grad()
def reference_logits(model: nn.Sequential, images: Images | ImageFile, batch: int = 1000) -> Logits:
    """PyTorch's own answer, float32 (N, 10), for uint8 images (N, 28, 28): what every variant is held against."""
    device = next(model.parameters()).device
    parts = [
        model(normalize_pixels(torch.tensor(images[start : start + batch]).to(device).flatten(1))).cpu().numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def reference_sums(model: nn.Sequential, images: Images) -> tuple[NDArray[np.float32], ...]:
    """What each linear layer gives before its ReLU, float32 (N, width) each, for uint8 images (N, 28, 28)."""
    device = next(model.parameters()).device
    values = normalize_pixels(torch.tensor(images).to(device).flatten(1))
    sums = []
    for layer in model:
        values = layer(values)
        if isinstance(layer, nn.Linear):
            sums.append(values.cpu().numpy())
    return tuple(sums)


def accuracy(model: nn.Sequential, images: Images | ImageFile, labels: Images) -> float:
    """Share of images, 0 to 1, that the model decides as labelled."""
    return float((reference_logits(model, images).argmax(axis=1) == labels).mean())


def resolve_device(name: DeviceName) -> torch.device:
    """Return the device asked for; `auto` is CUDA where there is one.

    Raises:
        UnavailableError: CUDA was asked for and is not there, or has fewer GPUs than there are processes.
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
