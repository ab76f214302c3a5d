"""Read and write checkpoints: one safetensors file each, with state as tensors, settings and progress as JSON, no pickle.

safetensors checks structure, not content, so the metadata holds a sha256 over everything else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import require_regular_file, write_atomic
from mnist_edge.records.training import EpochRecord
from mnist_edge.training.checkpoint_checks import (
    MODEL,
    MOMENTUM,
    check_declared,
    check_environment,
    check_progress,
    check_settings,
    check_values,
)
from mnist_edge.training.network import build_network
from mnist_edge.training.recipes import Settings
from mnist_edge.validation import validated

SCHEMA = "mnist-edge/checkpoint/1"
ENTRY = "mnist_edge"
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
MAX_HEADER = 32 * 2**20
"""Bytes: the history of 100,000 epochs, the most that a recipe can have, takes about 20 MB."""


@dataclass(kw_only=True)
class Progress:
    """The progress of a run.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the current epoch.
        seconds: time spent on the current epoch.
        history: one record per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)


@dataclass(kw_only=True)
class Checkpoint:
    """The complete state of a run, from which it continues bit for bit on the same machine.

    Attributes:
        weights: the model's state_dict, float32.
        momentum: buffers under the same keys; empty for plain SGD.
        sampler: state of the generator that orders and deforms the images, at the start of the current epoch, uint8.
            It is the only randomness after the initial weights.
        loss_sum: float32 scalar, sum of the losses of the current epoch.
        curve: float32 (K,), the loss of every 30th step so far.
        environment: that bit-equality depends on: device, threads, CPU capability, version of torch.
        sha256: of the content; empty until it is saved or loaded.
    """

    settings: Settings
    progress: Progress
    environment: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)
    momentum: dict[str, Tensor] = field(default_factory=dict)
    sampler: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    curve: Tensor = field(default_factory=lambda: torch.zeros(0))
    sha256: str = ""

    def model(self) -> nn.Sequential:
        """Return the model with these weights, on the CPU."""
        model = build_network(self.settings)
        model.load_state_dict(self.weights)
        return model


def environment_of(device: torch.device) -> dict[str, Any]:
    """Return the properties in which two runs must agree to be bit-equal."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, keep: bool = True) -> Path:
    """Write `last.safetensors` into the run folder; with `keep`, its old content becomes `previous.safetensors`.

    Raises:
        UnavailableError: disk full or folder read-only; both files are unchanged.
    """
    tensors = {f"{MODEL}{key}": value for key, value in checkpoint.weights.items()}
    tensors |= {f"{MOMENTUM}{key}": value for key, value in checkpoint.momentum.items()}
    tensors |= {"rng.sampler": checkpoint.sampler, "epoch.loss_sum": checkpoint.loss_sum, "curve": checkpoint.curve}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": asdict(checkpoint.settings),
        "progress": asdict(checkpoint.progress),
        "environment": checkpoint.environment,
    }
    checkpoint.sha256 = _digest(tensors, metadata)
    # A single entry: safetensors writes several in no fixed order, and equal content must give equal bytes.
    entry = json.dumps({**metadata, "sha256": checkpoint.sha256})
    write_atomic(run / LAST, save(tensors, {ENTRY: entry}), previous=run / PREVIOUS if keep else None)
    return run / LAST


def _digest(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """Return the sha256 of the metadata and every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def checkpoint_path(path: Path) -> Path:
    """Return the checkpoint file of a run folder, or the file itself.

    Raises:
        UnavailableError: there is none.
    """
    file = path / LAST if path.is_dir() else path
    if not file.exists():
        raise UnavailableError(f"{file} does not exist", hint="mnist-edge train makes one; check the path")
    return file


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check all of its content before any of it is used; see `checkpoint_checks`.

    Raises:
        BadFileError: it is damaged, not a checkpoint of this version, or holds what no run can have written;
            names the file and the field.
        UnavailableError: it does not exist or may not be read.
    """
    previous = path.with_name(PREVIOUS)
    hint = "give another checkpoint"
    if path.name == LAST and previous.exists():
        hint = f"the previous one is kept: {previous}"
    require_regular_file(path, "a checkpoint", hint=hint)
    try:
        _check_header_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(json.loads((file.metadata() or {}).get(ENTRY, "{}")))
            keys = list(file.keys())
            slices = {key: file.get_slice(key) for key in keys}
            declared = {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
            checkpoint = _without_tensors(metadata, path, hint)
            check_declared(declared, checkpoint.settings, checkpoint.progress)
            tensors = {key: file.get_tensor(key).clone() for key in keys}  # else they are views of the mapped file
    except (SafetensorError, OSError, TypeError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadFileError(f"{path} is not a complete safetensors file ({error})", hint=hint) from error
    except KeyError as error:
        raise BadFileError(f"{path}: {error.args[0]} is missing", hint=hint) from error
    except (ValueError, OverflowError) as error:
        raise BadFileError(f"{path}: {error}", hint=hint) from error
    checkpoint.sha256 = str(metadata.pop("sha256", ""))
    if checkpoint.sha256 != _digest(tensors, metadata):
        raise BadFileError(f"{path} is damaged: its content does not match its sha256", hint=hint)
    try:
        check_values(tensors)
    except ValueError as error:
        raise BadFileError(f"{path}: {error}", hint=hint) from error
    checkpoint.weights, checkpoint.momentum = _part(tensors, MODEL), _part(tensors, MOMENTUM)
    checkpoint.sampler = tensors["rng.sampler"]
    checkpoint.loss_sum, checkpoint.curve = tensors["epoch.loss_sum"], tensors["curve"]
    return checkpoint


def _check_header_size(path: Path) -> None:
    """Raise ValueError where the JSON header declares more than the file holds, or than any run writes."""
    with path.open("rb") as file:
        declared = int.from_bytes(file.read(8), "little")
    most = min(path.stat().st_size - 8, MAX_HEADER)
    if declared > most:
        raise ValueError(f"its header declares {declared} bytes, expected at most {most}")


def _without_tensors(metadata: dict[str, Any], path: Path, hint: str) -> Checkpoint:
    """Return the checked settings, progress and environment; the tensors are still empty."""
    if metadata.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {metadata.get('schema')!r}, this version reads {SCHEMA!r}")
    settings = validated(Settings, metadata["settings"], path, hint)
    check_settings(settings, metadata["settings"])
    progress = validated(Progress, metadata["progress"], path, hint)
    check_progress(progress, settings)
    # Early checkpoints of schema 1 have the environment under another name.
    environment = metadata["surroundings"] if "surroundings" in metadata else metadata["environment"]
    check_environment(environment)
    return Checkpoint(settings=settings, progress=progress, environment=environment)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
