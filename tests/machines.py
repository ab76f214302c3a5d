"""Machines that compute a chain of linear layers in their own order and format, one rounding at a time.

They are written for the tests of the certificate and share no code with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.verification.linear_chain import LinearChain

SMALLEST_NORMAL = np.float32(2.0**-126)


def bits_cut(values: NDArray[np.float32], kept: int, *, truncate: bool) -> NDArray[np.float32]:
    """float32 with so many fraction bits, rounded half to even or truncated."""
    raw = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    dropped = 23 - kept
    if not truncate:
        raw = raw + ((1 << (dropped - 1)) - 1) + ((raw >> dropped) & 1)
    return ((raw >> dropped) << dropped).astype(np.uint32).view(np.float32)


def as_factor(values: NDArray[np.float32], arithmetic: str, *, truncate: bool) -> NDArray[np.float32]:
    """A weight or activation as a machine reads it before it multiplies."""
    if arithmetic == "fp16":
        return values.astype(np.float16).astype(np.float32)
    if arithmetic == "tf32":
        return bits_cut(values, 10, truncate=truncate)
    return bits_cut(values, 7, truncate=False) if arithmetic == "bf16" else values


@dataclass(frozen=True)
class Machine:
    """How sums are formed.

    Attributes:
        seed: of the order of the terms, a new one in each layer.
        order: "random" one after the other, "tree" in pairs, "signs" all positive terms first: the partial sums, and
            with them the errors, are then as large as they get. "blocks" adds 8 products and the sum so far at once, the
            largest first, each cut to the bits of the largest of them, as tensor cores do.
        fused: a product is added before it is rounded.
        flush: subnormals become 0, when they are read and when they are computed.
        arithmetic, truncate: format of factors.
        stored: biases and logits are rounded to that format as well, if it has 16 bits.
    """

    seed: int
    order: str = "random"
    fused: bool = False
    flush: bool = False
    arithmetic: str = "fp32"
    truncate: bool = False
    stored: bool = False

    def logits(self, chain: LinearChain, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Run rows (n, in) through the chain: float32 (n, out)."""
        random = np.random.default_rng(self.seed)
        values = inputs.astype(np.float32)
        for layer in chain.layers:
            bias = self._stored(layer.bias)
            values = np.stack([self._layer(layer.weight, bias, row, random) for row in values])
            values = np.maximum(values, 0) if layer.relu else values
        return self._stored(values)

    def _stored(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        short = self.stored and self.arithmetic in {"fp16", "bf16"}
        return as_factor(values, self.arithmetic, truncate=False) if short else values

    def _flushed(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(np.abs(values) < SMALLEST_NORMAL, np.float32(0), values) if self.flush else values

    def _layer(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        row: NDArray[np.float32],
        random: np.random.Generator,
    ) -> NDArray[np.float32]:
        w = self._flushed(as_factor(weight, self.arithmetic, truncate=self.truncate))
        a = self._flushed(as_factor(row, self.arithmetic, truncate=self.truncate))
        exact = w.astype(np.float64) * a  # 24 bits times 24 bits fit
        terms = np.concatenate([exact, bias[:, None].astype(np.float64)], axis=1)
        order = random.permuted(np.tile(np.arange(terms.shape[1]), (len(terms), 1)), axis=1)
        if self.order == "signs":
            order = np.argsort(-np.sign(terms), axis=1, kind="stable")
        if self.order == "blocks":
            order = np.argsort(-np.abs(terms), axis=1, kind="stable")
        terms = np.take_along_axis(terms, order, axis=1)
        rounded = self._flushed(terms.astype(np.float32))
        if self.order == "tree":
            return self._tree(rounded)
        if self.order == "blocks":
            return self._blocks(terms)
        total = rounded[:, 0]
        for column in range(1, terms.shape[1]):
            if self.fused:  # one rounding; longdouble holds the sum to 64 bits
                total = (total.astype(np.longdouble) + terms[:, column]).astype(np.float32)
            else:
                total = total + rounded[:, column]
            total = self._flushed(total)
        return total

    def _tree(self, terms: NDArray[np.float32]) -> NDArray[np.float32]:
        while terms.shape[1] > 1:
            odd = terms[:, :1] if terms.shape[1] % 2 else terms[:, :0]
            rest = terms[:, odd.shape[1] :]
            terms = np.concatenate([odd, self._flushed(rest[:, ::2] + rest[:, 1::2])], axis=1)
        return terms[:, 0]

    def _blocks(self, terms: NDArray[np.float64]) -> NDArray[np.float32]:
        total = np.zeros((len(terms), 1))
        for start in range(0, terms.shape[1], 8):
            block = np.concatenate([total, terms[:, start : start + 8]], axis=1)
            _, exponent = np.frexp(np.abs(block).max(axis=1, keepdims=True))
            total = cut(cut(block, exponent).sum(axis=1, keepdims=True))
        return self._flushed(total[:, 0].astype(np.float32))


def cut(values: NDArray[np.float64], exponent: NDArray[np.int32] | None = None) -> NDArray[np.float64]:
    """Values without what lies below 24 bits, of themselves or of a number with a larger exponent."""
    exponent = np.frexp(values)[1] if exponent is None else exponent
    return np.ldexp(np.trunc(np.ldexp(values, 24 - exponent)), exponent - 24)
