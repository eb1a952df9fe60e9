"""Bars from left to right, each with its name above it: long names have room, on a phone too.

On a logarithmic scale, where a length says nothing, the value is a dot on a stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .plots import WIDTH, colour_class, framed, legend, text
from .scale import Scale, fitting, text_width, tick_text

_ROW = 40
_LEFT, _TOP = 4, 8
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
    title: str, bars: Sequence[Bar], *, log: bool = False, note: str = "", keys: Sequence[tuple[str, str]] = ()
) -> str:
    """Return bars as a `<figure>`; empty when there are none. A logarithmic scale begins below the least value."""
    if not bars:
        return ""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    room = max(text_width(bar.said) for bar in bars) + 12  # right of the longest bar
    scale = Scale(ends, _LEFT, WIDTH - room, log=log, zero=not log)
    base = scale.at(0) if not log else _LEFT
    height = _TOP + _ROW * len(bars) + 22
    drawn = [f'<path class="grid" d="M{scale.at(tick):.1f} {_TOP}V{height - 20}"/>' for tick in scale.ticks()]
    labels = [(max(scale.at(tick), text_width(tick_text(tick)) / 2), tick_text(tick)) for tick in scale.ticks()]
    drawn += [text(at, height - 6, label, "middle") for at, label in fitting(labels)]
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
        spread = f'<path class="spread" d="M{low:.1f} {y + 25}H{high:.1f}M{low:.1f} {y + 21}v8M{high:.1f} {y + 21}v8"/>'
    name = bar.name
    while text_width(name) > _NAME_WIDTH:
        name = name[:-2].rstrip() + "…"
    if scale.log:
        shape = (
            f'<path class="stem" d="M{base} {y + 25}H{at:.1f}"/><circle class="dot" cx="{at:.1f}" cy="{y + 25}" r="5"/>'
        )
    else:
        left, width = min(base, at), max(abs(at - base), 1.0)
        shape = f'<rect class="bar" x="{left:.1f}" y="{y + 19}" width="{width:.1f}" height="12" rx="2"/>'
    return (
        f'<g class="{colour_class(bar.colour)}"><title>{escape(f"{bar.name}: {bar.said}")}</title>'
        f"{text(_LEFT, y + 13, name)}{shape}{spread}"
        f"{text(max(*ends, base) + 8, y + 30, bar.said, 'start', 'value')}</g>"
    )
