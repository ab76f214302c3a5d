"""Temperature scaling: the one number that makes a model's probabilities agree with how often it is right."""

from __future__ import annotations

import math

import numpy as np

from mnist_edge.pixels import Images, Logits

TEMPERATURES = (0.05, 20.0)
"""Smallest and largest temperature that is tried."""


def fit_temperature(logits: Logits, labels: Images) -> float | None:
    """Return the temperature of least negative log-likelihood (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
        logits: float32 (n, classes), of images that the model was not trained on.
        labels: uint8 (n,).

    Returns:
        A number in TEMPERATURES; None where every prediction is right, or none is: the likelihood then has no maximum.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    right = logits.argmax(axis=1) == labels
    if right.all() or not right.any():
        return None
    values = logits.astype(np.float64)
    of_label = values[np.arange(len(labels)), labels]

    def negative_log_likelihood(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float((logsumexp(values * scale, axis=1) - of_label * scale).mean())

    bounds = tuple(map(math.log, TEMPERATURES))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(found.x), 4)
