"""Seeded mutations of bytes, JSON values and arrays: equal seeds give equal inputs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTERESTING = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80",
    b"\x1b[2J", b"\r\n", b"../", b"NaN", b"-1", b"1e400", b"{", b"[" * 64, b'"', b"PK\x03\x04", b"\x93NUMPY",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -0.5, 1e308, float("nan"), float("inf"), "", "\x1b[31m", "\u202e",
    "../../etc/passwd", "a" * 100_000, [], {}, [[]], [1, 2], {"a": 1},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change 1 to 6 places: flip, overwrite, insert, delete, repeat or cut."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            return rng.choice(INTERESTING)
        # Headers decide more than payloads: half of all changes fall into the first 256 bytes or the last.
        reach = rng.choice((len(data), min(256, len(data))))
        at = rng.randrange(reach)
        at = len(data) - 1 - at if rng.random() < 0.2 else at
        piece = rng.choice(INTERESTING)
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == 3:
            data = data[:at] + piece + data[at:]
        elif kind == 4:
            data = data[:at] + data[at + rng.choice((1, 4, 64, 4096)) :]
        elif kind == 5:
            data = data[:at] + data[at : at + rng.choice((1, 8, 512))] * 2 + data[at:]
        else:
            data = data[:at]
    return data


def mutate_value(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """Replace, drop, add or rename one thing somewhere inside a JSON value."""
    if depth >= 8 or rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(value, dict) and value:
        return _mutate_dict(value, rng, depth)
    if isinstance(value, list) and value:
        at, kind = rng.randrange(len(value)), rng.random()
        if kind < 0.2:  # one item less, or one twice
            return value[:at] + value[at + 1 :] if kind < 0.1 else value[: at + 1] + value[at:]
        return [*value[:at], mutate_value(value[at], rng, depth + 1), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 10**6, value - 1, 0.3))
    return rng.choice(VALUES)


def _mutate_dict(value: dict[str, Any], rng: random.Random, depth: int) -> dict[str, Any]:
    key, kind = rng.choice(list(value)), rng.random()
    if kind < 0.1:
        return {name: item for name, item in value.items() if name != key}
    if kind < 0.15:
        return {**value, rng.choice(("", "x", "\x1b[1m", "__class__")): value[key]}
    return {**value, key: mutate_value(value[key], rng, depth + 1)}


def mutate_array(array: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    """Change the shape, the dtype or a few values of an array."""
    kind = rng.randrange(7)
    if kind == 0:
        return array.reshape(-1)
    if kind == 1:
        return array[: len(array) // 2] if array.ndim else array.reshape(1)
    if kind == 2:
        dtype = rng.choice(("float64", "float16", "int64", "int8", "uint8", "bool", "U3", "complex64"))
        with np.errstate(all="ignore"):
            return array.real.astype(dtype) if array.dtype.kind not in "US" else array
    if kind == 3:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    if kind == 4:
        return array[None]
    changed = array.copy()
    if changed.size:
        flat = changed.reshape(-1)
        choices: tuple[Any, ...] = (np.nan, np.inf, -1e30, 1e30) if changed.dtype.kind == "f" else (0, 255, 127, 1)
        with np.errstate(all="ignore"):
            flat[rng.randrange(flat.size)] = np.asarray(rng.choice(choices)).astype(changed.dtype)
    return changed
