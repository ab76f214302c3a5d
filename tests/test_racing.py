"""The race of `tune`: the best candidate stays, clearly slower ones go, and equal measurements give equal decisions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.race_error import simulate
from mnist_edge.tuning.racing import MARGIN, PRIOR, Fastest, p_above, race, ratios, settled


@pytest.mark.parametrize("kind", ["normal", "best waits", "busy"])
def test_the_best_is_rarely_dropped(kind: str) -> None:
    """Among 48 equally fast candidates, the one that is followed goes in at most 2.5 % of the races.

    benchmarks/race_error.py has enough races for a bound; without the correction it would be a third of them.
    """
    assert sum(outcome.dropped for outcome in simulate("equal", kind, 30, seed=1)) <= 2


def test_without_the_correction_the_best_would_be_dropped() -> None:
    """The control of the test above: at the level of one comparison, the same candidate goes in most races."""
    outcomes = simulate("equal", "best waits", 40, seed=1, alpha=47 * 9 * 0.05)
    assert sum(outcome.dropped for outcome in outcomes) > 10


@pytest.mark.parametrize("kind", ["normal", "busy"])
def test_a_race_costs_a_third_and_ends_near_the_best(kind: str) -> None:
    """Where candidates differ as variants do, few processes are spent on those that lose."""
    outcomes = simulate("ladder", kind, 60, seed=2)
    assert np.mean([outcome.cost for outcome in outcomes]) < 0.36
    assert np.mean([outcome.regret for outcome in outcomes]) < 0.02


def noisy(speeds: dict[str, float], spread: float, seed: int = 0):
    """Times of candidates, each fixed by its name and round, and how often each was asked for."""
    asked: Counter[str] = Counter()

    def measure(name: str, turn: int) -> float:
        asked[name] += 1
        random = np.random.default_rng([seed, turn, *name.encode()])
        return speeds[name] * math.exp(spread * random.normal())

    return measure, asked


def test_a_clearly_slower_candidate_leaves_after_two_rounds_and_a_near_one_stays() -> None:
    """Three times slower is clear at once; within MARGIN nothing is ever clear, whatever the precision."""
    speeds = {"best": 10.0, "near": 10 * (1 + 0.9 * MARGIN), "far": 30.0, "further": 40.0}
    measure, asked = noisy(speeds, spread=0.001)
    lanes = race(list(speeds), measure, Fastest(), seed=0)
    assert asked["far"] == asked["further"] == 2
    assert lanes["far"].beaten_by == "best"
    assert lanes["near"].beaten_by is lanes["best"].beaten_by is None
    assert asked["best"] == asked["near"] < 10  # shown to be within 5 % of each other: no further round is needed


def test_rounds_are_interleaved_in_an_order_drawn_anew() -> None:
    """What slows the machine meets every candidate; equal seeds give equal orders."""
    orders: list[list[str]] = []
    for _ in range(2):
        seen: list[tuple[int, str]] = []

        def measure(name: str, turn: int, seen: list[tuple[int, str]] = seen) -> float:
            seen.append((turn, name))
            return 10 * math.exp(0.3 * np.random.default_rng([turn, *name.encode()]).normal())

        race(list("abcdef"), measure, Fastest(), seed=3, rounds=4)
        assert [turn for turn, _ in seen] == sorted(turn for turn, _ in seen)
        orders.append([name for _, name in seen])
    assert orders[0] == orders[1]
    assert len({tuple(orders[0][start : start + 6]) for start in range(0, 24, 6)}) > 2


def test_what_slows_a_whole_round_cancels() -> None:
    """A machine that takes half as long again in every other round drops nobody and keeps nobody."""

    def measure(name: str, turn: int) -> float:
        noise = 0.005 * np.random.default_rng([turn, *name.encode()]).normal()
        return {"a": 10.0, "b": 10.05, "slow": 14.0}[name] * (1.5 if turn % 2 else 1.0) * math.exp(noise)

    lanes = race(["a", "b", "slow"], measure, Fastest(), seed=0)
    assert lanes["slow"].beaten_by in {"a", "b"}
    assert len(lanes["slow"].times) <= 5
    assert lanes["a"].beaten_by is lanes["b"].beaten_by is None


def test_a_candidate_that_cannot_be_timed_takes_no_part() -> None:
    """It is neither leader nor beaten, and is not asked again."""
    measure, _ = noisy({"a": 10.0, "b": 20.0}, spread=0.01)
    lanes = race(
        ["broken", "a", "b"], lambda name, turn: None if name == "broken" else measure(name, turn), Fastest(), seed=0
    )
    assert lanes["broken"].failed
    assert lanes["broken"].times == []
    assert lanes["b"].beaten_by == "a"
    everything = race(["x"], lambda *_: None, Fastest(), seed=0)
    assert everything["x"].failed


def test_no_round_begins_after_the_time_is_up() -> None:
    """The budget ends a race of equals."""
    measure, asked = noisy({"a": 10.0, "b": 10.0}, spread=0.2)
    race(["a", "b"], measure, Fastest(), seed=0, stop=lambda: asked["a"] >= 3)
    assert asked == {"a": 3, "b": 3}


def test_two_candidates_are_compared_by_the_paired_t_test() -> None:
    """Without others to learn from, the moderated test is Student's, as scipy computes it."""
    random = np.random.default_rng(5)
    first, second = np.exp(random.normal(0, 0.1, 6)), np.exp(random.normal(0.2, 0.1, 6))
    (ratio,) = ratios({"a": first.tolist(), "b": second.tolist()}, "a").values()
    expected = scipy_stats.ttest_1samp(np.log(second / first), math.log(1.05), alternative="greater")
    assert p_above(ratio, math.log(1.05)) == pytest.approx(expected.pvalue)


def test_a_variance_is_moderated_by_the_typical_one() -> None:
    """Three rounds, three others: variance (3 typical + 2 own) / 5, on 5 degrees of freedom, by hand."""
    logs = {"a": [0.0, 0.0, 0.0], "b": [0.0, 0.1, -0.1], "c": [0.0, 0.3, -0.3], "d": [1.0, 1.2, 0.8]}
    times = {name: np.exp(values).tolist() for name, values in logs.items()}
    found = ratios(times, "a")
    own = {"b": 0.01, "c": 0.09, "d": 0.04}
    typical = 0.04 * 2 / (2 * math.log(2))  # the median of a chi-squared variable with 2 degrees is 2 ln 2
    for name, variance in own.items():
        expected = (PRIOR * typical + 2 * variance) / (PRIOR + 2)
        assert found[name].standard_error == pytest.approx(math.sqrt(expected / 3))
        assert found[name].degrees_of_freedom == PRIOR + 2
    assert found["d"].estimate == pytest.approx(1.0)


def test_a_race_is_settled_when_the_choice_is_shown_to_be_near_enough() -> None:
    """Being as fast is not enough: it has to be shown, and a choice that is 4 % slower than another is shown as well."""
    calm = {"a": [10.0, 10.001, 9.999] * 3, "b": [10.4, 10.401, 10.399] * 3}
    assert settled(calm, "b", 0.001)
    assert not settled({"a": [10.0, 10.5, 9.5], "b": [10.0, 9.4, 10.7]}, "a", 0.001)
    assert not settled({"a": calm["a"], "b": [10.8] * 8 + [10.801]}, "b", 0.001)


@pytest.mark.parametrize(("rounds", "others", "dropped"), [(2, 0, True), (10, 0, False), (2, 38, False)])
def test_the_level_of_a_test_is_shared_by_candidates_and_rounds(rounds: int, others: int, dropped: bool) -> None:
    """Student's p-value of these two rounds is 0.085: significant at 0.1 alone, and not as one of 9 or 39 tests."""
    times = {"a": [1.0, 1.0], "slower": [math.exp(0.10), math.exp(0.16)]}
    names = [*times, *(f"broken {number}" for number in range(others))]
    lanes = race(
        names,
        lambda name, turn: times[name][turn] if name in times else None,
        Fastest(),
        seed=0,
        alpha=0.1,
        rounds=rounds,
        stop=lambda: True,
    )
    assert (lanes["slower"].beaten_by == "a") == dropped
