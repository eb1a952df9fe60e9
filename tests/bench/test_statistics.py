"""Percentiles, intervals and verdicts, with numbers that are known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

import pytest

from smartrouter_asgi.bench.statistics import (
    FEWEST,
    Difference,
    curve,
    median,
    median_difference,
    median_interval,
    percentile,
    percentile_difference,
)


def one_by_one(pairs: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Rounds of one pair each."""
    return [[pair] for pair in pairs]


def test_percentiles_lie_between_the_values_around_them():
    values = [40.0, 10.0, 30.0, 20.0]
    assert [percentile(values, share) for share in (0, 0.25, 0.5, 1)] == [10, 17.5, 25, 40]
    assert median([7.0]) == 7


@pytest.mark.parametrize(
    ("count", "first"),
    [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (50, 18), (100, 40)],
)
def test_the_interval_of_a_median_is_the_tables(count: int, first: int):
    """The ranks of the sign test at 95 %: from the `first` value from below to the one from above."""
    values = [float(number) for number in range(1, count + 1)]
    assert median_interval(values) == (first, count + 1 - first)


def test_the_interval_holds_the_median_as_often_as_it_says():
    """Skewed values too; and it does not become a different one where the reckoning changes."""
    random = Random(1)
    held = 0
    for _ in range(600):
        low, high = median_interval([random.expovariate(1) for _ in range(25)]) or (0, 0)
        held += low <= math.log(2) <= high
    assert held / 600 >= 0.94
    below, above = (median_interval([float(n) for n in range(count)]) or (0, 0) for count in (999, 1001))
    assert abs(below[0] - above[0]) <= 3
    assert abs(below[1] - above[1]) <= 3


def test_fewer_than_six_give_no_interval():
    assert median_interval([1.0] * (FEWEST - 1)) is None
    found = median_difference(one_by_one([(1.0, 2.0)] * 5))
    assert (found.value, found.low, found.high, found.verdict) == (1, None, None, "few")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.4, "more"), (-0.4, -0.1, "less"), (-0.1, 0.3, "noise"), (0.0, 0.3, "noise"), (None, None, "few")],
)
def test_only_an_interval_without_zero_is_a_difference(low: float | None, high: float | None, verdict: str):
    assert Difference(value=0.2, low=low, high=high, pairs=9, rounds=9).verdict == verdict


def test_pairs_cancel_what_both_sides_share():
    """An engine that becomes slower all the time hides nothing."""
    pairs = [(float(n), n + 0.25) for n in range(1, 30)]
    found = median_difference(one_by_one(pairs))
    assert (found.value, found.low, found.high, found.pairs) == (0.25, 0.25, 0.25, 29)
    assert found.verdict == "more"


def test_two_sides_that_are_alike_differ_within_noise():
    random = Random(3)
    pairs = [(random.gauss(100, 5), random.gauss(100, 5)) for _ in range(60)]
    assert median_difference(one_by_one(pairs)).verdict == "noise"
    assert percentile_difference(one_by_one(pairs), 0.95, Random(0)).verdict == "noise"


def test_rounds_that_share_their_luck_are_not_taken_for_many():
    """Each round of eight is a draw of its own; taken for single pairs a third of these intervals would miss zero."""
    random = Random(7)
    missed = 0
    for _ in range(200):
        luck = [random.gauss(0, 1) for _ in range(8)]
        rounds = [[(0.0, shared + random.gauss(0, 0.3)) for _ in range(8)] for shared in luck]
        missed += median_difference(rounds).verdict != "noise"
    assert missed / 200 <= 0.05


def test_a_slower_tail_shows_at_the_95th_percentile():
    random = Random(4)
    pairs = [(random.uniform(10, 11), random.uniform(10, 11) + (20 if n % 8 == 0 else 0)) for n in range(80)]
    found = percentile_difference(one_by_one(pairs), 0.95, Random(0))
    assert found.verdict == "more"
    assert 15 < found.value < 25
    assert median_difference(one_by_one(pairs)).value < 1


def test_a_curve_keeps_both_ends():
    found = curve([float(n) for n in range(1000)], points=50)
    assert len(found) == 50
    assert found[0] == (0, 0.1)
    assert found[-1] == (999, 100)
    assert curve([]) == []
    assert curve([3.0]) == [(3.0, 100.0)]
