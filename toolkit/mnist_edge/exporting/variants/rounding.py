"""Round the weights of a layer to integers so that the errors of neighbouring weights cancel on real inputs.

Optimal brain quantisation in the order of the inputs (Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", section 3): the error of each column is made up for by the columns that follow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnist_edge.integer_network import LARGEST, PAIR_LIMIT

Floats = NDArray[np.float64]

DAMPING = 0.01
"""Part of the mean diagonal that is added to the covariance, as the authors do: inputs that never vary have none."""
BLOCK = 64
"""Columns whose errors are passed on at once: a product of matrices is faster than one of vectors."""
PAIR = PAIR_LIMIT // LARGEST
"""Largest sum of the weights of one sign in a pair of inputs."""


def round_with_feedback(rows: Floats, covariance: Floats, limit: int, *, pairs: bool) -> Floats:
    """Return integers for rows of weights that give nearly the same products with inputs of a given covariance.

    Args:
        rows: float64 (R, n), in units of an integer.
        covariance: float64 (n, n), of the inputs.
        limit: largest absolute value of an integer.
        pairs: keep the sum of two integers of one sign, of inputs 2i and 2i + 1, to PAIR.

    Returns:
        float64 (R, n), whole numbers.
    """
    inputs = rows.shape[1]
    damped = covariance + np.eye(inputs) * max(DAMPING * float(np.diag(covariance).mean()), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # (n, n); row j passes the error of column j on
    left = rows.copy()
    found = np.zeros_like(rows)
    for start in range(0, inputs, BLOCK):
        end = min(inputs, start + BLOCK)
        errors = np.zeros((len(rows), end - start))
        for column in range(start, end):
            rounded = np.clip(np.rint(left[:, column]), -limit, limit)
            if pairs and column % 2:
                other = found[:, column - 1]
                rounded = np.clip(rounded, -PAIR - np.minimum(other, 0), PAIR - np.maximum(other, 0))
            found[:, column] = rounded
            errors[:, column - start] = (left[:, column] - rounded) / upper[column, column]
            left[:, column + 1 : end] -= np.outer(errors[:, column - start], upper[column, column + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return found


def product_errors(rows: Floats, rounded: Floats, covariance: Floats) -> Floats:
    """Return the mean squared error of each row's products, without its mean: float64 (R,)."""
    difference = rows - rounded
    return np.asarray(((difference @ covariance) * difference).sum(axis=1))
