"""The tables of `resilience`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import measured_on, number, spread, table


def resilience(result: Mapping[str, Any]) -> str:
    """Return the tables of `resilience`."""
    aims = [
        [f"{row['name']}, {row['unit']}", spread(row), f"<= {row['aim']:,}: {'met' if row['met'] else 'not met'}"]
        for row in result["aims"]
    ]
    return "\n\n".join(
        [
            measured_on(result),
            table(("figure", "measured", "aim"), aims),
            "An open breaker answers:",
            _refusals(result),
            "A storm of clients that never pause, against an engine that answers 503:",
            _storm(result),
            "From a client's close to the close of the engine's connection:",
            _leaving(result),
            f"First tokens, {result['method']['first_token_ms']:g} ms as a rule and ten times that for the slow share:",
            _hedging(result),
            "In process, CPU time:",
            table(
                ("operation", "us", "without the cost of"),
                [[row["name"], spread(row), row["minus"] or ""] for row in result["operations"]],
            ),
        ]
    )


def _refusals(result: Mapping[str, Any]) -> str:
    rows = [
        [
            row["state"],
            str(row["connections"]),
            *[spread(row[name]) for name in ("latency_p50", "latency_p95", "rate", "cpu")],
            str(row.get("upstream_calls", "one each")),
        ]
        for row in result["refusals"]
    ]
    return table(("state", "connections", "p50 us", "p95 us", "answers/s", "CPU us/answer", "upstream calls"), rows)


def _storm(result: Mapping[str, Any]) -> str:
    rows = [
        [
            row["breaker"],
            f"{row['clients']} for {row['seconds']:g} s",
            f"{row['requests']:,}",
            f"{row['upstream_calls']:,}",
            f"{row['bound']:,}, {'holds' if row['holds'] else 'BROKEN'}",
            f"{row['calls_per_request']:.4g}",
            number(row["latency_p50"]["median"] / 1000),
        ]
        for row in result["storm"]
    ]
    budget = result["method"]["budget"]
    bound = f"bound: {1 + budget['ratio']:g} x requests + {budget['reserve']}"
    return table(("breaker", "clients", "requests", "upstream calls", bound, "calls/request", "p50 ms"), rows)


def _leaving(result: Mapping[str, Any]) -> str:
    rows = [
        [row["when"], str(row["streams"]), *[spread(row[name]) for name in ("p50", "p95", "max")]]
        for row in result["leaving"]
    ]
    return table(("client leaves", "streams", "p50 ms", "p95 ms", "longest ms"), rows)


def _hedging(result: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['slow_share']:.0%}",
            row["hedge"],
            str(row["streams"]),
            *[spread(row[name]) for name in ("p50", "p95", "p99", "extra_calls")],
        ]
        for row in result["hedging"]
    ]
    return table(("slow", "hedges", "streams", "p50 ms", "p95 ms", "p99 ms", "extra upstream calls %"), rows)
