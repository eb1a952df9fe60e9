"""Percentiles, intervals and what may be said of them; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

FEWEST = 6
"""Rounds; below it not even lowest and highest together hold the median with 95 % confidence."""
FEWEST_FOR_P95 = 20
"""Rounds; below it a 95th percentile is little but the highest value, and drawing again does not show how far off."""
RESAMPLES = 2000
DRAWS = 400_000
"""Of all resamples together, so that many pairs take no longer than a moment."""

Verdict: TypeAlias = Literal["more", "less", "noise", "few"]
Pair: TypeAlias = tuple[float, float]
Round: TypeAlias = Sequence[Pair]
"""Direct and routed, of all that ran at the same time: they share their luck, so that a round is one observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Routed minus direct, with its 95 % interval; None without one."""

    value: float
    low: float | None
    high: float | None
    pairs: int
    rounds: int
    needs: int = FEWEST
    """How many rounds an interval takes."""

    @property
    def verdict(self) -> Verdict:
        """`more` or `less` when the interval leaves zero out, `noise` when not, `few` when there is none."""
        if self.low is None or self.high is None:
            return "few"
        return "more" if self.low > 0 else "less" if self.high < 0 else "noise"


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile (0 to 1) by linear interpolation between the two values around it."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return percentile(values, 0.5)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return an interval that holds the median with at least 95 % confidence, whatever the distribution.

    Its ends are values of the sample, counted in from both sides by the binomial distribution; None below `FEWEST`.
    """
    count = len(values)
    if count < FEWEST:
        return None
    ordered = sorted(values)
    outside, rank, tail = 2.0**-count if count < 1000 else 0.0, 0, 0.0
    if count >= 1000:  # the normal distribution is as good by now
        rank = math.floor((count - 1.96 * math.sqrt(count)) / 2)
        return ordered[rank - 1], ordered[count - rank]
    while tail + outside <= 0.025:
        tail += outside
        outside *= (count - rank) / (rank + 1)
        rank += 1
    return ordered[rank - 1], ordered[count - rank]


def median_difference(rounds: Sequence[Round]) -> Difference:
    """Return the median over the rounds of the median difference inside the pairs of each."""
    differences = [median([routed - direct for direct, routed in pairs]) for pairs in rounds]
    low, high = median_interval(differences) or (None, None)
    return Difference(value=median(differences), low=low, high=high, pairs=sum(map(len, rounds)), rounds=len(rounds))


def percentile_difference(rounds: Sequence[Round], share: float, random: Random) -> Difference:
    """Return the difference of one percentile of each side, its interval by drawing rounds again and again."""

    def found(drawn: Sequence[Round]) -> float:
        direct, routed = zip(*(pair for pairs in drawn for pair in pairs), strict=True)
        return percentile(routed, share) - percentile(direct, share)

    low, high = _bootstrapped(rounds, found, random) if len(rounds) >= FEWEST_FOR_P95 else (None, None)
    count = sum(map(len, rounds))
    return Difference(value=found(rounds), low=low, high=high, pairs=count, rounds=len(rounds), needs=FEWEST_FOR_P95)


def curve(values: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """Return the distribution as at most so many points: value, and the percentage that is not above it."""
    ordered = sorted(values)
    count = len(ordered)
    picked = range(count) if count <= points else [round(i * (count - 1) / (points - 1)) for i in range(points)]
    return [(ordered[i], 100 * (i + 1) / count) for i in picked]


def _bootstrapped(
    rounds: Sequence[Round], found: Callable[[Sequence[Round]], float], random: Random
) -> tuple[float, float]:
    times = max(200, min(RESAMPLES, DRAWS // sum(map(len, rounds))))
    drawn = [found(random.choices(rounds, k=len(rounds))) for _ in range(times)]
    return percentile(drawn, 0.025), percentile(drawn, 0.975)
