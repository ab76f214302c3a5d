"""Names, shapes and choices that all stages share. Imports nothing heavy, because `--help` reads it."""

from __future__ import annotations

from typing import Literal, get_args

VERSION = "0.1.0"
SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10
WIDTHS = (600, 400, 200, 100)
"""Hidden widths of the network 784-600-400-200-100-10 of the seed, the program that this project started from."""

OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"

DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "digits", "folder"]
"""A dataset as records name it. Every folder of a user's own digits is `folder`: a path in a bundle would identify the
machine, and equal digits would give unequal bytes."""
OPSET = 20
OPSETS = range(18, 24)
"""ONNX operator sets that the exporter converts to and onnxruntime 1.30 still runs."""

DatasetChoice = Literal["mnist", "fashion-mnist", "kmnist", "digits", "auto"]
"""Values of `--dataset` besides a folder: a dataset, or `auto`, which is MNIST where available, otherwise the digits."""
DATASET_CHOICES: tuple[DatasetChoice, ...] = get_args(DatasetChoice)
InputKind = Literal["uint8", "float"]
"""How an exported graph takes an image: `image` uint8 (batch, 28, 28), or
`pixels` float32 (batch, 784) already normalised."""
INPUT_NAMES: dict[InputKind, str] = {"uint8": "image", "float": "pixels"}
INPUTS: dict[InputKind, str] = {
    "uint8": f"image uint8 (batch, {SIDE}, {SIDE})",
    "float": f"pixels float32 (batch, {PIXELS})",
}
"""Name, dtype and shape of each kind of input, as manifests record them and errors describe them."""

Normalization = Literal["raw", "unit", "seed", "mnist"]
"""What a float model expects of its pixels: 0..255, 0..1, the seed's -1..1, or
MNIST's mean 0 and standard deviation 1."""
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

VariantFormat = Literal["onnx"]
"""File formats of a variant's model."""
Precision = Literal["fp32", "fp16", "int8", "int4", "int2"]
"""Coarsest number format of a variant's weights or activations."""
RequirementKind = Literal["exact", "lossy", "accuracy"]
"""What a variant must prove: `exact`, every logit of its reference to a tolerance; `lossy`, logits whose drift its
precision explains, and no loss of accuracy; `accuracy`, no loss of accuracy alone, for weights of its own (pruned,
distilled)."""
StudentName = Literal["fast", "3k", "6k", "12k", "40k"]
"""Small networks with low-bit weights: one for latency, and those named by the approximate bytes of their weights."""
ArithmeticName = Literal["fp32", "tf32", "fp16", "bf16"]
"""What a machine may compute in, for a certificate: IEEE binary32, or factors rounded to another format whose products are
summed in binary32."""
MAX_DROP = 0.001
"""Accuracy that a variant may lose by default, as a fraction of 1."""


def allowed_drop(percentage_points: float) -> tuple[str, ...]:
    """Return the words with which `verify` allows this loss of accuracy; none where its default allows it."""
    return ("--max-accuracy-drop", f"{percentage_points:g}") if percentage_points > 100 * MAX_DROP else ()


PYTORCH = "pytorch"
"""The reference of a variant that is compared with the PyTorch outputs recorded in the bundle."""

TargetName = Literal["c", "web", "triton", "onnxruntime", "onnxruntime-web"]
"""What a variant can be generated for; the last two run its file as it is, on another CPU and in a browser."""

ProviderName = Literal["cpu", "cuda"]
Optimization = Literal["none", "basic", "extended", "all"]
"""How far onnxruntime may rewrite a graph before it runs it; `all` is its own default."""
DeviceName = Literal["auto", "cpu", "cuda"]
LogName = Literal["tensorboard"]
"""Where a run's loss and accuracy are logged besides its CSV files."""
ScenarioName = Literal["single-stream", "multi-stream", "server", "offline", "idle"]
"""How requests arrive, named as in MLPerf Inference; `idle` is one request after a pause."""
Objective = Literal["latency", "size", "throughput", "cold-start"]
"""What `tune` makes as good as the limits allow: p50 of a run, bytes of the file, images per second, or the time from an
open process to the first output."""

LABELS: dict[DatasetName, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "digits": tuple("0123456789"),
    "folder": tuple("0123456789"),
}  # fmt: skip

MAX_SEED = 2**63 - 1
"""The largest seed that PyTorch, NumPy and a checkpoint all hold."""


def variant_name(student: StudentName) -> str:
    """Return what the variant of a student is called."""
    return f"student-{student}"
