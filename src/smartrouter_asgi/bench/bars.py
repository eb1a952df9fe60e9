"""Bars from left to right, each with its name above it: long names have room, on a phone too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .plots import WIDTH, colour_class, framed, legend, text
from .scale import Scale, text_width, tick_text

_ROW = 34
_LEFT, _TOP = 4, 8
_VALUES = 100
"""Room for the values, right of the longest bar."""
_NAME_WIDTH = WIDTH - 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, its value as it is written, and how far the value went to either side."""

    name: str
    value: float
    said: str
    low: float | None = None
    high: float | None = None
    colour: int = 1


def bars_figure(
    title: str, bars: Sequence[Bar], *, log: bool = False, note: str = "", keys: Sequence[tuple[str, int]] = ()
) -> str:
    """Return bars as a `<figure>`; empty when there are none. A logarithmic scale begins below the least value."""
    if not bars:
        return ""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    scale = Scale(ends, _LEFT, WIDTH - _VALUES, log=log, zero=not log)
    base = scale.at(0) if not log else _LEFT
    height = _TOP + _ROW * len(bars) + 22
    drawn = []
    for tick in scale.ticks():
        at = scale.at(tick)
        drawn.append(f'<line class="grid" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{height - 20}"/>')
    last = -100.0
    for tick in scale.ticks():
        at, label = scale.at(tick), tick_text(tick)
        half = text_width(label) / 2
        place = max(at, half + 1)
        if place - half > last + 6:
            drawn.append(text(place, height - 6, label, "middle"))
            last = place + half
    drawn += [_row(bar, number, scale, base) for number, bar in enumerate(bars)]
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    return framed(title, legend(keys) + svg, note)


def _row(bar: Bar, number: int, scale: Scale, base: float) -> str:
    y = _TOP + _ROW * number
    at = scale.at(bar.value)
    ends = [at]
    spread = ""
    if bar.low is not None and bar.high is not None:
        low, high = scale.at(bar.low), scale.at(bar.high)
        ends += [high]
        spread = f'<path class="spread" d="M{low:.1f} {y + 22}H{high:.1f}M{low:.1f} {y + 18}v8M{high:.1f} {y + 18}v8"/>'
    name = bar.name
    while text_width(name) > _NAME_WIDTH:
        name = name[:-2].rstrip() + "…"
    left, width = min(base, at), max(abs(at - base), 1.0)
    return (
        f'<g class="{colour_class(bar.colour)}"><title>{escape(f"{bar.name}: {bar.said}")}</title>'
        f"{text(_LEFT, y + 12, name)}"
        f'<rect class="bar" x="{left:.1f}" y="{y + 16}" width="{width:.1f}" height="12" rx="2"/>{spread}'
        f"{text(max(*ends, base) + 6, y + 26, bar.said, 'start', 'value')}</g>"
    )
