"""Statistics with their source named: how sure we are of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def upper_bound95(events: int, trials: int) -> float:
    """Exact one-sided 95 % upper bound on a rate (Clopper and Pearson 1934).

    Args:
        events: how often it happened, 0 to `trials`.
        trials: how often it could have, at least 1.

    Returns:
        The rate, 0 to 1, that the true one exceeds with a probability of at most 5 %.
    """
    if not 0 <= events <= trials or trials < 1:
        raise ValueError(f"{events} events in {trials} trials")
    if events == trials:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(events + 1, trials - events, 0.95))


def percentile(samples: Sequence[float], share: float) -> float | None:
    """A percentile as a sample that was seen, or None where the samples do not support it.

    The value is the smallest sample with at least `share` of all samples at or below it. It is
    given only where the chance that every sample lies below the true percentile is at most 5 %
    (`share ** n <= 0.05`), so that some sample bounds it: 29 samples for p90, 299 for p99.

    Args:
        samples: any order, any unit.
        share: above 0, below 1.
    """
    n = len(samples)
    if n == 0 or (share > 0.5 and share**n > 0.05):
        return None
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    return float(ordered[math.ceil(share * n) - 1])
