"""From values to places on paper: linear and logarithmic scales, their ticks and how these are written; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

TICKS = 6


class Scale:
    """A scale over some values, between two places on the paper. What lies beyond is put at its edge.

    `zero` takes zero in, which a logarithmic scale cannot; that one leaves out what is not positive.
    """

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False
    ) -> None:
        held = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(held), max(held)) if held else (1.0, 10.0) if log else (0.0, 1.0)
        self.log = log
        if log:
            low, high = math.log10(low), math.log10(high)
            margin = max((high - low) * 0.03, 0.04)
            low, high = low - margin, high + margin
        else:
            if zero:
                low, high = min(low, 0.0), max(high, 0.0)
            if low == high:
                low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
            margin = (high - low) * 0.05
            low = low if zero and low == 0 else low - margin
            high = high if zero and high == 0 else high + margin
        self._low, self._high = low, high
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        """Return the place of a value."""
        if self.log:
            value = math.log10(value) if value > 0 else self._low
        share = (value - self._low) / (self._high - self._low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return values worth a line across the paper, a handful of them."""
        if not self.log:
            return _linear(self._low, self._high)
        low, high = 10**self._low, 10**self._high
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [
                step * 10.0**decade
                for decade in range(math.floor(self._low), math.ceil(self._high) + 1)
                for step in steps
                if low <= step * 10.0**decade <= high
            ]
            if len(found) >= 4:
                every = math.ceil(len(found) / (TICKS + 2))
                return found[::every]
        return [tick for tick in _linear(low, high) if tick > 0]


def tick_text(value: float) -> str:
    """Write a tick as short as it can be understood: 0.05, 250, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            divisor = 1e3 if unit == "k" else size
            return f"{value / divisor:g}{unit}"
    return f"{round(value, 10):g}"


def text_width(text: str, size: float = 12) -> float:
    """Return about how wide a text is; rather too wide than too narrow."""
    return len(text) * size * 0.6


def fitting(places: Sequence[tuple[float, str]], gap: float = 8) -> list[tuple[float, str]]:
    """Return the labels along a horizontal axis that do not run into each other, from left to right."""
    kept: list[tuple[float, str]] = []
    edge = -math.inf
    for place, text in sorted(places):
        half = text_width(text) / 2
        if place - half >= edge:
            kept.append((place, text))
            edge = place + half + gap
    return kept


def _linear(low: float, high: float) -> list[float]:
    rough = (high - low) / TICKS
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
