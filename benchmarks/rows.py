"""Rows of figures and quantiles made of the windows of one variant under one kind of load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .figures import figure, median_quantiles
from .windows import Window

SERIES = ("latency", "first_token", "delay", "jitter")
ADDED = ("latency", "first_token")
"""Of these the direct way is the floor; a chunk's delay has none (README, Method)."""


def figure_rows(
    labels: Mapping[str, Any],
    windows: Sequence[Window],
    *,
    per: str = "requests",
    series: Sequence[str],
    floor: Sequence[Window] = (),
) -> Iterator[dict[str, Any]]:
    """Turn windows into figures; `floor` are the windows of the direct way, of the same rounds."""
    unit = per.removesuffix("s")
    samples = sum(w[per] for w in windows)
    cpu = [w["cpu_s"] * 1e6 / max(1, w[per]) for w in windows]
    yield {**labels, "metric": "cpu", **figure(cpu, f"us/{unit}", samples=samples)}
    yield {**labels, "metric": "rate", **figure([w[per] / w["seconds"] for w in windows], f"{unit}s/s")}
    yield {**labels, "metric": "busy", **figure([w["cpu_s"] / w["seconds"] for w in windows], "cores")}
    rig = [(w["engine_cpu_s"] + w["load_cpu_s"]) / w["seconds"] for w in windows]
    yield {**labels, "metric": "rig_busy", **figure(rig, "cores")}
    for name in series:
        if not all(w[f"{name}_us"] for w in windows):
            continue
        for p in (50, 95, 99):
            yield {**labels, "metric": f"{name}_p{p}", **figure([w[f"{name}_us"][p] for w in windows], "us")}
        if floor and name in ADDED:
            added = [w[f"{name}_us"][50] - f[f"{name}_us"][50] for w, f in zip(windows, floor, strict=False)]
            yield {**labels, "metric": f"added_{name}_p50", **figure(added, "us")}


def quantile_rows(
    labels: Mapping[str, Any], windows: Sequence[Window], *, series: Sequence[str], floor: Sequence[Window] = ()
) -> Iterator[dict[str, Any]]:
    """Turn windows into distributions: the percentiles from 0 to 100."""
    for name in series:
        field = f"{name}_us"
        if not all(w[field] for w in windows):
            continue
        yield {**labels, "metric": name, "unit": "us", "values": median_quantiles([w[field] for w in windows])}
        if floor and name in ADDED:
            added = [
                [mine - least for mine, least in zip(w[field], f[field], strict=True)]
                for w, f in zip(windows, floor, strict=False)
            ]
            yield {**labels, "metric": f"added_{name}", "unit": "us", "values": median_quantiles(added)}
