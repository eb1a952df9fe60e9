"""Plots as SVG, written by hand: small panels, one a pattern, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = {"fcfs+lru": "#999999", "ollama": "#d98c00", "llama-swap": "#c0392b"}
OURS = "#1f5fa8"
NEAREST = "llama-swap"
"""The rival that always fits into the picture; others that do not are drawn at its edge, with mean and maximum."""
PANEL_W, PANEL_H, LEFT, TOP, COLUMNS = 300, 200, 52, 56, 3
Row = Mapping[str, Any]


def fronts(result: Mapping[str, Any]) -> str:
    """Draw mean against maximum wait: the gate as a curve over `fair_after`, the rivals as points."""
    parts = []
    for index, (name, described) in enumerate(result["method"]["patterns"].items()):
        rows = {row["policy"]: row for row in result["figures"] if row["pattern"] == name}
        curve = [rows[policy] for policy in result["method"]["curve"]]
        rivals = [rows[policy] for policy in result["method"]["rivals"]]
        near = [*curve, rows[NEAREST]]
        x = Axis([_value(row, "max_wait_s") for row in near], LEFT, PANEL_W - 30)
        y = Axis([_value(row, "mean_wait_s") for row in near], PANEL_H - 34, 26)
        drawn = [*x.ticks_below(PANEL_H - 34), *y.ticks_left(LEFT)]
        points = [(x.at(_value(row, "max_wait_s")), y.at(_value(row, "mean_wait_s")), row["policy"]) for row in curve]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{OURS}" stroke-width="1.5"/>')
        drawn += [_dot(px, py, OURS, 2.5) for px, py, _ in points]
        drawn += [_text(px + 4, py - 4, label, OURS, 8) for px, py, label in _spread_labels(points)]
        for place, row in enumerate(rivals):
            most, mean = _value(row, "max_wait_s"), _value(row, "mean_wait_s")
            beyond = "" if x.holds(most) and y.holds(mean) else f"{mean:.0f} / {most:.0f} s"
            drawn.append(_dot(x.at(most), y.at(mean), COLOURS[row["policy"]], 4))
            drawn.append(_text(x.at(most) - 6, y.at(mean) + 3 + 10 * place, beyond, COLOURS[row["policy"]], 8, "end"))
        drawn.append(_text(LEFT, PANEL_H - 8, "maximum wait, s", "#444", 9))
        drawn.append(_text(6, 22, "mean wait, s", "#444", 9))
        parts.append(_panel(index, described["title"], drawn))
    heading = "Mean against maximum wait, medians over the seeds; the curve is the gate, labelled with fair_after"
    return _page(parts, heading, [("the gate", OURS), *COLOURS.items()])


def bars(result: Mapping[str, Any]) -> str:
    """Draw, for each policy, a line from mean over p95 to maximum wait, and write its swaps beside it."""
    parts = []
    shown = [policy for policy in result["method"]["shown"] if "max_wait" not in policy]
    for index, (name, described) in enumerate(result["method"]["patterns"].items()):
        rows = {row["policy"]: row for row in result["figures"] if row["pattern"] == name}
        values = [_value(rows[policy], f"{kind}_wait_s") for policy in shown for kind in ("mean", "max")]
        x = Axis(values, LEFT + 20, PANEL_W - 70)
        drawn = x.ticks_below(PANEL_H - 34)
        for place, policy in enumerate(shown):
            row, py, colour = rows[policy], 38 + place * 26, COLOURS.get(policy, OURS)
            mean, p95, most = (x.at(_value(row, f"{kind}_wait_s")) for kind in ("mean", "p95", "max"))
            drawn.append(
                f'<line x1="{mean:.1f}" y1="{py}" x2="{most:.1f}" y2="{py}" stroke="{colour}" stroke-width="2"/>'
            )
            drawn.append(_dot(mean, py, colour, 4))
            drawn += [
                f'<line x1="{px:.1f}" y1="{py - 5}" x2="{px:.1f}" y2="{py + 5}" stroke="{colour}" stroke-width="2"/>'
                for px in (p95, most)
            ]
            drawn.append(_text(4, py + 3, policy, colour, 9))
            drawn.append(_text(PANEL_W - 62, py + 3, f"{_value(row, 'swaps'):.0f} swaps", colour, 9))
        drawn.append(_text(LEFT + 20, PANEL_H - 8, "wait, s: mean (dot), p95, maximum", "#444", 9))
        parts.append(_panel(index, described["title"], drawn))
    return _page(parts, "Waits and swaps, medians over the seeds", [("the gate", OURS), *COLOURS.items()])


class Axis:
    """A logarithmic axis over some values, between two places on the paper."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        held = [max(value, 0.01) for value in values]
        self._low, self._high = math.log10(min(held)) - 0.06, math.log10(max(held)) + 0.16
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Return the place of a value, at the end of the axis when it lies beyond."""
        share = min(1.0, max(0.0, (math.log10(max(value, 0.01)) - self._low) / (self._high - self._low)))
        return self._start + share * (self._end - self._start)

    def holds(self, value: float) -> bool:
        """Tell whether a value lies on the axis."""
        return self._low <= math.log10(max(value, 0.01)) <= self._high

    def _ticks(self) -> list[float]:
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        fine = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        inside = [tick for tick in fine if self._low <= math.log10(tick) <= self._high]
        if len(inside) < 3:
            fine = [step * 10.0**decade for decade in decades for step in (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)]
            inside = [tick for tick in fine if self._low <= math.log10(tick) <= self._high]
        return inside if len(inside) <= 6 else [tick for tick in inside if math.log10(tick).is_integer()]

    def ticks_below(self, y: float) -> list[str]:
        """Draw the ticks of a horizontal axis."""
        line = f'<line x1="{self._start}" y1="{y}" x2="{self._end}" y2="{y}" stroke="#888"/>'
        return [line, *(_text(self.at(tick), y + 12, f"{tick:g}", "#444", 9, "middle") for tick in self._ticks())]

    def ticks_left(self, x: float) -> list[str]:
        """Draw the ticks of a vertical axis."""
        line = f'<line x1="{x}" y1="{self._start}" x2="{x}" y2="{self._end}" stroke="#888"/>'
        return [line, *(_text(x - 4, self.at(tick) + 3, f"{tick:g}", "#444", 9, "end") for tick in self._ticks())]


def _spread_labels(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Label the points that lie apart from those labelled already; the ends of the curve first."""
    kept: list[tuple[float, float, str]] = []
    for px, py, policy in (points[-1], points[0], *points[1:-1]):
        if all(math.hypot(px - qx, py - qy) > 16 for qx, qy, _ in kept):
            kept.append((px, py, policy.removeprefix("ours, ")))
    return kept


def _value(row: Row, metric: str) -> float:
    return float(row[metric]["median"])


def _dot(x: float, y: float, colour: str, radius: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, colour: str, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _panel(index: int, title: str, drawn: Sequence[str]) -> str:
    x, y = (index % COLUMNS) * PANEL_W, TOP + (index // COLUMNS) * PANEL_H
    return f'<g transform="translate({x},{y})">{_text(LEFT, 10, title, "#000", 10)}{"".join(drawn)}</g>'


def _page(panels: Sequence[str], heading: str, legend: Sequence[tuple[str, str]]) -> str:
    width, height = COLUMNS * PANEL_W, TOP + math.ceil(len(panels) / COLUMNS) * PANEL_H
    keys = "".join(
        _dot(14 + 110 * place, 34, colour, 4) + _text(22 + 110 * place, 37, name, colour, 10)
        for place, (name, colour) in enumerate(legend)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif"><rect width="{width}" height="{height}" fill="#fff"/>'
        f"{_text(8, 18, heading, '#000', 12)}{keys}{''.join(panels)}</svg>\n"
    )
