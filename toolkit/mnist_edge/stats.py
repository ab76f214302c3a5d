"""Confidence bounds, tests and percentiles, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.6448536269514722
"""95 % quantile of the normal distribution."""


def upper_bound95(events: int, trials: int) -> float:
    """Return the exact one-sided 95 % upper confidence bound on a rate (Clopper and Pearson, Biometrika 26, 1934).

    Args:
        events: number of trials in which the event occurred, 0 to `trials`.
        trials: number of trials, at least 1.

    Returns:
        The bound, 0 to 1; it lies below the true rate in at most 5 % of repetitions.

    Raises:
        ValueError: impossible counts.
    """
    if not 0 <= events <= trials or trials < 1:
        raise ValueError(f"{events} events in {trials} trials")
    if events == trials:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(events + 1, trials - events, 0.95))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of equal paired proportions (McNemar, Psychometrika 12, 1947; binomial form).

    Args:
        only_first, only_second: pairs in which only the first, or only the second, succeeded.
    """
    from scipy.special import bdtr

    trials = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), trials, 0.5))) if trials else 1.0


def paired_drop_upper95(only_first: int, only_second: int, pairs: int) -> float:
    """Return a one-sided 95 % upper bound on `first - second`, two proportions of successes on the same pairs.

    The score bound of Tango (Statistics in Medicine 17, 1998, 891-908). It is approximate: where the second
    never succeeds alone, it lies below the true difference in up to 6.5 % of repetitions at 1,024 pairs. There
    the larger one of it and the exact bound of Clopper and Pearson on the share of pairs lost is returned. What
    remains, by exact enumeration over the share of pairs that only the second wins: at most 5.5 % at 1,024
    pairs (differences of 0.1 to 2 points) and 5.1 % at 10,000 pairs (0.1 to 1 point).

    Args:
        only_first, only_second: pairs in which only the first, or only the second, succeeded.
        pairs: number of pairs, at least 1.

    Returns:
        The bound on the difference, -1 to 1.

    Raises:
        ValueError: impossible counts.
    """
    if min(only_first, only_second) < 0 or not 1 <= max(1, only_first + only_second) <= pairs:
        raise ValueError(f"{only_first} and {only_second} of {pairs} pairs")
    tango = _tango_upper95(only_first, only_second, pairs)
    return tango if only_second else max(tango, upper_bound95(only_first, pairs))


def _tango_upper95(only_first: int, only_second: int, pairs: int) -> float:
    from scipy.optimize import brentq

    estimate = (only_first - only_second) / pairs

    def excess(drop: float) -> float:
        """Return the score statistic of `drop` plus the normal quantile, which is 0 at the bound."""
        # Under `first - second = drop`, the maximum-likelihood share of pairs that only the second wins is the
        # positive root of 2 n q^2 + linear q + constant = 0.
        linear = (2 * pairs - only_first + only_second) * drop - only_first - only_second
        constant = -only_second * drop * (1 - drop)
        share = (math.sqrt(max(0.0, linear**2 - 8 * pairs * constant)) - linear) / (4 * pairs)
        variance = pairs * (2 * share + drop * (1 - drop))
        return (only_first - only_second - pairs * drop) / math.sqrt(variance) + Z95 if variance > 0 else Z95

    if excess(1 - 1e-12) >= 0:
        return 1.0
    return float(brentq(excess, max(estimate, -1 + 1e-12), 1 - 1e-12, xtol=1e-12))


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return a percentile that is one of the samples, or None where there are too few samples.

    The value is the smallest sample with at least `share` of all samples at or below it (the inverse of
    the empirical distribution; Hyndman and Fan 1996, definition 1). It is returned only if the largest
    sample is an upper 95 % bound on the true percentile (`share ** n <= 0.05`): from 29 samples on for
    p90, 299 for p99, 2,995 for p99.9.

    Args:
        samples: in any order and unit.
        share: above 0 and below 1; 0.99 for p99.
    """
    n = len(samples)
    if n == 0 or (share > 0.5 and share**n > 0.05):
        return None
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    return float(ordered[math.ceil(share * n) - 1])


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean in which a difference of logarithms is a ratio; at least one value, each above 0."""
    return math.exp(float(np.log(np.asarray(values, dtype=np.float64)).mean()))


def t_interval(center: float, values: Sequence[float], level: float) -> tuple[float, float]:
    """Return the Student t interval around `center`, on the log scale, from the spread of one value per process.

    Runs of one process are alike, so the process is the unit of sampling: the half width is
    `t(n - 1) * sd(log values) / sqrt(n)` (Student, Biometrika 6, 1908). For a percentile, `center` is that
    of all runs and `values` are those of each process. Coverage of the 95 % interval, simulated: p50 92 to
    97 %; p99 91 to 97 % where rare slow runs make the tail, and less where whole processes differ by more
    than their runs do (77 to 88 % at a spread of 8 %), because the slowest processes were not among those
    measured. A bootstrap over processes covered 64 to 95 % there.

    Args:
        center: the estimate, above 0.
        values: one per process, above 0, in the unit of `center`.
        level: 0.95 for 95 %.

    Returns:
        Low and high; (0, inf) for fewer than two processes.
    """
    count = len(values)
    if count < 2:
        return 0.0, math.inf
    from scipy.special import stdtrit

    half = float(stdtrit(count - 1, (1 + level) / 2)) * float(np.std(np.log(values), ddof=1)) / math.sqrt(count)
    return center * math.exp(-half), center * math.exp(half)


@dataclass(frozen=True, kw_only=True)
class LogRatio:
    """The ratio of two geometric means as the logarithm `estimate`, with what Welch's t test needs."""

    estimate: float
    standard_error: float
    degrees_of_freedom: float

    @property
    def ratio(self) -> float:
        """The ratio itself."""
        return math.exp(self.estimate)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of a ratio of 1."""
        if self.standard_error == 0:
            return 0.0 if self.estimate else 1.0
        from scipy.special import stdtr

        return 2 * float(stdtr(self.degrees_of_freedom, -abs(self.estimate) / self.standard_error))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the confidence interval of the ratio; it excludes 1 if and only if `p_value < 1 - level`."""
        from scipy.special import stdtrit

        if math.isinf(self.standard_error):
            return 0.0, math.inf
        half = float(stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error
        return math.exp(self.estimate - half), math.exp(self.estimate + half)


def welch(baseline: Sequence[float], candidate: Sequence[float]) -> LogRatio:
    """Compare two geometric means by Welch's t on logarithms (Welch, Biometrika 34, 1947; Satterthwaite 1946).

    Args:
        baseline, candidate: one value per process, above 0. The two spreads may differ.

    Returns:
        Candidate over baseline; with an infinite standard error if a side has fewer than two values.
    """
    logs = [np.log(np.asarray(values, dtype=np.float64)) for values in (baseline, candidate)]
    estimate = float(logs[1].mean() - logs[0].mean())
    if min(map(len, logs)) < 2:
        return LogRatio(estimate=estimate, standard_error=math.inf, degrees_of_freedom=1.0)
    parts = [float(values.var(ddof=1)) / len(values) for values in logs]
    total = sum(parts)
    divisor = sum(part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True))
    return LogRatio(
        estimate=estimate,
        standard_error=math.sqrt(total),
        degrees_of_freedom=total**2 / divisor if divisor > 0 else float(len(logs[0]) + len(logs[1]) - 2),
    )


@dataclass(frozen=True, kw_only=True)
class HolmTest:
    """One of several tests.

    Attributes:
        p_adjusted: p-value adjusted for the number of tests, 0 to 1.
        rejected: `p_adjusted <= alpha`.
        alpha: the significance level that its own p-value was compared with.
    """

    p_adjusted: float
    rejected: bool
    alpha: float


def holm(p_values: Sequence[float], alpha: float) -> list[HolmTest]:
    """Keep the chance of any false rejection among several tests at `alpha` (Holm, Scand. J. Statistics 6, 1979).

    The smallest of m p-values is compared with alpha / m, the next with alpha / (m - 1), and so on up to the
    first that is not rejected; the others are compared with the same level as that one.

    Args:
        p_values: in any order.
        alpha: 0.01 for 1 %.

    Returns:
        One result per p-value, in the order given.
    """
    count = len(p_values)
    order = sorted(range(count), key=p_values.__getitem__)
    tests: dict[int, HolmTest] = {}
    adjusted, rejections = 0.0, 0
    for step, place in enumerate(order):
        adjusted = max(adjusted, min(1.0, (count - step) * p_values[place]))
        # Every earlier p-value was rejected, or the level stays that of the first that was not.
        level = alpha / (count - rejections)
        rejected = adjusted <= alpha
        rejections += rejected
        tests[place] = HolmTest(p_adjusted=adjusted, rejected=rejected, alpha=level)
    return [tests[place] for place in range(count)]


def rounded_up(value: float, digits: int = 3) -> float:
    """Return the least number of this many significant digits that is not below a positive value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit) * unit:.{digits}g}")
