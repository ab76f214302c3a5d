"""Compare the logits that a program returned with the bound that holds on every machine that computes in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.pixels import Images, Logits
from mnist_edge.runtime.predictor import Predictor
from mnist_edge.verification.arithmetic import ARITHMETICS
from mnist_edge.verification.bounds import NoCertificateError
from mnist_edge.verification.certificate import bound_logits
from mnist_edge.verification.linear_chain import NotLinearChainError, read_linear_chain

CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """A predictor that keeps what another one returned, so that it need not run again.

    Attributes:
        runs: images and logits of each run.
    """

    predictor: Predictor
    runs: list[tuple[Images, Logits]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the predictor."""
        return self.predictor.name

    @property
    def fixed_batch(self) -> int | None:
        """Of the predictor."""
        return self.predictor.fixed_batch

    @property
    def placement(self) -> Mapping[str, int]:
        """Of the predictor."""
        return self.predictor.placement

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run the predictor, and keep the result; see `Predictor.logits`."""
        found = self.predictor.logits(images, batch)
        self.runs.append((images, found))
        return found


def beyond_bound(model: Path, runs: list[tuple[Images, Logits]]) -> str | None:
    """Return how logits exceed the bound of the portability certificate, an empty string, or None where there is none.

    Args:
        model: the ONNX file that the program was generated from; there is no bound where it has no certificate.
        runs: images uint8 (n, 28, 28) and logits (n, classes).
    """
    try:
        chain = read_linear_chain(model)
        if chain.input_dtype != "uint8":
            return None
        for images, logits in runs:
            for start in range(0, len(images), CHUNK):
                rows = slice(start, start + CHUNK)
                bounds = bound_logits(chain, images[rows].reshape(len(images[rows]), -1), ARITHMETICS["fp32"])
                within = np.abs(logits[rows].astype(np.float64) - bounds.logits) <= bounds.errors  # False for NaN
                if not within.all():
                    first = start + int(np.flatnonzero(~within.all(axis=1))[0])
                    return f"a logit of image {first} is beyond what float32 can explain, in any order of summation"
    except (NotLinearChainError, NoCertificateError):
        return None
    return ""
