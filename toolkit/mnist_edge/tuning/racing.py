"""Race candidates: time all of them in rounds, and drop a candidate as soon as it is clearly beaten.

The rule. After each round from the second on, every candidate is compared with the leader by a moderated t test on the
differences of log times within rounds, so that what slowed the whole machine during a round cancels. It is dropped where
it is shown to be more than MARGIN slower. Its variance is that of its own differences, moderated by that of all
candidates, as a few rounds say little about one of them (Smyth, Statistical Applications in Genetics and Molecular
Biology 3, 2004, article 3). Every test has the level `alpha / (candidates - 1) / (rounds - 1)`.

Its error rate. The best candidate is dropped only if one of the others, in one of the rounds, is shown to be faster than
it; by the union bound over both this happens in at most `alpha` of the races. The t test assumes equal variances of the
moderated kind; what remains of the bound where one candidate or one process in ten varies more than the others is
simulated in benchmarks/race_error.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist_edge.stats import LogRatio, geometric_mean

ALPHA = 0.025
"""Probability that a race drops its best candidate. `tune` runs at most two races, so 5 % in all."""
ROUNDS = 10
MARGIN = 0.02
"""Candidates whose times differ by less are equally good: neither is dropped for the other."""
REGRET = 0.05
"""A race ends when its choice is shown to be at most this much slower than any candidate that is left."""
PRIOR = 3
"""Degrees of freedom that the typical variance has in that of one candidate. With 4, a candidate that varies ten times as
much as the others and is as fast was dropped in 3.7 % of simulated races, with 3 in 1.3 %."""

K = TypeVar("K", bound=Hashable)
Times = Mapping[K, Sequence[float]]
"""By candidate, one time a round, equally many for each."""


class Judge(Protocol[K]):
    """What a race is run for."""

    def leader(self, times: Times[K]) -> K:
        """Return the fastest candidate that may be chosen; the others are compared with it."""

    def pick(self, times: Times[K]) -> K:
        """Return the candidate that would be chosen."""


class Fastest(Generic[K]):
    """The judge for whom only the time counts."""

    def leader(self, times: Times[K]) -> K:
        """Return the fastest candidate."""
        return min(times, key=lambda candidate: geometric_mean(times[candidate]))

    pick = leader


@dataclass(kw_only=True)
class Lane(Generic[K]):
    """One candidate in a race.

    Attributes:
        times: by round, above 0; smaller is better.
        beaten_by: the leader when it was dropped; None for a candidate that was never dropped.
        failed: it could not be timed, so that it takes no part.
    """

    times: list[float] = field(default_factory=list)
    beaten_by: K | None = None
    failed: bool = False


def race(
    candidates: Sequence[K],
    measure: Callable[[K, int], float | None],
    judge: Judge[K],
    *,
    seed: int,
    alpha: float = ALPHA,
    rounds: int = ROUNDS,
    stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, int], object] = lambda _turn, _left: None,
) -> dict[K, Lane[K]]:
    """Time candidates in rounds, in a new random order in each.

    Which candidates are dropped, and when the race ends, depends on the times alone: a race whose earlier measurements
    are replayed goes on as if it had not been interrupted.

    Args:
        candidates: each once.
        measure: returns the time of a candidate in a round, above 0, or None where it cannot be timed.
        judge: names leader and choice.
        seed: of the order.
        alpha: probability that the best candidate is dropped.
        rounds: the most that are run.
        stop: asked after each round from the second on, whether no further round may be run.
        on_round: called before each round with how many were run, and how many candidates are left.
    """
    lanes: dict[K, Lane[K]] = {candidate: Lane() for candidate in candidates}
    level = alpha / max(1, len(lanes) - 1) / max(1, rounds - 1)
    for turn in range(rounds):
        left = [candidate for candidate, lane in lanes.items() if not lane.failed and lane.beaten_by is None]
        on_round(turn, len(left))
        order = random.Random(f"{seed} {turn}")  # noqa: S311 - no secret depends on it
        for candidate in order.sample(left, len(left)):
            time = measure(candidate, turn)
            if time is None:
                lanes[candidate].failed = True
            else:
                lanes[candidate].times.append(time)
        times = {candidate: lanes[candidate].times for candidate in left if not lanes[candidate].failed}
        if not times:
            break
        if turn == 0:
            continue
        leader = judge.leader(times)
        for candidate, ratio in ratios(times, leader).items():
            if p_above(ratio, math.log1p(MARGIN)) <= level:
                lanes[candidate].beaten_by = leader
                del times[candidate]
        if settled(times, judge.pick(times), level) or stop():
            break
    return lanes


def settled(times: Times[K], chosen: K, level: float) -> bool:
    """Return whether `chosen` is shown to be at most REGRET slower than each of the others, each at `level`."""
    return all(p_above(ratio, -math.log1p(REGRET)) <= level for ratio in ratios(times, chosen).values())


def ratios(times: Times[K], leader: K) -> dict[K, LogRatio]:
    """Return each candidate's time over the leader's, with the moderated variance of its differences.

    Args:
        times: of at least two rounds.
        leader: one of them; it is left out of the result.
    """
    others = [candidate for candidate in times if candidate != leader]
    if not others:
        return {}
    logs = np.log(np.array([times[candidate] for candidate in (leader, *others)]))  # (candidates, rounds)
    differences = logs[1:] - logs[0]
    count = differences.shape[1]
    own = differences.var(axis=1, ddof=1)
    prior = min(PRIOR, (len(others) - 1) * (count - 1))  # one difference alone has no others to learn from
    variance = (prior * _typical(own, count - 1) + (count - 1) * own) / (prior + count - 1)
    return {
        candidate: LogRatio(
            estimate=float(difference.mean()),
            standard_error=math.sqrt(spread / count),
            degrees_of_freedom=float(prior + count - 1),
        )
        for candidate, difference, spread in zip(others, differences, variance, strict=True)
    }


def _typical(variances: NDArray[np.float64], degrees_of_freedom: int) -> float:
    """Return the variance behind most of several estimates, each with this many degrees of freedom.

    The median, over that of a chi-squared variable: a mean would be that of the few candidates whose threads wait for a
    busy CPU, and would keep all others in the race.
    """
    from scipy.special import chdtri

    return float(np.median(variances) * degrees_of_freedom / chdtri(degrees_of_freedom, 0.5))


def p_above(ratio: LogRatio, bound: float) -> float:
    """Return the one-sided p-value of "the logarithm is at most `bound`"."""
    if ratio.standard_error == 0:
        return 0.0 if ratio.estimate > bound else 1.0
    from scipy.special import stdtr

    return float(stdtr(ratio.degrees_of_freedom, (bound - ratio.estimate) / ratio.standard_error))
