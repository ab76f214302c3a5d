"""Bound what rounding does to the logits of a network, on every machine with some arithmetic at once.

The error of a sum of rounded products is bounded whatever the order of summation, and whether products are fused with
additions or not: Higham (2002), *Accuracy and Stability of Numerical Algorithms*, section 3.1. A pass forward bounds what
rounding adds in each layer, with the errors of its inputs at their worst. A pass backward multiplies that by how strongly
each unit influences each logit, so that later layers may cancel errors, as they do in the network: on a network of recipe
`fast` the bounds are then 20 times smaller.

Everything is computed in float64. Its own rounding error is part of each bound, and bounds are rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.errors import CheckFailedError
from mnist_edge.verification.arithmetic import FLOAT64, LARGEST, UNDERFLOW, Arithmetic
from mnist_edge.verification.linear_chain import LinearChain, LinearLayer

Floats = NDArray[np.float64]
Inputs = NDArray[np.uint8] | NDArray[np.float32]


class NoCertificateError(CheckFailedError):
    """Nothing can be certified; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class ChainBounds:
    """What machines compute for n images that read the weights in the same way.

    Attributes:
        logits: (n, classes), in float64.
        each: (n, classes), of the error of each logit.
        pairs: (n, classes), of the error of the predicted class's margin over each class. The error that two logits share,
            because both come from the same activations, counts only as far as their weights differ.
    """

    logits: Floats
    each: Floats
    pairs: Floats


def bound_chain(
    chain: LinearChain, inputs: Inputs, predictions: NDArray[np.intp], arithmetic: Arithmetic
) -> ChainBounds:
    """Bound the logits of a network, and the margins of the predicted classes.

    Args:
        chain: with weights as the machines read them.
        inputs: uint8 or float32 (n, in); with 600 units in a layer, 250 images take 50 MB.
        predictions: (n,), classes.
        arithmetic: of the machines.

    Raises:
        NoCertificateError: a weight or activation is beyond the range of the arithmetic, or the logits pass a ReLU.
    """
    if chain.layers[-1].relu:
        raise NoCertificateError("the logits pass a Relu, so that several may be 0")
    return _backward(_forward(chain, inputs, arithmetic), predictions)


@dataclass(frozen=True, kw_only=True)
class _LayerBounds:
    """One layer for n images.

    Attributes:
        weight: float64 (out, in).
        outputs: (n, out), before the ReLU, in float64.
        own: (n, out), bounds of what rounding within this layer adds to their error.
        errors: (n, out), bounds of their whole error.
        active: bool (n, out), whether an error of the output is one of the activation: the ReLU is taken as a line.
        bend: (n, out), by how much that may be wrong, because an error may carry the output across 0.
    """

    weight: Floats
    outputs: Floats
    own: Floats
    errors: Floats
    active: NDArray[np.bool_]
    bend: Floats


def _forward(chain: LinearChain, inputs: Inputs, arithmetic: Arithmetic) -> list[_LayerBounds]:
    """Bound the errors of every layer from those of its inputs, taking all of them at their worst."""
    values = inputs.astype(np.float64)
    errors = np.zeros_like(values)
    found = []
    for number, layer in enumerate(chain.layers, 1):
        whole = number == 1 and inputs.dtype == np.uint8  # up to 255: exact in every format
        weight = layer.weight.astype(np.float64)
        size = np.abs(weight).T
        rounding, constant = _rounding(number, layer, values, errors, arithmetic, whole=whole)
        own = _up(rounding @ size + constant, len(size))
        outputs = values @ weight.T + layer.bias
        inherited = _up(errors @ size, len(size))
        if number == len(chain.layers):
            own = own + arithmetic.stored * (np.abs(outputs) + inherited + own) + arithmetic.factor_underflow
            _require_below("logits", np.abs(outputs) + inherited + own, arithmetic)
        errors = inherited + own
        active = outputs > 0 if layer.relu else np.ones(outputs.shape, bool)
        # An error d turns relu(z) into max(z + d, 0). For z > 0 that is d, unless d < -z; for z <= 0 it is 0, unless d > -z.
        bend = np.maximum(errors - np.abs(outputs), 0) if layer.relu else np.zeros_like(outputs)
        found.append(_LayerBounds(weight=weight, outputs=outputs, own=own, errors=errors, active=active, bend=bend))
        values = np.where(active, outputs, 0)
        errors = np.where(active | (bend > 0), errors, 0)  # elsewhere 0 on every machine
    return found


def _backward(layers: list[_LayerBounds], predictions: NDArray[np.intp]) -> ChainBounds:
    """Bound the logits by what each layer adds, times its influence on them.

    The error of the logits is the sum over all layers of `influence @ added`, exactly, where `influence` is the product of
    the later weights and of the ReLUs' slopes, 0 or 1.
    """
    last, rows = layers[-1], np.arange(len(predictions))
    images, classes = last.outputs.shape
    each = last.own.copy()
    pairs = last.own + last.own[rows, predictions, None]
    influence = np.broadcast_to(np.eye(classes), (images, classes, classes))
    for above, layer in zip(layers[:0:-1], layers[-2::-1], strict=True):
        influence = (influence.reshape(images * classes, -1) @ above.weight).reshape(images, classes, -1)
        for added, slope in ((layer.bend, None), (layer.own, layer.active)):
            influence = influence if slope is None else influence * slope[:, None]
            if added.any():
                each += _weighted(influence, added)
                pairs += _weighted(influence - influence[rows, predictions, None], added)
    inputs = sum(layer.weight.shape[1] for layer in layers)
    # Rounding in `influence` is relative to the product of the absolute weights, which `errors` of the last layer contain
    # once for what layers add, and once for each bend.
    slack = len(layers) * inputs * 2.0**-52 * last.errors
    each = np.minimum(_up(each, inputs) + slack, last.errors)
    pairs = np.minimum(
        _up(pairs, inputs) + slack + slack[rows, predictions, None], each + each[rows, predictions, None]
    )
    return ChainBounds(logits=last.outputs, each=each, pairs=_up(pairs, 1))


def _weighted(influence: Floats, added: Floats) -> Floats:
    """Return `|influence| @ added` for each image: (n, classes, units) and (n, units) to (n, classes)."""
    return np.asarray(np.einsum("nku,nu->nk", np.abs(influence), added))


def _rounding(
    number: int, layer: LinearLayer, values: Floats, errors: Floats, arithmetic: Arithmetic, *, whole: bool
) -> tuple[Floats, Floats]:
    """Return what rounding within a layer adds to the error of its outputs, as `first @ |weight|.T + second`.

    Of n terms, the bias among them, each is rounded at most n times: once as a product, n - 1 times in a sum. A term that
    is 0 on every machine adds no rounding.

    Args:
        number: of the layer, from 1, for the reason.
        layer: with weights as the machine reads them.
        values, errors: (n, in), its inputs, and bounds of their errors.
        whole: the inputs are exact in every format.

    Returns:
        float64 (n, in) and (n, out).
    """
    largest = np.abs(values) + errors
    _require_range(number, layer, largest, arithmetic)
    present = largest > 0
    terms = present.sum(axis=1, keepdims=True) + 1
    summed, here = _gamma(terms, arithmetic.accumulation), _gamma(terms, FLOAT64.accumulation)
    product = (1 if whole else 1 + arithmetic.factor) * (1 + summed) - 1
    # The product of a weight and an activation is (w + h) (a (1 + d) + t): |h| <= UNDERFLOW, |d| <= factor, and
    # |t| <= factor_underflow.
    tiny = (1 + product) * (0 if whole else arithmetic.factor_underflow)
    first = product * largest + here * np.abs(values) + tiny * present
    lost = largest.sum(axis=1, keepdims=True) + terms * arithmetic.factor_underflow  # read weights
    lost = (1 + product) * UNDERFLOW * (lost + 2 * terms + 2)  # products, additions, and the bias when it is read
    bias = np.abs(layer.bias.astype(np.float64))
    stored = arithmetic.stored * (1 + summed) * bias + (arithmetic.factor_underflow if arithmetic.stored else 0)
    return first, (summed + here) * bias + stored + lost


def _gamma(terms: NDArray[np.intp], unit: float) -> Floats:
    """Return Higham's gamma_n: n rounding errors of at most `unit` change a value by at most this factor."""
    return np.asarray(terms * unit / (1 - terms * unit))


def _up(bounds: Floats, inputs: int) -> Floats:
    """Return bounds with room for the rounding of their own computation: sums of non-negative terms."""
    return np.asarray(bounds * (1 + (2 * inputs + 64) * 2.0**-53))


def _require_range(number: int, layer: LinearLayer, largest: Floats, arithmetic: Arithmetic) -> None:
    """Raise NoCertificateError unless weights, inputs up to `largest`, and all of their sums are within range."""
    weight = np.abs(layer.weight)
    _require_below(f"weights of layer {number}", weight, arithmetic)
    _require_below(f"inputs of layer {number}", largest, arithmetic)
    sums = float(weight.max()) * float(largest.sum(axis=1).max()) + float(np.abs(layer.bias).max())
    if not sums <= LARGEST:
        raise NoCertificateError(f"the sums of layer {number} may overflow binary32")


def _require_below(what: str, values: NDArray[np.floating], arithmetic: Arithmetic) -> None:
    largest = float(values.max())
    if not largest <= arithmetic.largest:  # nor is NaN
        raise NoCertificateError(f"the {what} reach {largest:.3g}, and the format ends at {arithmetic.largest:g}")
