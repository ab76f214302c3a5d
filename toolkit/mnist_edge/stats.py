"""Statistics with their source named: how sure we are of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z95 = 1.6448536269514722
"""95 % quantile of the normal distribution."""


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


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of no difference between two paired proportions (McNemar 1947, binomial form).

    Args:
        only_first, only_second: pairs in which one of the two succeeded alone.
    """
    from scipy.special import bdtr

    trials = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), trials, 0.5))) if trials else 1.0


def paired_drop_upper95(only_first: int, only_second: int, pairs: int) -> float:
    """One-sided 95 % upper bound on `first - second`, two proportions on the same pairs.

    The score interval of Tango (Statistics in Medicine 17, 1998, 891-908), which holds its level
    also where few pairs differ, or none.

    Args:
        only_first, only_second: pairs in which one of the two succeeded alone.
        pairs: all of them, at least 1.

    Returns:
        A difference, -1 to 1.
    """
    if min(only_first, only_second) < 0 or not 1 <= max(1, only_first + only_second) <= pairs:
        raise ValueError(f"{only_first} and {only_second} of {pairs} pairs")
    from scipy.optimize import brentq

    seen = (only_first - only_second) / pairs

    def excess(drop: float) -> float:
        """The score statistic of `drop`, plus the quantile: 0 at the bound."""
        linear = (2 * pairs - only_first + only_second) * drop - only_first - only_second
        constant = -only_second * drop * (1 - drop)
        share = (math.sqrt(max(0.0, linear**2 - 8 * pairs * constant)) - linear) / (4 * pairs)
        variance = pairs * (2 * share + drop * (1 - drop))
        return (only_first - only_second - pairs * drop) / math.sqrt(variance) + Z95 if variance > 0 else Z95

    if excess(1 - 1e-12) >= 0:
        return 1.0
    return float(brentq(excess, max(seen, -1 + 1e-12), 1 - 1e-12, xtol=1e-12))


def percentile(samples: Sequence[float], share: float) -> float | None:
    """A percentile as a sample that was seen, or None where the samples do not support it.

    The value is the smallest sample with at least `share` of all samples at or below it. It is
    given only where the chance that every sample lies below the true percentile is at most 5 %
    (`share ** n <= 0.05`), so that some sample bounds it: 29 samples for p90, 299 for p99, 2,995
    for p99.9.

    Args:
        samples: any order, any unit.
        share: above 0, below 1.
    """
    n = len(samples)
    if n == 0 or (share > 0.5 and share**n > 0.05):
        return None
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    return float(ordered[math.ceil(share * n) - 1])


RESAMPLES = 4000
GRID = 4096


def percentile_resamples(groups: Sequence[Sequence[float]], share: float, seed: int) -> NDArray[np.float64]:
    """Bootstrap a percentile of all samples by drawing whole groups with replacement.

    Samples of one process are alike; so the process is what is drawn, and not the sample.

    Args:
        groups: samples by process.
        share: above 0, below 1.
        seed: equal seeds draw the same groups, so that two candidates of the same rounds stay paired.

    Returns:
        float64 (RESAMPLES,), the percentile of each draw.
    """
    pooled = np.sort(np.concatenate([np.asarray(group, dtype=np.float64) for group in groups]))
    places = np.unique(np.linspace(0, len(pooled) - 1, GRID).astype(np.intp))
    grid = np.unique(np.concatenate([pooled[places], pooled[-256:]]))
    below = np.stack([np.searchsorted(np.sort(group), grid, side="right") for group in groups])
    count = len(groups)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    reached = drawn @ below >= share * (drawn @ below[:, -1:])
    return np.asarray(grid[reached.argmax(axis=1)])


def interval(resamples: NDArray[np.float64], count: int, level: float) -> tuple[float, float]:
    """The expanded percentile interval of a bootstrap over few units.

    A plain percentile interval is too narrow for few units, as a z-interval is; its tails are moved
    out to where a t-interval has them (Hesterberg, The American Statistician 69, 2015, 371-386).

    Args:
        resamples: the statistic of each draw.
        count: units that were drawn from, at least 2; with one the interval says nothing: (0, inf).
        level: 0.95 for 95 %.
    """
    if count < 2:
        return 0.0, math.inf
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - level) / 2)))
    low, high = np.quantile(resamples, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def ratio_of_means(
    baseline: Sequence[float], candidate: Sequence[float], level: float, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of two geometric means over processes, with its bootstrap interval; the two sets are drawn apart.

    Args:
        baseline, candidate: one figure a process, above 0.
        level: 0.99 for 99 %.

    Returns:
        Candidate over baseline, low, high.
    """
    random = np.random.default_rng(seed)
    logs = [np.log(np.asarray(values, dtype=np.float64)) for values in (candidate, baseline)]
    drawn = [random.choice(values, (RESAMPLES, len(values))).mean(axis=1) for values in logs]
    low, high = interval(np.exp(drawn[0] - drawn[1]), min(len(baseline), len(candidate)), level)
    return math.exp(logs[0].mean() - logs[1].mean()), low, high
