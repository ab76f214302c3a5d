"""The simulation behind `compare`'s choice of test, with fewer draws: error rates, power, and what one row more costs."""

from __future__ import annotations

import pytest

from benchmarks.compare_power import bootstrap_share, family_share, simulate, welch_share


@pytest.mark.parametrize("spread", ["normal", "unequal", "heavy-tailed", "busy"])
def test_equal_speeds_are_rarely_called_different(spread: str) -> None:
    """Five processes a side: 0.3 to 1.2 % of comparisons report a difference that is not there."""
    assert welch_share(simulate(spread, 5, 0.0, 2000, seed=1)) <= 0.018


def test_eight_rows_share_one_error_rate() -> None:
    """Without Holm's correction, one result in 15 of eight rows would report a false difference."""
    pairs = simulate("normal", 5, 0.0, 3200, seed=2)
    assert family_share(pairs, 8) <= 0.025
    assert welch_share(pairs) >= 0.003  # each row alone still errs at its own rate


def test_the_bootstrap_errs_more_at_five_processes_and_finds_no_more_at_ten() -> None:
    """Why the t test: at 5 processes the bootstrap has twice its level, at 10 it finds no more of 3 % slowdowns."""
    equal = simulate("normal", 5, 0.0, 600, seed=3)
    assert bootstrap_share(equal, 3) > welch_share(equal)
    slower = simulate("normal", 10, 0.03, 300, seed=4)
    assert welch_share(slower) >= bootstrap_share(slower, 4)


def test_five_processes_find_ten_percent_and_three_do_not() -> None:
    """The reason for the least number of processes, at a spread of 2 % between processes."""
    assert welch_share(simulate("normal", 5, 0.10, 500, seed=5)) > 0.98
    assert welch_share(simulate("normal", 3, 0.10, 500, seed=5)) < 0.7
    assert welch_share(simulate("normal", 2, 0.10, 500, seed=5)) < 0.15
