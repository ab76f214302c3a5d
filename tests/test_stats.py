"""How sure we are of a figure, against scipy's own tests and the definition."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import binom, binomtest, norm

from mnist_edge import stats
from mnist_edge.stats import Z95, mcnemar_exact, paired_drop_upper95, percentile, upper_bound95


def test_no_event_has_a_closed_form() -> None:
    """With no event the bound is 1 - 0.05 ** (1 / n): 0.03 % for 10,000 images."""
    for trials in (1, 2, 10, 300, 10_000, 1_000_000):
        assert upper_bound95(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-9)
    assert f"{upper_bound95(0, 10_000):.2%}" == "0.03%"


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bound_is_scipys(events_and_trials: tuple[int, int]) -> None:
    """The bound is the upper end of scipy's exact one-sided 95 % interval."""
    events, trials = events_and_trials
    expected = binomtest(events, trials, alternative="less").proportion_ci(0.95, method="exact").high
    assert upper_bound95(events, trials) == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_the_bound_means_what_it_says(events_and_trials: tuple[int, int]) -> None:
    """At the bound, so few events or fewer happen with a probability of exactly 5 %."""
    events, trials = events_and_trials
    assert binom.cdf(events, trials, upper_bound95(events, trials)) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("events", "trials"), [(-1, 10), (11, 10), (0, 0), (1, 0)])
def test_impossible_counts_are_refused(events: int, trials: int) -> None:
    """More events than trials, or no trial, is a mistake of the caller."""
    with pytest.raises(ValueError, match="trials"):
        upper_bound95(events, trials)


def test_every_event_leaves_nothing_out() -> None:
    """If it always happened, the rate may be 1."""
    assert upper_bound95(7, 7) == 1


@pytest.mark.parametrize(("share", "needed"), [(0.9, 29), (0.99, 299), (0.999, 2995)])
def test_a_high_percentile_needs_enough_samples(share: float, needed: int) -> None:
    """It is given from the first count at which all samples lie below it with a chance of 5 % at most."""
    assert share**needed <= 0.05 < share ** (needed - 1)
    assert percentile(range(needed - 1), share) is None
    assert percentile(range(needed), share) is not None


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=700), st.sampled_from(["0.5", "0.9", "0.99"]))
def test_a_percentile_is_the_first_sample_with_enough_below_it(samples: list[float], share: str) -> None:
    """The value was seen, has at least the share of samples at or below it, and no smaller sample has."""
    value = percentile(samples, float(share))
    if value is None:
        assert float(share) ** len(samples) > 0.05
        return
    enough = Fraction(share) * len(samples)
    assert value in samples
    assert sum(sample <= value for sample in samples) >= enough
    assert all(sum(other <= sample for other in samples) < enough for sample in samples if sample < value)


def test_the_median_needs_one_sample_and_nothing_has_no_percentile() -> None:
    """One sample is its own median; no sample has none."""
    assert percentile([3.5], 0.5) == 3.5
    assert percentile([4, 1, 3, 2], 0.5) == 2
    assert percentile([], 0.5) is None
    assert percentile([], 0.99) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_scipys_binomial_test(lost: int, won: int) -> None:
    """The exact p-value is that of a fair coin for the pairs that differ, whichever of the two is named first."""
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar_exact(lost, won) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(won, lost) == mcnemar_exact(lost, won)


def test_mcnemar_of_a_few_pairs_by_hand() -> None:
    """No pair or as many of both sorts show nothing; five of five are two of 32 outcomes."""
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(3, 3) == 1
    assert mcnemar_exact(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_exact(7, 1) == pytest.approx(2 * (1 + 8) / 256)


def test_tangos_interval_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airway hyper-responsiveness (Fagerland, Lydersen, Laake 2014): 1 and 7 of 21 pairs, 95 % from -0.517 to -0.026."""
    monkeypatch.setattr(stats, "Z95", 1.959963984540054)
    assert paired_drop_upper95(1, 7, 21) == pytest.approx(-0.026, abs=5e-4)
    assert -paired_drop_upper95(7, 1, 21) == pytest.approx(-0.517, abs=5e-4)


@pytest.mark.parametrize("pairs", [1, 2, 50, 1000, 10_000, 10_000_000])
def test_tangos_bound_without_a_changed_pair_has_a_closed_form(pairs: int) -> None:
    """With nothing lost and nothing won the bound is z^2 / (n + z^2): 0.027 % for 10,000 images."""
    assert pytest.approx(norm.ppf(0.95), rel=1e-12) == Z95
    assert paired_drop_upper95(0, 0, pairs) == pytest.approx(Z95**2 / (pairs + Z95**2), rel=1e-6)


COUNTS = st.integers(1, 5000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda lost: st.tuples(st.just(lost), st.integers(0, n - lost), st.just(n)))
)


def restricted_score(lost: int, won: int, pairs: int, drop: float) -> float:
    """Tango's statistic with the share of won pairs found by maximising the likelihood on a grid, not by formula."""
    low, high = max(0.0, -drop) + 1e-12, (1 - drop) / 2 - 1e-12
    for _ in range(4):  # won share q, lost share q + drop, same 1 - 2 q - drop
        grid = np.linspace(low, high, 2001)
        told = xlogy(won, grid) + xlogy(lost, grid + drop) + xlogy(pairs - lost - won, 1 - 2 * grid - drop)
        place = int(told.argmax())
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, 2000)]
    variance = pairs * (2 * grid[place] + drop * (1 - drop))
    return float((lost - won - pairs * drop) / math.sqrt(variance))


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_at_the_bound_the_score_is_the_quantile(counts: tuple[int, int, int]) -> None:
    """The bound solves Tango's equation, its nuisance share found by brute force."""
    bound = paired_drop_upper95(*counts)
    if -0.999 < bound < 0.999:
        assert restricted_score(*counts, bound) == pytest.approx(-Z95, abs=0.02)


@settings(deadline=None)
@given(COUNTS)
def test_the_bound_lies_above_what_was_seen_and_grows_with_the_loss(counts: tuple[int, int, int]) -> None:
    """Never below the loss seen, within -1 and 1, more with a pair lost, less with a pair won."""
    lost, won, pairs = counts
    bound = paired_drop_upper95(lost, won, pairs)
    assert (lost - won) / pairs - 1e-9 <= bound <= 1
    if lost + won < pairs:
        assert paired_drop_upper95(lost + 1, won, pairs) >= bound - 1e-9
        assert paired_drop_upper95(lost, won + 1, pairs) <= bound + 1e-9


@pytest.mark.parametrize(("loses", "wins"), [(0.01, 0.01), (0.02, 0.005), (0.002, 0.001), (0.1, 0.05)])
def test_the_true_drop_is_below_the_bound_in_95_of_100_samples(loses: float, wins: float) -> None:
    """2,000 samples of 1,000 pairs: the level is held to what so many samples can tell."""
    draws = np.random.default_rng(7).multinomial(1000, [loses, wins, 1 - loses - wins], 2000)
    bounds = {(lost, won): paired_drop_upper95(lost, won, 1000) for lost, won, _ in set(map(tuple, draws.tolist()))}
    held = sum(bounds[lost, won] >= loses - wins for lost, won, _ in draws.tolist())
    assert 0.93 < held / 2000 < 0.98


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_pairs_are_refused(counts: tuple[int, int, int]) -> None:
    """More pairs that differ than pairs is a mistake of the caller."""
    with pytest.raises(ValueError, match="pairs"):
        paired_drop_upper95(*counts)
