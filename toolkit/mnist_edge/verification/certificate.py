"""Certify the predictions that rounding cannot change on any machine with some arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.pixels import Logits
from mnist_edge.verification.arithmetic import Arithmetic
from mnist_edge.verification.bounds import ChainBounds, Floats, Inputs, bound_chain
from mnist_edge.verification.linear_chain import LinearChain

CHUNK = 250
"""Images at a time: the influence of 600 units on 10 logits then takes 12 MB."""


@dataclass(frozen=True, kw_only=True)
class LogitBounds:
    """What every machine computes for N images.

    Attributes:
        logits: float64 (N, classes), of the network as stored, evaluated in float64.
        errors: float64 (N, classes): no machine's logit differs from `logits` by more.
    """

    logits: Floats
    errors: Floats


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """Whether each of N predictions is certain.

    Attributes:
        bounds: of the logits.
        margins: (N,), of the predicted class over the one that may come closest to it; negative where another class wins.
        allowed: (N,), by how much errors may reduce that margin.
        certain: bool (N,), whether each margin over every class is larger than what errors may take from it.
    """

    bounds: LogitBounds
    margins: Floats
    allowed: Floats
    certain: NDArray[np.bool_]


def exact_logits(chain: LinearChain, inputs: Inputs) -> Floats:
    """Return the logits of a network evaluated in float64, (N, classes), for inputs (N, in)."""
    values = inputs.astype(np.float64)
    for layer in chain.layers:
        values = values @ layer.weight.T.astype(np.float64) + layer.bias
        values = np.maximum(values, 0) if layer.relu else values
    return values


def bound_logits(chain: LinearChain, inputs: Inputs, arithmetic: Arithmetic) -> LogitBounds:
    """Bound the logits that a machine with this arithmetic may compute, in any order of summation.

    Args:
        chain: the network.
        inputs: uint8 or float32 (N, in), exactly as the machine is given them.
        arithmetic: how it rounds.

    Raises:
        NoCertificateError: as `bound_chain`.
    """
    return certify(chain, inputs, np.zeros(len(inputs), np.intp), arithmetic).bounds


def certify(
    chain: LinearChain,
    inputs: Inputs,
    predictions: NDArray[np.intp],
    arithmetic: Arithmetic,
    *,
    difference: float = 0.0,
    reference: Logits | None = None,
) -> Certainty:
    """Decide which predictions no machine with this arithmetic can change.

    Args:
        chain, inputs, arithmetic: as `bound_logits` takes them.
        predictions: (N,), the classes that must win.
        difference: by how much the exact logits of the network that predicted them may differ from the chain's.
        reference: float32 (N, classes), its logits as some machine computed them: where they are given, their largest
            difference from the chain's is added for each image.

    Raises:
        NoCertificateError: as `bound_chain`.
    """
    readings = arithmetic.rounded(chain)
    parts = []
    for start in range(0, len(inputs), CHUNK):
        rows = slice(start, start + CHUNK)
        cases = [bound_chain(reading, inputs[rows], predictions[rows], arithmetic) for reading in readings]
        exact = exact_logits(chain, inputs[rows]) if arithmetic.weights else cases[0].logits
        differences = np.full((len(exact), 1), difference)
        if reference is not None:
            differences += np.abs(exact - reference[rows]).max(axis=1, keepdims=True)
        # A machine reads its weights in one of these ways: what is certain must be so for each of them.
        parts.append(_worst([_compared(case, exact, predictions[rows], differences) for case in cases]))
    return _joined(parts)


def _compared(case: ChainBounds, exact: Floats, predictions: NDArray[np.intp], differences: Floats) -> Certainty:
    """Compare the predicted class of each image with every other one.

    Args:
        case: for weights as the machine reads them.
        exact: (n, classes), logits with the weights as stored.
        predictions: (n,).
        differences: (n, 1), what is added to the bound of each logit.
    """
    rows = np.arange(len(predictions))
    margins = case.logits[rows, predictions, None] - case.logits
    allowed = case.pairs + 2 * differences + np.abs(margins) * 2.0**-52  # the subtraction is rounded as well
    left = margins - allowed
    left[rows, predictions] = np.inf
    closest = left.argmin(axis=1)
    return Certainty(
        bounds=LogitBounds(logits=exact, errors=case.each + np.abs(case.logits - exact) + differences),
        margins=margins[rows, closest],
        allowed=allowed[rows, closest],
        certain=left[rows, closest] > 0,
    )


def _worst(cases: list[Certainty]) -> Certainty:
    left = np.stack([case.margins - case.allowed for case in cases])
    chosen = left.argmin(axis=0), np.arange(left.shape[1])
    errors = np.max([case.bounds.errors for case in cases], axis=0)
    return Certainty(
        bounds=LogitBounds(logits=cases[0].bounds.logits, errors=errors),
        margins=np.stack([case.margins for case in cases])[chosen],
        allowed=np.stack([case.allowed for case in cases])[chosen],
        certain=np.all([case.certain for case in cases], axis=0),
    )


def _joined(parts: list[Certainty]) -> Certainty:
    return Certainty(
        bounds=LogitBounds(
            logits=np.concatenate([part.bounds.logits for part in parts]),
            errors=np.concatenate([part.bounds.errors for part in parts]),
        ),
        margins=np.concatenate([part.margins for part in parts]),
        allowed=np.concatenate([part.allowed for part in parts]),
        certain=np.concatenate([part.certain for part in parts]),
    )
