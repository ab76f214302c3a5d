"""The faults that tests plant: the benchmark's one list, and those that only a test needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.planted_faults import CONTROL, FAULTS, Fault, Golden, gemms, get, put

__all__ = ["BY_NAME", "CONTROL", "FAULTS", "FITTING", "Fault", "Golden", "change", "gemms", "get", "put"]

Array = NDArray[np.float32]


def change(
    layer: int, normalization: Callable[[Array, Array], tuple[Array, Array]]
) -> Callable[[ModelProto, Golden], ModelProto]:
    """A fault in the weight (out, in) and bias of a layer, from 1."""

    def plant(proto: ModelProto, _golden: Golden) -> ModelProto:
        changed = ModelProto()
        changed.CopyFrom(proto)
        node = gemms(changed)[layer - 1]
        arrays = normalization(get(changed, node.input[1]), get(changed, node.input[2]))
        for name, array in zip(node.input[1:], arrays, strict=True):
            put(changed, name, array.astype(np.float32))
        return changed

    return plant


def _part_transposed(weight: Array, bias: Array) -> tuple[Array, Array]:
    return np.concatenate([weight[:, :10].T, weight[:, 10:]], axis=1), bias


def _sign_of_row(row: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    def flip(weight: Array, bias: Array) -> tuple[Array, Array]:
        weight[row] *= -1
        return weight, bias

    return flip


def _nine_classes(proto: ModelProto, golden: Golden) -> ModelProto:
    changed = change(3, lambda weight, bias: (weight[:9], bias[:9]))(proto, golden)
    changed.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    return changed


MORE = (
    Fault("a square part transposed", change(3, _part_transposed), 3),
    Fault("one row's sign", change(3, _sign_of_row(7)), 3),
    Fault("one hidden row's sign", change(2, _sign_of_row(3)), 2),
    Fault("first layer 1 % larger", change(1, lambda weight, bias: (weight * 1.01, bias)), 1),
    Fault("a doubled bias", change(2, lambda weight, bias: (weight, 2 * bias)), 2),
    Fault("classes moved by one", change(3, lambda weight, bias: (np.roll(weight, -1, 0), np.roll(bias, -1))), 3),
    Fault("nine classes", _nine_classes, 3),
)
"""For a network of three layers of any shape."""

NEEDS_EQUAL_LAYERS = {"square weight transposed", "two layers swapped"}
FITTING = tuple(
    fault
    for fault in (*FAULTS, *MORE)
    if fault.precision == "fp32" and fault.name not in NEEDS_EQUAL_LAYERS and fault.name != "golden inputs memorised"
)
"""Those that the small bundle of the digits has a place for; its golden inputs hold the whole test set."""
BY_NAME = {fault.name: fault for fault in (*CONTROL, *FAULTS, *MORE)}
