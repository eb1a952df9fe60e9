"""What one variant costs against another, made inside each round and then summed up; with the aims they are held to."""

from __future__ import annotations

from typing import Any

from .figures import figure

Windows = dict[str, dict[str, list[dict[str, Any]]]]

CPU_AIM = 2.5
ADDED_AIM = 1.25


def ratios(windows: Windows) -> list[dict[str, Any]]:
    """Return every comparison that the variants measured allow."""
    found = [
        _cpu(windows, "plain_32", "requests", "router", "hello", aim=CPU_AIM),
        _cpu(windows, "plain_32", "requests", "router", "proxy"),
        _cpu(windows, "plain_32", "requests", "router_log", "router"),
        _cpu(windows, "plain_32", "requests", "router", "nginx"),
        _cpu(windows, "burst", "chunks", "router", "proxy"),
        _cpu(windows, "paced", "chunks", "router", "hello"),
        _cpu(windows, "paced", "chunks", "router", "proxy"),
        _added(windows, "plain_1", "latency_us", "nginx", aim=ADDED_AIM),
        _added(windows, "plain_1", "latency_us", "proxy"),
        _added(windows, "first_token", "first_token_us", "nginx"),
        _delay(windows, "nginx"),
        _delay(windows, "proxy"),
    ]
    return [row for row in found if row is not None]


def _cpu(
    windows: Windows, scenario: str, per: str, variant: str, base: str, *, aim: float | None = None
) -> dict[str, Any] | None:
    """CPU time for each request or chunk, against another variant's."""
    both = _pairs(windows[scenario], variant, base)
    values = [(w["cpu_s"] / w[per]) / (b["cpu_s"] / b[per]) for w, b in both if w[per] and b[per] and b["cpu_s"] > 0]
    return _row(f"CPU per {per.removesuffix('s')}, {variant} / {base}", scenario, values, aim)


def _added(
    windows: Windows, scenario: str, field: str, base: str, *, aim: float | None = None
) -> dict[str, Any] | None:
    """Median time added on top of the direct way, against what another variant adds."""
    values = []
    for (mine, theirs), direct in zip(
        _pairs(windows[scenario], "router", base), windows[scenario]["direct"], strict=False
    ):
        floor = direct[field]["p50"]
        added, base_added = mine[field]["p50"] - floor, theirs[field]["p50"] - floor
        if added > 0 and base_added > 0:
            values.append(added / base_added)
    what = {"latency_us": "latency", "first_token_us": "first-token time"}[field]
    return _row(f"added {what} p50, router / {base}", scenario, values, aim)


def _delay(windows: Windows, base: str) -> dict[str, Any] | None:
    """Median time from engine to client of a paced chunk; as it is, for the direct way is no floor of it (README)."""
    both = _pairs(windows["paced"], "router", base)
    values = [w["chunk_delay_us"]["p50"] / b["chunk_delay_us"]["p50"] for w, b in both]
    return _row(f"chunk delay p50, router / {base}", "paced", values, None)


def _pairs(
    variants: dict[str, list[dict[str, Any]]], variant: str, base: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(variants.get(variant, []), variants.get(base, []), strict=False))


def _row(name: str, scenario: str, values: list[float], aim: float | None) -> dict[str, Any] | None:
    if not values:
        return None
    row = {"name": name, "scenario": scenario, **figure(values, "x")}
    if aim is not None:
        row |= {"aim": aim, "met": row["median"] <= aim}
    return row
