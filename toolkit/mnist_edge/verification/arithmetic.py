"""How machines round: IEEE binary32, and the coarser formats that accelerators multiply in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import ArithmeticName
from mnist_edge.verification.linear_chain import LinearChain

Weights = NDArray[np.float32]
Rounding = Callable[[Weights], Weights]

UNDERFLOW = 2.0**-126
"""Largest value that one operation, or the reading of one factor, loses where subnormals are flushed to zero."""
LARGEST = 2.0**127
"""No sum may exceed it, so that nothing becomes infinite in binary32."""
TENSOR_CORE = 2.0**-22
"""`accumulation` of tensor cores, which truncate, and align the products of a block to the largest of them: at most two
truncations by 2**-23 for each term."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a machine may round.

    Attributes:
        weights: the ways in which it may round the stored weights, to values that are then exact; none where it reads them
            as they are.
        factor: largest relative error of an activation that is rounded before it is multiplied.
        factor_underflow: largest absolute error of the same where it is too small for the format.
        accumulation: largest relative error of a product, and of each addition.
        stored: largest relative error of a bias or logit that is stored in the format.
        largest: the largest weight or activation that the format holds.
    """

    weights: tuple[Rounding, ...] = ()
    factor: float = 0.0
    factor_underflow: float = UNDERFLOW
    accumulation: float = 2.0**-24
    stored: float = 0.0
    largest: float = LARGEST

    def rounded(self, chain: LinearChain) -> list[LinearChain]:
        """Return the network with its weights as a machine may read them, one for each way of rounding."""
        if not self.weights:
            return [chain]
        return [
            replace(chain, layers=tuple(replace(layer, weight=way(layer.weight)) for layer in chain.layers))
            for way in self.weights
        ]


def _half(weights: Weights) -> Weights:
    with np.errstate(over="ignore"):  # an infinite weight is refused as out of range
        return weights.astype(np.float16).astype(np.float32)


def _to_bits(bits: int, to_integer: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Rounding:
    """Return the rounding to a significand of this many bits."""

    def rounded(weights: Weights) -> Weights:
        significand, exponent = np.frexp(weights.astype(np.float64))
        return np.asarray(np.ldexp(to_integer(np.ldexp(significand, bits)), exponent - bits).astype(np.float32))

    return rounded


def _away(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the nearest integer, halves away from zero."""
    return np.asarray(np.trunc(values + np.copysign(0.5, values)))


ARITHMETICS: dict[ArithmeticName, Arithmetic] = {
    "fp32": Arithmetic(),
    # Hardware rounds to nearest, with either rule for ties, or ignores the low bits.
    "tf32": Arithmetic(
        weights=(_to_bits(11, np.rint), _to_bits(11, _away), _to_bits(11, np.trunc)),
        factor=2.0**-10,
        accumulation=TENSOR_CORE,
    ),
    "fp16": Arithmetic(
        weights=(_half,),
        factor=2.0**-11,
        factor_underflow=2.0**-25,
        accumulation=TENSOR_CORE,
        stored=2.0**-11,
        largest=65504.0,
    ),
    "bf16": Arithmetic(weights=(_to_bits(8, np.rint),), factor=2.0**-8, accumulation=TENSOR_CORE, stored=2.0**-8),
}
FLOAT64 = Arithmetic(accumulation=2.0**-53)
"""Of the evaluation itself; its bounds say by how much two machines may differ that evaluate the same chain in float64."""
