"""Read the weights of a fully connected network from a file of `torch.save`, whoever wrote it.

A bare state_dict has any layer names, may be part of another program's checkpoint, and states neither its activation
nor how its pixels were normalised. Names are therefore ignored: the matrices must form a chain 784 -> ... -> 10, each
with its bias. The activation is assumed to be ReLU, which is reported. The
normalisation must be given (`--normalize`), with one exception: the seed, the program that this project started from,
publishes `mnist.pth`, whose exact keys and shapes (0.weight to 8.bias, 784-600-400-200-100-10, float32) are read with
the seed's normalisation, which is reported as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mnist_edge.contract import CLASSES, PIXELS, SIDE, WIDTHS, DatasetName, Normalization
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.model_kind import require_model_kind
from mnist_edge.records.training import TrainingFacts
from mnist_edge.training.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from mnist_edge.training.facts import training_facts
from mnist_edge.training.model import build_model
from mnist_edge.training.qat import QuantisedNetwork, deployed_network
from mnist_edge.training.recipes import Recipe
from mnist_edge.training.student import Student, quantised_network
from mnist_edge.training.torch_file import SAVE_STATE, State, listed, read_tensors

NORMALIZE_HINT = (
    "--normalize unit for x / 255, seed for -1 to 1, mnist for mean 0.1307 and deviation 0.3081, raw for 0 to 255"
)
USE_ONNX = "export the network with torch.onnx.export and give the ONNX file"

Layer = tuple[str, str]
"""Keys of a weight (out, in) and of its bias (out,)."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network, with what its file or the user states about it.

    Attributes:
        network: as `build_model` makes it, on the CPU; of a student, as `deployed_network` does.
        normalization: of the pixels that it was trained on.
        dataset: that it was trained on; None if the file does not state it.
        student: the integers, scales and biases of a student; None for a perceptron.
        recipe: that it was trained with; None if the file does not state it.
        training: how it was trained; None if the file does not state it.
        notes: assumptions and conversions, one line each.
    """

    network: nn.Sequential
    normalization: Normalization
    dataset: DatasetName | None = None
    student: QuantisedNetwork | None = None
    recipe: Recipe | None = None
    training: TrainingFacts | None = None
    notes: tuple[str, ...] = ()


def read_model(path: Path, normalization: Normalization | None = None) -> LoadedModel:
    """Read the network of a run folder, a checkpoint, or a file of `torch.save`.

    Args:
        path: recognised by its content, whatever its suffix.
        normalization: of the pixels that a state_dict was trained on; None where it need not be stated.

    Raises:
        UsageError: a state_dict without `normalization`, or a checkpoint with another one than its own.
        BadFileError: it holds no such network.
        UnavailableError: it does not exist or cannot be read.
    """
    file = checkpoint_path(path)
    if require_model_kind(file, "checkpoint", "state_dict") == "state_dict":
        return read_state_dict(file, normalization)
    checkpoint = load_checkpoint(file)
    if checkpoint.settings.student is not None:
        return _read_student(checkpoint, file, normalization)
    if normalization not in {None, "seed"}:
        raise UsageError(
            f"--normalize {normalization}: {file} was trained by mnist-edge on pixels from -1 to 1 (seed)",
            hint="leave --normalize out",
        )
    settings = checkpoint.settings
    return LoadedModel(
        network=checkpoint.model(),
        normalization="seed",
        dataset=settings.dataset,
        recipe=settings.recipe,
        training=training_facts(checkpoint),
    )


def _read_student(checkpoint: Checkpoint, file: Path, normalization: Normalization | None) -> LoadedModel:
    settings, student = checkpoint.settings, checkpoint.model()
    assert isinstance(student, Student)
    if normalization is not None:
        raise UsageError(
            f"--normalize {normalization}: {file} is a student, which takes raw pixels", hint="leave --normalize out"
        )
    network = quantised_network(student)
    for number, layer in enumerate(network.layers, 1):
        if not (np.isfinite(layer.scale).all() and np.isfinite(layer.bias).all()):
            raise BadFileError(
                f"{file}: scales or biases of layer {number} are beyond float16", hint="train it with a smaller --lr"
            )
    return LoadedModel(
        network=deployed_network(network),
        normalization="raw",
        dataset=settings.dataset,
        student=network,
        recipe=settings.recipe,
        training=training_facts(checkpoint),
    )


def read_state_dict(path: Path, normalization: Normalization | None = None) -> LoadedModel:
    """Read a bare state_dict, or one in another program's checkpoint; nothing in the file is executed.

    Raises:
        UsageError: its normalisation is neither given nor known.
        BadFileError: it holds no fully connected network 784-...-10; names keys and shapes.
    """
    state, wrapper = read_tensors(path)
    layers = _find_layers(state, path)
    published_by_seed = not wrapper and _is_seed_form(state)
    network, notes = _build(state, layers, path)
    if wrapper:
        notes.insert(0, f"{path}: reading the state_dict under {wrapper!r}")
    if normalization is None and not published_by_seed:
        raise UsageError(f"{path} does not state how its pixels were normalised", hint=NORMALIZE_HINT)
    if normalization is None:
        notes.append(f"{path} has the keys and shapes of the seed's network: assuming --normalize seed")
    if len(layers) > 1:
        notes.append(f"{path}: assuming ReLU between the linear layers; a state_dict does not record the activation")
    return LoadedModel(network=network, normalization=normalization or "seed", notes=tuple(notes))


def _find_layers(state: State, path: Path) -> list[Layer]:
    """Return the keys of the linear layers, input side first.

    The order of the file is that in which the layers were created; the natural order of the names (fc2 before fc10)
    is tried for a file that was written in another one. Where both form a chain and differ, the file is refused.
    """
    matrices = [key for key, value in state.items() if value.ndim == 2]
    biases = _biases(state, matrices)
    chains = [
        order for order in (matrices, sorted(matrices, key=_natural)) if order and _chain_fault(state, order) == ""
    ]
    unused = [key for key in state if key not in matrices and key not in biases.values()]
    fault, hint = "", USE_ONNX
    if any(re.search(r"running_(mean|var)$|num_batches_tracked$", key) for key in state):
        fault = "it has BatchNorm layers"
    elif any(value.ndim == 4 for value in state.values()):
        fault = "it is a convolutional network"
    elif not matrices:
        fault = "it holds no matrix of a linear layer"
    elif not chains:
        fault = _chain_fault(state, matrices)
        flipped = {key: state[key].T for key in matrices}
        if _chain_fault(flipped, matrices) == "":
            fault, hint = "its matrices are (in, out)", "transpose them: nn.Linear keeps (out, in)"
    elif bias_fault := _bias_fault(state, matrices, biases):
        fault = bias_fault
    elif unused:
        fault = f"{unused[0]} belongs to no linear layer"
    elif chains[0] != chains[-1]:
        fault = f"the order of its layers is not clear: {listed(chains[0])} or {listed(chains[-1])}"
    if fault:
        shapes = listed(f"{key} {tuple(value.shape)}" for key, value in state.items())
        raise BadFileError(
            f"{path} is no fully connected network {PIXELS}-...-{CLASSES} with biases: {fault} (it holds {shapes})",
            hint=hint,
        )
    return [(key, biases[key]) for key in chains[0]]


def _biases(state: State, matrices: list[str]) -> dict[str, str]:
    """Pair each weight with the bias of the same name, else with the next vector that has no weight of its name."""
    vectors = [key for key, value in state.items() if value.ndim == 1]
    paired = {}
    for key in matrices:
        named = "bias".join(key.rsplit("weight", 1))
        if named in vectors:
            paired[key] = named
    free = [key for key in vectors if key not in paired.values()]
    unpaired = [key for key in matrices if key not in paired]
    if len(free) == len(unpaired) and not any("weight" in key for key in unpaired):  # W1, b1, W2, b2
        paired |= dict(zip(unpaired, free, strict=True))
    return paired


def _bias_fault(state: State, matrices: list[str], biases: Mapping[str, str]) -> str:
    for key in matrices:
        if key not in biases:
            return f"{key} has no bias"
        if len(state[biases[key]]) != len(state[key]):
            return f"{biases[key]} is {tuple(state[biases[key]].shape)}, expected ({len(state[key])},)"
    return ""


def _chain_fault(state: Mapping[str, Tensor], order: list[str]) -> str:
    """Describe where matrices (out, in) in this order do not lead from 784 pixels to 10 classes; '' where they do."""
    width = PIXELS
    for key in order:
        outputs, inputs = state[key].shape
        if inputs != width:
            wanted = f"{PIXELS} ({SIDE}x{SIDE} pixels)" if key == order[0] else str(width)
            return f"{key} takes {inputs} values, expected {wanted}"
        width = outputs
    return "" if width == CLASSES else f"{order[-1]} gives {width} classes, expected {CLASSES}"


def _build(state: State, layers: list[Layer], path: Path) -> tuple[nn.Sequential, list[str]]:
    """Return the network in float32, and a note where another precision was converted."""
    network = build_model([len(state[bias]) for _, bias in layers[:-1]])
    converted: State = {}
    lossy = False
    for index, keys in enumerate(layers):
        for key, leaf in zip(keys, ("weight", "bias"), strict=True):
            value = state[key].detach()
            if not value.is_floating_point():
                raise BadFileError(f"{path}: {key} is {value.dtype}, expected a float type", hint=SAVE_STATE)
            single = value.to(torch.float32)
            if not bool(torch.isfinite(single).all()):
                raise BadFileError(
                    f"{path}: {key} holds NaN or infinite values as float32", hint="take an earlier checkpoint"
                )
            lossy = lossy or not torch.equal(single.to(torch.float64), value.to(torch.float64))
            converted[f"{2 * index}.{leaf}"] = single
    network.load_state_dict(converted)
    types = sorted({str(state[key].dtype).removeprefix("torch.") for keys in layers for key in keys} - {"float32"})
    if not types:
        return network, []
    return network, [f"{path}: converted {' and '.join(types)} to float32, {'rounded' if lossy else 'without loss'}"]


def _is_seed_form(state: State) -> bool:
    expected = build_model(WIDTHS).state_dict()
    return list(state) == list(expected) and all(
        state[key].shape == value.shape and state[key].dtype == value.dtype for key, value in expected.items()
    )


def _natural(key: str) -> list[tuple[int, str]]:
    """Sort key under which fc2 comes before fc10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]
