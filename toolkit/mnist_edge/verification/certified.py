"""Certify a model against its reference: which predictions are the reference's on every machine, or why none can be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_edge.contract import ArithmeticName, RequirementKind
from mnist_edge.pixels import Images
from mnist_edge.records.verification import Certificate, Uncertified
from mnist_edge.runtime.classifier import Classifier
from mnist_edge.verification.arithmetic import ARITHMETICS, FLOAT64
from mnist_edge.verification.bounds import Inputs, NoCertificateError
from mnist_edge.verification.certificate import Certainty, bound_logits, certify
from mnist_edge.verification.linear_chain import LinearChain, NotLinearChainError, read_linear_chain
from mnist_edge.verification.reference import ExactOutputs, Reference, ReferenceOutputs

BATCH = 2000
"""Images that are prepared at a time: a float image may be resized, and large."""


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

    Args:
        model: the file.
        classifier: the same, open, for the form of its input.
        reference: what it is compared with.
        kind: a model that must meet accuracy alone has weights of its own, and no logits that were recorded.
        arithmetic: of the machines.
    """
    try:
        return Certification(_certified(model, classifier, reference, kind, arithmetic))
    except (NotLinearChainError, NoCertificateError) as error:
        return Certification(None, error.message)
    except ModuleNotFoundError:
        return Certification(None, "the package onnx is missing, which reads the graph")


def _certified(
    model: Path, classifier: Classifier, reference: ReferenceOutputs, kind: RequirementKind, arithmetic: ArithmeticName
) -> Certificate:
    chain = read_linear_chain(model)
    if kind == "accuracy":
        raise NoCertificateError("it has weights of its own: the reference does not record its predictions")
    counted = reference.test_set or reference.golden
    if counted.logits.shape != (len(counted.images), chain.widths[-1]) or not np.isfinite(counted.logits).all():
        raise NoCertificateError("the reference's logits cannot be compared with its own")
    if reference.exact is not None:
        _require_recorded_graph(chain, classifier, reference.golden.images, reference.exact)
    return _certificate(_certainty(chain, classifier, counted, reference.exact, arithmetic), arithmetic)


def exact_certificate(arithmetic: ArithmeticName) -> Certificate:
    """Return the certificate of a network all of whose sums are exact in any order, so that no machine rounds."""
    return Certificate(arithmetic=arithmetic, certified=1.0, largest_bound=0.0, uncertified=())


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


def _certainty(
    chain: LinearChain,
    classifier: Classifier,
    counted: Reference,
    exact: ExactOutputs | None,
    arithmetic: ArithmeticName,
) -> list[Certainty]:
    """Certify the reference's predictions, BATCH images after the other."""
    found = []
    for start in range(0, len(counted.images), BATCH):
        logits = counted.logits[start : start + BATCH]
        found.append(
            certify(
                chain,
                _inputs(classifier, counted.images[start : start + BATCH]),
                logits.argmax(axis=1),
                ARITHMETICS[arithmetic],
                difference=0.0 if exact is None else exact.form_difference,
                reference=logits if exact is None else None,
            )
        )
    return found


def _inputs(classifier: Classifier, images: Images) -> Inputs:
    """Return images row by row, as the graph takes them: uint8 or float32, no other is read as a chain."""
    inputs: Inputs = classifier.prepare(images).reshape(len(images), -1)
    return inputs


def _certificate(found: list[Certainty], arithmetic: ArithmeticName) -> Certificate:
    certain = np.concatenate([part.certain for part in found])
    margins = np.concatenate([part.margins for part in found])
    allowed = np.concatenate([part.allowed for part in found])
    return Certificate(
        arithmetic=arithmetic,
        certified=float(certain.mean()),
        largest_bound=max(float(part.bounds.errors.max()) for part in found),
        uncertified=tuple(
            Uncertified(image=int(image), margin=float(margins[image]), bound=float(allowed[image]))
            for image in np.flatnonzero(~certain)
        ),
    )
