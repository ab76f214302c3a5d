"""Bounds, tests and intervals against scipy's own, the published values, exact enumeration and simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import binom, binomtest, norm, ttest_1samp, ttest_ind

from mnist_edge import stats
from mnist_edge.stats import Z95, holm, mcnemar_exact, paired_drop_upper95, percentile, t_interval, upper_bound95, welch


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
def test_the_bound_without_a_changed_pair_is_the_exact_one(pairs: int) -> None:
    """With nothing lost and nothing won: Tango's z^2 / (n + z^2), 0.027 % for 10,000 images, is less than the exact."""
    assert pytest.approx(norm.ppf(0.95), rel=1e-12) == Z95
    assert stats._tango_upper95(0, 0, pairs) == pytest.approx(Z95**2 / (pairs + Z95**2), rel=1e-6)
    assert paired_drop_upper95(0, 0, pairs) == pytest.approx(1 - 0.05 ** (1 / pairs), rel=1e-9)


def passing(pairs: int, margin: float, won: int) -> int:
    """Return the largest number of lost pairs whose bound is below the margin, or -1; the bound grows with it."""
    low, high = -1, int(pairs * margin) + won + 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if paired_drop_upper95(middle, won, pairs) < margin else (low, middle - 1)
    return low


@pytest.mark.parametrize(
    ("pairs", "margins", "most"),
    [(1024, (0.001, 0.0027, 0.0029, 0.005, 0.01), 0.055), (10_000, (0.001, 0.0018, 0.003), 0.051)],
)
def test_the_exact_error_rate_of_the_paired_bound(pairs: int, margins: tuple[float, ...], most: float) -> None:
    """At a true drop of the margin the bound is below it as rarely as documented; without wins, in 5 % at most."""
    shares = (0.0, 1e-4, 3e-4, 1e-3, 0.0021, 0.0031, 0.0056)  # of pairs that only the second wins
    for margin in margins:
        won = np.arange(int(binom.isf(1e-7, pairs, max(shares))) + 1)
        lost = np.array([passing(pairs, margin, int(count)) for count in won])
        for share in shares:  # won ~ Bin(n, share); lost given won ~ Bin(n - won, (share + margin) / (1 - share))
            given_won = binom.cdf(lost, pairs - won, (share + margin) / (1 - share))
            error = float((binom.pmf(won, pairs, share) * given_won).sum())
            assert error <= (most if share else 0.05), (margin, share)


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
    bound = stats._tango_upper95(*counts)
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


SIDES = st.lists(st.floats(0.5, 1000), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(baseline=SIDES, candidate=SIDES, factor=st.floats(0.01, 100))
def test_welch_is_scipys_on_logarithms(baseline: list[float], candidate: list[float], factor: float) -> None:
    """Ratio, p-value and interval are those of scipy's t test; the unit of both sides does not matter."""
    found = welch(baseline, candidate)
    assume(min(np.std(np.log(side)) for side in (baseline, candidate)) > 1e-6)  # scipy warns below
    expected = ttest_ind(np.log(candidate), np.log(baseline), equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    ends = expected.confidence_interval(0.99)
    assert found.interval(0.99) == pytest.approx((math.exp(ends.low), math.exp(ends.high)), rel=1e-6)
    assert found.ratio == pytest.approx(math.exp(np.log(candidate).mean() - np.log(baseline).mean()))
    scaled = welch([factor * value for value in baseline], [factor * value for value in candidate])
    assert scaled.interval(0.95) == pytest.approx(found.interval(0.95), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(baseline=SIDES, candidate=SIDES)
def test_swapping_the_sides_inverts_ratio_and_interval(baseline: list[float], candidate: list[float]) -> None:
    """Slower one way is as much faster the other way."""
    one, other = welch(baseline, candidate), welch(candidate, baseline)
    low, high = one.interval(0.95)
    assert other.ratio == pytest.approx(1 / one.ratio)
    assert other.interval(0.95) == pytest.approx((1 / high, 1 / low), rel=1e-9)
    assert other.p_value == pytest.approx(one.p_value, rel=1e-9, abs=1e-300)


def test_welch_of_one_or_of_equal_processes() -> None:
    """One process shows nothing; equal ones have no spread, and then any difference is significant."""
    for sides in (([1.0], [5.0, 5.1]), ([1.0, 1.1], [5.0]), ([1.0], [5.0])):
        assert welch(*sides).interval(0.99) == (0, math.inf)
        assert welch(*sides).p_value == 1
    assert welch([2.0, 2.0], [2.0, 2.0]).p_value == 1
    assert welch([2.0, 2.0], [4.0, 4.0]).p_value == 0
    assert welch([2.0, 2.0], [4.0, 4.0]).interval(0.99) == pytest.approx((2, 2))


def test_holm_by_hand() -> None:
    """The example of Holm's procedure: 0.01 and 0.005 of four are rejected at 5 %, 0.03 and 0.04 are not."""
    found = holm([0.01, 0.04, 0.03, 0.005], 0.05)
    assert [test.p_adjusted for test in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [test.rejected for test in found] == [True, False, False, True]
    assert [test.alpha for test in found] == pytest.approx([0.05 / 3, 0.025, 0.025, 0.05 / 4])
    assert holm([], 0.01) == []
    assert holm([0.01], 0.01)[0].rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_each_holm_test_compares_its_own_p_value_with_its_level(p_values: list[float]) -> None:
    """Rejected where the raw p-value is within the level given with it: the interval at that level agrees."""
    for p_value, test in zip(p_values, holm(p_values, 0.01), strict=True):
        if abs(p_value - test.alpha) > 1e-12:
            assert test.rejected == (p_value < test.alpha)
        assert 0.01 / len(p_values) <= test.alpha * (1 + 1e-12) <= 0.01 * (1 + 1e-9)
        assert p_value <= test.p_adjusted <= min(1, len(p_values) * p_value) or test.p_adjusted >= p_value


def test_the_t_interval_is_scipys() -> None:
    """Around the mean of the logarithms it is the textbook interval; one process has none."""
    values = [90.0, 100.0, 105.0, 99.0, 120.0]
    logs = np.log(values)
    ends = ttest_1samp(logs, 0).confidence_interval(0.95)
    expected = math.exp(ends.low), math.exp(ends.high)
    assert t_interval(math.exp(logs.mean()), values, 0.95) == pytest.approx(expected)
    assert t_interval(5.0, [5.0], 0.95) == (0, math.inf)


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize(
    ("share", "spread", "spikes", "least", "most"),
    [
        (0.5, 0.02, False, 0.92, 0.98),  # p50 of processes that differ by 2 %
        (0.99, 0.02, True, 0.88, 0.99),  # p99 made by rare slow runs
        (0.99, 0.08, False, 0.72, 0.92),  # p99 made by slow processes: documented as too narrow
    ],
)
def test_coverage_of_the_interval_of_a_percentile(
    count: int, share: float, spread: float, spikes: bool, least: float, most: float
) -> None:
    """The 95 % interval covers what repeated benchmarks give in the median as often as the docstring says."""
    random = np.random.default_rng(6)
    trials, runs = 600, 300
    times = np.exp(spread * random.normal(size=(trials, count, 1)) + 0.03 * random.normal(size=(trials, count, runs)))
    if spikes:
        times *= np.where(random.random(times.shape) < 0.015, 1.3 + random.exponential(0.5, times.shape), 1)
    pooled = np.quantile(times.reshape(trials, -1), share, axis=1)
    each = np.quantile(times, share, axis=2)
    truth = np.median(pooled)
    ends = [t_interval(center, values.tolist(), 0.95) for center, values in zip(pooled, each, strict=True)]
    assert least <= sum(low <= truth <= high for low, high in ends) / trials <= most
