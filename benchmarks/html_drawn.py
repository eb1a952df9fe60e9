"""What the sections of the HTML report share: colours that stay with a variant, bars and lines made of figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smartrouter_asgi.bench.bars import Bar, bars_figure
from smartrouter_asgi.bench.plots import Axis, Plot, Series, figure

from .tables import number, spread

Result = Mapping[str, Any]
Row = Mapping[str, Any]

COLOURS = {
    "router": 1,
    "litellm": 2,
    "nginx": 3,
    "proxy": 4,
    "openai_endpoint": 5,
    "hello": 6,
    "direct": 7,
    "router_log": 8,
    "router_direct": 9,
    "router_httpx": 12,
}
"""A variant has the same colour in every plot; beyond 8 they come again, dashed."""
OTHERS = 10
WIDE = 15.0
"""Highest per lowest value from which an axis is logarithmic."""
SHOWN = range(100)
"""Percentiles of a distribution that are drawn: the last one is a single window's worst event."""


def colour(variant: str) -> int:
    """Return the colour of a variant."""
    return COLOURS.get(variant, OTHERS)


def is_wide(values: Iterable[float]) -> bool:
    """Tell whether values are spread so wide that a logarithmic axis shows more."""
    held = [value for value in values if value > 0]
    return bool(held) and max(held) / min(held) > WIDE


def found(result: Result, name: str = "figures", **labels: Any) -> list[Row]:
    """Return the rows that have these labels."""
    return [row for row in result.get(name, []) if all(row.get(key) == value for key, value in labels.items())]


def bars(title: str, rows: Sequence[tuple[str, Row, int]], *, unit: str = "", note: str = "") -> str:
    """Return bars of figures, each with its name and colour."""
    if not rows:
        return ""
    values = [float(row["median"]) for _, row, _ in rows]
    log = is_wide(values) and min(values) > 0
    drawn = [
        Bar(
            name=name,
            value=float(row["median"]),
            said=f"{number(row['median'])} {unit or row['unit']}",
            low=float(row["low"]) if row["n"] > 1 else None,
            high=float(row["high"]) if row["n"] > 1 else None,
            colour=shade,
        )
        for name, row, shade in rows
    ]
    scale = "The scale is logarithmic. " if log else ""
    return bars_figure(title, drawn, log=log, note=(scale + note).strip())


def by_variant(result: Result, title: str, *, note: str = "", **labels: Any) -> str:
    """Return one bar for each variant."""
    rows = [(row["variant"], row, colour(row["variant"])) for row in found(result, **labels)]
    return bars(title, rows, note=note)


def distributions(result: Result, title: str, *, label: str = "us", note: str = "", **labels: Any) -> str:
    """Return how events spread over times, one curve for each variant."""
    series = []
    for row in sorted(found(result, "quantiles", **labels), key=_ours_first):
        points = [(float(row["values"][share]), float(share)) for share in SHOWN if share < len(row["values"])]
        series.append(Series(name=row["variant"], points=points, colour=colour(row["variant"]), kind="step"))
    log = is_wide(x for one in series for x, _ in one.points)
    return figure(
        Plot(
            title=title,
            x=Axis(label=label, log=log),
            y=Axis(label="% of events that took no longer", zero=True),
            series=series,
            note=note,
        )
    )


def lines(
    rows: Sequence[Row], title: str, *, by: str, over: str, x: Axis, y: str, zero: bool = True, note: str = ""
) -> str:
    """Return figures over something, one line for each value of a label."""
    series = []
    for name in dict.fromkeys(row[by] for row in sorted(rows, key=_ours_first)):
        mine = sorted((row for row in rows if row[by] == name), key=lambda row: row[over])
        series.append(
            Series(
                name=str(name),
                points=[(row[over], row["median"]) for row in mine],
                spread=[(row["low"], row["high"]) for row in mine if row["n"] > 1],
                colour=colour(name) if by == "variant" else 0,
                texts=[f"{name}, {row[over]:,} {x.label}: {spread(row)} {row['unit']}" for row in mine],
            )
        )
    log = is_wide(row["median"] for row in rows) and all(row["median"] > 0 for row in rows)
    ticks = sorted({row[over] for row in rows})
    return figure(
        Plot(
            title=title,
            x=x,
            y=Axis(label=y, log=log, zero=zero and not log),
            series=series,
            note=note,
            x_ticks=ticks if len(ticks) <= 8 else (),
        )
    )


def _ours_first(row: Row) -> bool:
    """Order rows so that the router's are named first and lie on top."""
    return not str(row.get("variant", "")).startswith("router")
