"""Certify a model against its reference: which predictions are the reference's on every machine, or why none can be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import ArithmeticName, RequirementKind
from mnist_edge.errors import BadFileError, CheckFailedError
from mnist_edge.integer_network import IntegerLayer, IntegerNetwork, check_network
from mnist_edge.pixels import Images
from mnist_edge.records.verification import LISTED, Certificate, Uncertified
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.verification.arithmetic import ARITHMETICS, FLOAT64
from mnist_edge.verification.bounds import Inputs, NoCertificateError
from mnist_edge.verification.certificate import bound_logits, certify
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.linear_chain import LinearChain, NotLinearChainError, read_linear_chain
from mnist_edge.verification.reference import ExactOutputs, Reference, ReferenceOutputs, StoredReference

FACTOR_BITS: dict[ArithmeticName, int | None] = {"fp32": 24, "tf32": 11, "fp16": None, "bf16": 8}
"""Bits that a factor keeps, whatever its power of two; None where that is limited."""
BATCH = 2000
"""Images that are prepared at a time: a float image may be resized, and large."""
MOST_IMAGES = 100_000
"""Largest set whose every image is certified: bounding the logits of a float network takes half a second a thousand images."""

ONLY_OUTPUTS = "only recorded outputs were compared; the model itself is certified without --outputs"
ONLY_PROGRAM = "a program was compared; the model that it was made from is certified without --target"
PROGRAM_WITHIN = "every logit of the program is within the bound of the portability certificate, in fp32"


class Certification(NamedTuple):
    """A certificate, or the reason why there is none."""

    certificate: Certificate | None
    reason: str = ""


def certify_model(
    model: Path, classifier: Classifier, reference: ReferenceOutputs, kind: RequirementKind, arithmetic: ArithmeticName
) -> Certification:
    """Certify the predictions of an ONNX file on the images that predictions are compared on.

    An image counts only where the certain class is the one that the reference predicts. With the reference recorded at
    export, the graph must have the exact logits that were recorded; what PyTorch's own network differs from them is
    added to the bounds. With any other reference, its difference from the graph's exact logits is added for each image.
    A network of integers with weights of its own is certified for its own predictions.

    Args:
        model: the file.
        classifier: the same, open, for the form of its input.
        reference: what it is compared with.
        kind: a model that must meet accuracy alone has weights of its own, and no logits that were recorded.
        arithmetic: of the machines.
    """
    try:
        return Certification(_certified(model, classifier, reference, kind, arithmetic))
    except (NotLinearChainError, CheckFailedError) as error:
        return Certification(None, error.message)
    except ModuleNotFoundError:
        return Certification(None, "the package onnx is missing, which reads the graph")


def _certified(
    model: Path, classifier: Classifier, reference: ReferenceOutputs, kind: RequirementKind, arithmetic: ArithmeticName
) -> Certificate:
    counted = reference.counted
    try:
        chain = read_linear_chain(model)
    except NotLinearChainError:
        network = _integer_network(model)
        if network is None:
            raise
        certificate = certify_integers(network, arithmetic)
        return certificate if kind == "accuracy" else _of_reference(certificate, classifier, counted)
    if kind == "accuracy":
        raise NoCertificateError("it has weights of its own: the reference does not record its predictions")
    if len(counted) > MOST_IMAGES:
        raise NoCertificateError(f"float networks are certified on at most {MOST_IMAGES:,} images")
    exact = reference.exact
    if exact is not None:
        _require_comparable(reference.golden, chain.widths[-1])
        _require_recorded_graph(chain, classifier, reference.golden.images, exact)
    if isinstance(counted, StoredReference) and not counted.own:
        exact = None  # it holds for the images that the bundle was made with
    found = _Certainties(arithmetic)
    for part in counted.parts():
        _require_comparable(part, chain.widths[-1])
        _add_certainty(found, chain, classifier, part, exact)
    return found.result()


class _Certainties:
    """A certificate that grows part by part."""

    def __init__(self, arithmetic: ArithmeticName) -> None:
        self.arithmetic = arithmetic
        self._images = self._certain = 0
        self._bound = 0.0
        self._uncertified: list[Uncertified] = []

    def add(
        self, certain: NDArray[np.bool_], margins: NDArray[np.float64], bounds: NDArray[np.float64], largest: float
    ) -> None:
        """Add the next images: whether each is certain, its margin, what errors may take from it, and the largest error."""
        self._uncertified += [
            Uncertified(image=self._images + int(image), margin=float(margins[image]), bound=float(bounds[image]))
            for image in np.flatnonzero(~certain)[: LISTED - len(self._uncertified)]
        ]
        self._images += len(certain)
        self._certain += int(certain.sum())
        self._bound = max(self._bound, largest)

    def result(self) -> Certificate:
        """Return the certificate of all images that were added."""
        return Certificate(
            arithmetic=self.arithmetic,
            certified=self._certain / max(1, self._images),
            largest_bound=self._bound,
            uncertified=tuple(self._uncertified),
        )


def _require_comparable(counted: Reference, classes: int) -> None:
    """Raise NoCertificateError unless there are images, and logits of the reference for each."""
    if len(counted) == 0:
        raise NoCertificateError("there is no image to certify")
    if counted.logits.shape != (len(counted.images), classes) or not np.isfinite(counted.logits).all():
        raise NoCertificateError("the reference's logits cannot be compared with its own")


def _of_reference(
    certificate: Certificate, classifier: Classifier, counted: Reference | StoredReference
) -> Certificate:
    """Return the certificate of a network of integers for the reference's classes instead of its own."""
    found = _Certainties(certificate.arithmetic)
    for part in counted.parts():
        logits = classifier.logits(part.images, batch=BATCH)  # exact, as on every machine
        _require_comparable(part, logits.shape[1])
        images, classes = np.arange(len(logits)), part.logits.argmax(axis=1)
        others = logits.astype(np.float64)
        owed = others[images, classes].copy()
        others[images, classes] = -np.inf
        found.add(
            logits.argmax(axis=1) == classes,
            owed - others.max(axis=1),
            np.zeros(len(logits)),
            certificate.largest_bound,
        )
    return found.result()


def _integer_network(model: Path) -> IntegerNetwork | None:
    try:
        return read_integer_network(model)
    except BadFileError:
        return None


def certify_integers(network: IntegerNetwork, arithmetic: ArithmeticName) -> Certificate:
    """Certify a network's own predictions: nothing is rounded where every sum fits, so all machines return the same bytes.

    In a coarser arithmetic its factors must fit as well: an activation has 8 bits, a weight those of its integer and of the
    multiplier of its output.

    Raises:
        CheckFailedError: a sum may not fit, or the arithmetic may round a factor.
    """
    check_network(network)
    bits = FACTOR_BITS[arithmetic]
    if bits is None:
        raise NoCertificateError(f"{arithmetic} may not hold its values, which are scaled by powers of two")
    largest = max(_significant_bits(layer) for layer in network.layers)
    if largest > bits:
        raise NoCertificateError(f"it has weights of {largest} bits, and {arithmetic} rounds factors to {bits}")
    return Certificate(arithmetic=arithmetic, certified=1.0, largest_bound=0.0, uncertified=())


def _significant_bits(layer: IntegerLayer) -> int:
    """Return the bits of the longest product of a weight and its multiplier, without trailing zeros."""
    multiplier = layer.multiplier.astype(np.int64)[:, None]
    products = np.abs(layer.weight.astype(np.int64).reshape(len(layer.bias), -1) * multiplier)
    products = products[products > 0]
    odd = products // (products & -products)
    return int(odd.max(initial=1)).bit_length()


def _require_recorded_graph(chain: LinearChain, classifier: Classifier, images: Images, exact: ExactOutputs) -> None:
    """Raise NoCertificateError unless the graph has the exact logits that were recorded when it was exported."""
    found = bound_logits(chain, _inputs(classifier, images), FLOAT64)
    apart = np.abs(found.logits - exact.logits)
    wrong = ~(apart <= found.errors)
    if wrong.any():
        raise NoCertificateError(
            f"the graph is not the one whose exact logits were recorded: {wrong.any(axis=1).sum()} of {len(images)} golden "
            f"images differ, by up to {apart.max():.2g}"
        )


def _add_certainty(
    certificate: _Certainties,
    chain: LinearChain,
    classifier: Classifier,
    counted: Reference,
    exact: ExactOutputs | None,
) -> None:
    """Certify the reference's predictions, BATCH images after the other."""
    for start in range(0, len(counted), BATCH):
        logits = counted.logits[start : start + BATCH]
        found = certify(
            chain,
            _inputs(classifier, counted.images[start : start + BATCH]),
            logits.argmax(axis=1),
            ARITHMETICS[certificate.arithmetic],
            difference=0.0 if exact is None else exact.form_difference,
            reference=logits if exact is None else None,
        )
        certificate.add(found.certain, found.margins, found.allowed, float(found.bounds.errors.max()))


def _inputs(classifier: Classifier, images: Images) -> Inputs:
    """Return images row by row, as the graph takes them: uint8 or float32, no other is read as a chain."""
    inputs: Inputs = classifier.prepare(images).reshape(len(images), -1)
    return inputs
