"""The requirement that a variant must meet, and the thresholds of its checks."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_edge.contract import MAX_DROP, Precision, RequirementKind
from mnist_edge.records.bundle import OutputHashes

TOLERANCE = 1e-4
"""Largest logit error of an exact variant, relative to the image's largest logit (or to 1 where that is smaller).
float32 rounding over 784 terms stays near 1e-6; one weight row scaled by 1 % gives about 1e-3."""
BATCHES = (1, 2, 3, 7, 64)
"""Batch sizes to run besides all images at once: one, the smallest even and odd sizes, another odd one, a usual one."""
ALLOWED_DRIFT: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1, "int4": 0.25, "int2": 0.6}
"""Drift (see `symptoms.drift`) that a precision explains. Measured on 784-600-400-200-100-10: 3e-6 in fp32, 1.2e-3 in fp16,
0.04 in int8 quantised by tensor; a weight matrix scaled by 1.2 gives 0.2. In the logits int8 gives 0.01. Weights rounded to
4 bits in blocks of 32 or 128 give 0.10, by row 0.43 and 0.12 in the logits; to 2 bits in blocks of 32 0.59, and 0.39 in
the logits."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a model must prove.

    Attributes:
        kind: see `contract.RequirementKind`.
        precision: for the drift that it explains in a lossy model.
        max_drop: accuracy that it may lose, a fraction of 1; not for exact models.
        batches: batch sizes to run besides the usual ones.
        outputs_sha256: what the logits must be besides, byte for byte; None where rounding may differ.
        all_batches: run the golden inputs at several batch sizes; False for outputs that were recorded elsewhere.
    """

    kind: RequirementKind = "exact"
    precision: Precision = "fp32"
    max_drop: float = MAX_DROP
    batches: tuple[int, ...] = ()
    outputs_sha256: OutputHashes | None = None
    all_batches: bool = True

    @property
    def allowed_drift(self) -> float:
        """Drift of logits and layer outputs that its precision explains; an exact model has its reference's weights."""
        return ALLOWED_DRIFT["fp32" if self.kind == "exact" else self.precision]


EXACT = Requirement()
"""fp32, every logit to the tolerance."""


def requirement_of(precision: Precision) -> RequirementKind:
    """Return the requirement of a file that states none: fp32 is exact."""
    return "exact" if precision == "fp32" else "lossy"


def with_tf32(kind: RequirementKind, precision: Precision) -> tuple[RequirementKind, Precision]:
    """Return requirement and precision of a model whose fp32 products run in TF32.

    TF32 rounds the factors to the 10 fraction bits of float16: an exact model becomes lossy, and as coarse as fp16.
    """
    return ("lossy" if kind == "exact" else kind, "fp16" if precision == "fp32" else precision)
