"""Plots with two axes as SVG inside of HTML. Colours come from the page, so that they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal, TypeAlias

from .scale import Scale, fitting, text_width, tick_text
from .style import COLOURS

Kind: TypeAlias = Literal["line", "step", "points", "rule"]

WIDTH, HEIGHT = 480, 300
_TOP, _RIGHT, _BOTTOM = 30, 16, 42
_DOTS = 40
"""Up to so many points of a line are shown as dots, and about so many tell their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows."""

    label: str
    log: bool = False
    zero: bool = False
    """Whether zero has to be on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What has a name in the legend. A `rule` is a level line: its points' first value alone counts."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: Kind = "line"
    spread: Sequence[tuple[float, float]] = ()
    """Lowest and highest beside each point."""
    colour: int = 0
    """From 1; 0: by its place in the plot."""
    texts: Sequence[str] = ()
    """What to say of each point instead of its two values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot with its words."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    note: str = ""
    x_ticks: Sequence[float] = field(default=())
    """Where the axis has ticks, if not where they fall by themselves."""


def figure(plot: Plot) -> str:
    """Return a plot as a `<figure>`: title, legend, drawing, note. Empty when there is nothing to draw."""
    if not any(series.points for series in plot.series):
        return ""
    ys = [y for one in plot.series for _, y in one.points] + [
        y for one in plot.series for pair in one.spread for y in pair
    ]
    xs = [x for one in plot.series if one.kind != "rule" for x, _ in one.points]
    y = Scale(ys, HEIGHT - _BOTTOM, _TOP, log=plot.y.log, zero=plot.y.zero)
    left = max((text_width(tick_text(tick)) for tick in y.ticks()), default=0) + 14
    x = Scale(xs, left, WIDTH - _RIGHT, log=plot.x.log, zero=plot.x.zero)
    shapes = [_series(one, place, x, y, plot) for place, one in enumerate(plot.series, start=1)]
    drawn = [*_axes(plot, x, y), *reversed(shapes)]  # what is named first lies on top
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">{"".join(drawn)}</svg>'
    keys = legend([(one.name, _class(one, place)) for place, one in enumerate(plot.series, start=1) if one.points])
    return framed(plot.title, keys + svg, plot.note)


def framed(title: str, inside: str, note: str = "") -> str:
    """Return a drawing with its title above and its note below."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{inside}{below}</figure>"


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Return names with their classes of colour; HTML, so that it wraps where the page is narrow."""
    shown = "".join(f'<span class="{kind}"><i></i>{escape(name)}</span>' for name, kind in names if name)
    return f'<div class="keys">{shown}</div>' if shown else ""


def colour_class(colour: int) -> str:
    """Return the CSS classes of a colour; beyond the last one they begin again, with dashes."""
    again = " again" if colour > COLOURS else ""
    return f"c{(colour - 1) % COLOURS + 1}{again}"


def _axes(plot: Plot, x: Scale, y: Scale) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = []
    for tick in y.ticks():
        at = y.at(tick)
        kind = "grid" if tick else "zero"
        drawn.append(f'<path class="{kind}" d="M{x.start:.1f} {at:.1f}H{right}"/>')
        drawn.append(text(x.start - 6, at + 4, tick_text(tick), "end"))
    ticks = plot.x_ticks or x.ticks()
    drawn += [f'<path class="grid" d="M{x.at(tick):.1f} {_TOP}V{bottom}"/>' for tick in ticks]
    drawn += [text(at, bottom + 16, label, "middle") for at, label in fitting([(x.at(t), tick_text(t)) for t in ticks])]
    drawn.append(f'<path class="axis" d="M{x.start:.1f} {bottom}H{right}"/>')
    drawn.append(text((x.start + right) / 2, HEIGHT - 7, plot.x.label, "middle", "label"))
    drawn.append(text(4, 16, plot.y.label, "start", "label"))
    return drawn


def _class(series: Series, place: int) -> str:
    return colour_class(series.colour or place) + (" level" if series.kind == "rule" else "")


def _series(series: Series, place: int, x: Scale, y: Scale, plot: Plot) -> str:
    if not series.points:
        return ""
    shown = [(x.at(px), y.at(py)) for px, py in series.points]
    parts = []
    if series.kind == "rule":
        at = shown[0][1]
        parts.append(f'<path class="rule" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>')
        parts.append(_spot(x.end, at, series.name, dot=False))
        return f'<g class="{_class(series, place)}">{"".join(parts)}</g>'
    if series.kind == "line":
        parts.append(f'<path class="line" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in shown)}"/>')
    elif series.kind == "step":
        steps = "".join(f"H{px:.1f}V{py:.1f}" for px, py in shown[1:])
        parts.append(f'<path class="line" d="M{shown[0][0]:.1f} {shown[0][1]:.1f}{steps}"/>')
    parts += [
        f'<path class="spread" d="M{px:.1f} {y.at(low):.1f}V{y.at(high):.1f}"/>'
        for (px, _), (low, high) in zip(shown, series.spread, strict=False)
    ]
    dots = series.kind == "points" or (series.kind == "line" and len(shown) <= _DOTS)
    every = 1 if dots else math.ceil(len(shown) / _DOTS)
    for number, ((px, py), values) in enumerate(zip(shown, series.points, strict=True)):
        if number % every:
            continue
        said = series.texts[number] if series.texts else _said(series.name, values, plot)
        parts.append(_spot(px, py, said, dot=dots))
    return f'<g class="{_class(series, place)}">{"".join(parts)}</g>'


def _said(name: str, values: tuple[float, float], plot: Plot) -> str:
    px, py = (tick_text(float(f"{value:.4g}")) for value in values)
    return f"{name}: {plot.x.label} {px}, {plot.y.label} {py}"


def _spot(x: float, y: float, said: str, *, dot: bool) -> str:
    seen = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' if dot else ""
    return f'<g>{seen}<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="7"/><title>{escape(said)}</title></g>'


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "tick") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
