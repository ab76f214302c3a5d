"""How 8-bit integers are used: what each family of CPUs multiplies fast, and without overflow."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Integer types of a statically quantised network. Weights are int8, their zero point 0.

    Attributes:
        name: of the family of CPUs.
        signed: hidden activations are int8 with zero point -128; otherwise uint8 with zero point 0. The image is
            always uint8.
        reduce_range: weights are limited to 7 bits. Without VNNI, x86 adds two products of uint8 and int8 in 16 bits,
            which 2 * 255 * 127 would overflow.
    """

    name: str
    signed: bool
    reduce_range: bool

    @property
    def weight_limit(self) -> int:
        """Largest absolute value of a quantised weight."""
        return 63 if self.reduce_range else 127

    @property
    def zero_point(self) -> np.integer[Any]:
        """Of hidden activations: what 0, the smallest output of a ReLU, is stored as."""
        return np.int8(-128) if self.signed else np.uint8(0)

    def described(self) -> dict[str, Any]:
        """Return it as JSON values, for the manifest."""
        return {
            "scheme": self.name,
            "activations": "int8" if self.signed else "uint8",
            "weights": "int8",
            "weight_limit": self.weight_limit,
        }


X86_VNNI = Scheme(name="x86 with VNNI", signed=False, reduce_range=False)
X86 = Scheme(name="x86 without VNNI", signed=False, reduce_range=True)
ARM = Scheme(name="Arm", signed=True, reduce_range=False)


def scheme_for(features: Sequence[str], machine: str = "") -> Scheme:
    """Return the scheme for a CPU.

    Args:
        features: as `cpus.cpu_model` returns them.
        machine: architecture as `platform.machine` names it; this machine's by default.
    """
    if (machine or platform.machine()).lower() in {"aarch64", "arm64", "armv7l", "armv8l"}:
        return ARM
    return X86_VNNI if VNNI.intersection(features) else X86
