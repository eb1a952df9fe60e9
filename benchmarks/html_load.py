"""Sections of the HTML report on what load shows: overhead, streaming, scale, open loop, body size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smartrouter_asgi.bench.plots import Axis, Plot, Series, figure

from .html_drawn import Result, Row, by_variant, colour, distributions, found, is_wide, lines

FEWEST = 3
"""Percentiles from which a curve of them says something."""


def overhead(result: Result) -> Iterator[str]:
    """Draw what a request costs; an older file holds streaming too."""
    added = "Median minus that of the direct way in the same round; the line shows the lowest and highest round."
    yield by_variant(
        result, "Added latency, 1 connection, median", scenario="plain_1", metric="added_latency_p50", note=added
    )
    yield distributions(
        result,
        "Added latency, 1 connection, distribution",
        scenario="plain_1",
        metric="added_latency",
        note="Percentile by percentile minus that of the direct way.",
    )
    if not found(result, "quantiles"):
        yield _percentiles(result, "Latency, 1 connection", "plain_1", "latency")
    yield by_variant(result, "CPU time of a request, 32 connections", scenario="plain_32", metric="cpu")
    yield by_variant(result, "Requests a second, 32 connections", scenario="plain_32", metric="rate")
    yield from streaming(result)


def streaming(result: Result) -> Iterator[str]:
    """Draw what a stream costs."""
    yield distributions(
        result,
        "Time to first token, 1 connection",
        scenario="first_token",
        metric="first_token",
        note="From the request's last byte to the first chunk with content.",
    )
    yield by_variant(
        result, "Added time to first token, median", scenario="first_token", metric="added_first_token_p50"
    )
    yield distributions(
        result,
        "Jitter of a chunk, 20 ms pace",
        scenario="paced",
        metric="jitter",
        note="How far the gap between two chunks of a stream is from the pace of 20 ms.",
    )
    yield distributions(
        result, "Delay of a chunk, 20 ms pace", scenario="paced", metric="delay", note="From the engine to the client."
    )
    if not found(result, "quantiles"):
        yield _percentiles(result, "Time to first token, 1 connection", "first_token", "first_token")
        yield _percentiles(result, "Delay of a chunk, 20 ms pace", "paced", "delay")
    yield by_variant(result, "CPU time of a chunk, 20 ms pace", scenario="paced", metric="cpu")
    yield by_variant(result, "CPU time of a chunk, in a burst", scenario="burst", metric="cpu")


def scale(result: Result) -> Iterator[str]:
    """Draw what more connections and workers do."""
    connections = Axis(label="connections", log=True)
    common: dict[str, Any] = {"by": "variant", "over": "connections", "x": connections}
    plain = _with_many_connections(found(result, scenario="plain", workers=1))
    streams = found(result, scenario="first_token", workers=1)
    yield lines(_metric(plain, "rate"), "Throughput against concurrency, one worker", y="requests/s", **common)
    yield lines(_metric(plain, "latency_p50"), "Latency against concurrency, median", y="us", **common)
    yield lines(_metric(plain, "latency_p99"), "Latency against concurrency, p99", y="us", **common)
    yield lines(_metric(plain, "cpu"), "CPU time of a request against concurrency", y="us", **common)
    yield lines(
        _metric(streams, "first_token_p50"), "Time to first token against open streams, median", y="us", **common
    )
    yield lines(_metric(streams, "first_token_p99"), "Time to first token against open streams, p99", y="us", **common)
    yield _by_workers(result)


def open_loop(result: Result) -> Iterator[str]:
    """Draw latency at a rate that does not wait for answers."""
    for metric, title in (("latency_p50", "median"), ("latency_p99", "p99")):
        rows = [
            {"variant": point["variant"], "rate": point["rate"], **point[metric]}
            for point in result["points"]
            if not point["saturated"] and metric in point
        ]
        yield lines(
            rows,
            f"Latency at a rate asked for, {title}",
            by="variant",
            over="rate",
            x=Axis(label="requests/s asked for", log=True),
            y="us",
            note="From when a request was meant to be sent. A line ends where its variant no longer keeps up.",
        )
    done = [{"variant": p["variant"], "rate": p["rate"], **p["done"]} for p in result["points"] if "done" in p]
    yield lines(
        done,
        "Answered against asked for",
        by="variant",
        over="rate",
        x=Axis(label="requests/s asked for", log=True),
        y="requests/s answered",
    )


def body_size(result: Result) -> Iterator[str]:
    """Draw what large bodies cost."""
    size = Axis(label="bytes", log=True)
    for metric, title in (("cpu", "CPU time of a request"), ("latency_p50", "Latency, median")):
        rows = found(result, metric=metric)
        yield lines(rows, f"{title}, by size of its body", by="variant", over="body_bytes", x=size, y="us")


def _with_many_connections(rows: list[Row]) -> list[Row]:
    """Leave out variants that were asked over one number of connections only: a point is no line."""
    counts: dict[str, set[int]] = {}
    for row in rows:
        counts.setdefault(row["variant"], set()).add(row["connections"])
    return [row for row in rows if len(counts[row["variant"]]) > 1] or rows


def _by_workers(result: Result) -> str:
    """Draw what more workers give, for those variants that were run with more than one."""
    rates = found(result, scenario="plain", metric="rate")
    several = {row["variant"] for row in rates if row["workers"] > 1}
    rows = [
        {**row, "line": f"{row['variant']}, {row['connections']} connections"}
        for row in rates
        if row["variant"] in several
    ]
    return lines(
        rows,
        "Throughput by workers",
        by="line",
        over="workers",
        x=Axis(label="workers"),
        y="requests/s",
        note=str(result["method"].get("note", "")),
    )


def _metric(rows: list[Row], metric: str) -> list[Row]:
    return [row for row in rows if row["metric"] == metric]


def _percentiles(result: Result, title: str, scenario: str, metric: str) -> str:
    """Draw the few percentiles that an older file holds."""
    series = []
    for variant in dict.fromkeys(row["variant"] for row in found(result, scenario=scenario)):
        points = [
            (float(share), float(row["median"]))
            for share in (50, 95, 99)
            for row in found(result, scenario=scenario, variant=variant, metric=f"{metric}_p{share}")
        ]
        if len(points) >= FEWEST:
            series.append(Series(name=variant, points=points, colour=colour(variant)))
    log = is_wide(y for one in series for _, y in one.points)
    return figure(
        Plot(
            title=title,
            x=Axis(label="percentile"),
            y=Axis(label="us", log=log, zero=not log),
            series=series,
            x_ticks=(50, 95, 99),
        )
    )
