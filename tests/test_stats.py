"""How sure we are of a figure, against scipy's own tests and the definition."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from mnist_edge.stats import percentile, upper_bound95


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
