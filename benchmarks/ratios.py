"""What one variant costs against another, made inside each round and then summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .figures import figure
from .scenarios import Seen
from .windows import Window

Measure = Callable[[Window, Window | None], float]
"""Reads a window; the second one is that of the direct way in the same round."""
Asked = tuple[str, str, str, Measure, tuple[str, ...]]
"""A comparison: scenario, kind, what it is in words, measure, bases."""


def cpu_per(events: str) -> Measure:
    """CPU time for each request or chunk."""
    return lambda window, floor: window["cpu_s"] / max(1, window[events])


def rate_of(events: str) -> Measure:
    """Requests or chunks a second."""
    return lambda window, floor: window[events] / window["seconds"]


def median_of(series: str) -> Measure:
    """The median of a series as it is."""
    return lambda window, floor: window[f"{series}_us"][50]


def added(series: str) -> Measure:
    """The median of a series over that of the direct way."""
    return lambda window, floor: window[f"{series}_us"][50] - (floor[f"{series}_us"][50] if floor else 0.0)


def ratio(
    seen: Seen, scenario: str, what: str, measure: Measure, variant: str, base: str, *, kind: str
) -> dict[str, Any] | None:
    """Compare two variants; None when one of them was not measured, or added nothing that could be compared."""
    variants = seen[scenario]
    mine, theirs = variants.get(variant, []), variants.get(base, [])
    floors: list[Window | None] = list(variants.get("direct", [])) or [None] * len(mine)
    pairs = [(measure(m, f), measure(t, f)) for m, t, f in zip(mine, theirs, floors, strict=False)]
    values = [m / t for m, t in pairs if m > 0 and t > 0]
    if not values:
        return None
    return {
        "id": f"{kind}_{scenario}_{variant}_{base}",
        "name": f"{what}, {variant} / {base}",
        "scenario": scenario,
        "variant": variant,
        "base": base,
        **figure(values, "x"),
    }


def ratios(seen: Seen, asked: Sequence[Asked], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return every comparison that was asked for and that the variants measured allow."""
    rows = [
        ratio(seen, scenario, what, measure, variant, base, kind=kind)
        for scenario, kind, what, measure, bases in asked
        for base in bases
        for variant in variants
        if variant != base
    ]
    return [row for row in rows if row is not None]
