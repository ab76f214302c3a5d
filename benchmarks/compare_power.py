"""How often does `compare` report a difference that is not there, and find one that is? By simulation.

Each comparison draws the log p50 of so many processes a side; the candidate's are shifted by the true slowdown.
Spread between processes: normal with a standard deviation of 2 % (injected_slowdown measured 1.4 to 2 %), of 2 %
and 6 % (the sides differ), Student's t with 3 degrees of freedom scaled by 2 % (heavy tails), or normal with one
process in ten 18 % slower (a busy machine). Compared at 1 %: Welch's t, which is the function behind
`mnist-edge compare`, and the 99 % expanded percentile bootstrap over processes that it replaced.
Nothing is timed; the draws are seeded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report, row, target
from mnist_edge.benchmarking.compare import ALPHA, effects
from mnist_edge.stats import welch

SPREAD = 0.02
COMPARISONS = 4000
BOOTSTRAPPED = 1000
"""A bootstrap takes a hundred times as long."""
RESAMPLES = 4000
PROCESSES = (2, 3, 4, 5, 10)
SLOWDOWNS = (0.0, 0.03, 0.05, 0.10)
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return log p50s of processes that differ by 2 %."""
    return SPREAD * random.normal(size=shape)


def wide(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return log p50s of processes that differ by 6 %."""
    return 3 * normal(random, shape)


def heavy_tailed(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return log p50s with the tails of Student's t with 3 degrees of freedom."""
    return SPREAD * random.standard_t(3, shape)


def busy(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return log p50s of processes that differ by 2 %, one in ten being 18 % slower."""
    return normal(random, shape) + np.where(random.random(shape) < 0.1, math.log(1.18), 0)


SPREADS: dict[str, tuple[Draw, Draw]] = {
    "normal": (normal, normal),
    "unequal": (normal, wide),
    "heavy-tailed": (heavy_tailed, heavy_tailed),
    "busy": (busy, busy),
}


def simulate(spread: str, processes: int, slowdown: float, comparisons: int, seed: int) -> list[tuple[Array, Array]]:
    """Return the p50 of each process of baseline and candidate, float64 (processes,), for each comparison."""
    random = np.random.default_rng(seed)
    logs = [draw(random, (comparisons, processes)) for draw in SPREADS[spread]]
    return list(zip(np.exp(logs[0]), np.exp(logs[1]) * (1 + slowdown), strict=True))


def welch_share(pairs: list[tuple[Array, Array]]) -> float:
    """Return the share of comparisons, each alone, in which Welch's t reports a difference."""
    return sum(welch(baseline.tolist(), candidate.tolist()).p_value <= ALPHA for baseline, candidate in pairs) / len(
        pairs
    )


def family_share(pairs: list[tuple[Array, Array]], rows: int) -> float:
    """Return the share of results of so many rows in which `compare` reports any difference."""
    results = [pairs[start : start + rows] for start in range(0, len(pairs) - rows + 1, rows)]
    reported = [
        any(
            found.verdict != "undecided" for found in effects([(one.tolist(), other.tolist()) for one, other in result])
        )
        for result in results
    ]
    return sum(reported) / len(reported)


def bootstrap_share(pairs: list[tuple[Array, Array]], seed: int) -> float:
    """Return the share of comparisons in which the expanded 99 % percentile interval excludes a ratio of 1.

    Hesterberg, The American Statistician 69, 2015, 371-386: the tails of the percentile interval are moved out
    to where a t interval has them.
    """
    from scipy.special import ndtr, stdtrit

    random = np.random.default_rng(seed)
    found = 0
    for baseline, candidate in pairs:
        count = len(baseline)
        means = [
            side[random.integers(0, count, (RESAMPLES, count))].mean(axis=1)
            for side in (np.log(candidate), np.log(baseline))
        ]
        tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, ALPHA / 2)))
        low, high = np.quantile(means[0] - means[1], [tail, 1 - tail], method="inverted_cdf")
        found += bool(low > 0 or high < 0)
    return found / len(pairs)


def main() -> None:
    """Simulate and report."""
    rows = []
    targets = []
    for spread in SPREADS:
        for processes in PROCESSES:
            for slowdown in SLOWDOWNS:
                pairs = simulate(spread, processes, slowdown, COMPARISONS, seed=17)
                what = f"{spread}, {processes} processes a side, {slowdown:.0%} slower"
                rows.append(row(f"Welch: {what}", "share", [welch_share(pairs)]))
                if processes in {5, 10} and spread in {"normal", "heavy-tailed"}:
                    share = bootstrap_share(pairs[:BOOTSTRAPPED], seed=17)
                    rows.append(row(f"bootstrap: {what}", "share", [share]))
            print(f"  {spread}, {processes} processes a side", file=sys.stderr, flush=True)
    shares = {line["what"]: line["median"] for line in rows}
    for spread in SPREADS:
        what = f"{spread}, 5 processes a side, 0% slower"
        targets.append(target(f"false positives: {what}", [shares[f"Welch: {what}"]], at_most=0.015))
    pairs = simulate("normal", 5, 0.0, 2 * COMPARISONS, seed=18)
    targets.append(
        target("false positives in any of 8 rows: normal, 5 processes", [family_share(pairs, 8)], at_most=0.015)
    )
    for slowdown in SLOWDOWNS[1:]:
        what = f"normal, 10 processes a side, {slowdown:.0%} slower"
        same_draws = simulate("normal", 10, slowdown, COMPARISONS, seed=17)[:BOOTSTRAPPED]
        gained = welch_share(same_draws) - shares[f"bootstrap: {what}"]
        targets.append(target(f"power over the bootstrap's: {what}", [gained], at_least=-0.005))
    report("compare_power", measured=str(__doc__), rows=rows, targets=targets)


if __name__ == "__main__":
    main()
