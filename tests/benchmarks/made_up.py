"""Made-up results of the benchmarks in the shapes that benchmarks/README.md promises."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from smartrouter_asgi.types import JSONObject

COSTS = {
    "direct": 12,
    "nginx": 160,
    "hello": 110,
    "proxy": 700,
    "openai_endpoint": 2400,
    "litellm": 10_500,
    "router": 230,
    "router_direct": 228,
    "router_httpx": 1_900,
    "router_log": 260,
}
"""Made-up microseconds of each variant."""


def figure(value: float, unit: str, random: Random) -> JSONObject:
    low, high = sorted((value * random.uniform(0.9, 1), value * random.uniform(1, 1.15)))
    return {"unit": unit, "median": value, "low": low, "high": high, "n": 5}


def results() -> dict[str, JSONObject]:
    """One result for each file."""
    random = Random(1)

    def result(name: str, **content: Any) -> JSONObject:
        return {
            "name": name,
            "measured_at": "2026-11-24T12:00:00+00:00",
            "commit": "0123456789ab",
            "machine": {"cpu": "A CPU", "cores": 2, "kernel": "Linux 6.1", "implementation": "CPython"},
            "versions": {"python": "3.11.7", "smartrouter-asgi": "0.1.0", "uvicorn": "0.54.0", "nginx": "1.22.1"},
            "method": {
                "rounds": 5,
                "quick": False,
                "pinned": True,
                "variants": {name: f"what {name} is" for name in COSTS},
                "skipped": {},
                "left_out": {"litellm, connections 1000": "no valid window"},
            },
            "voided": {"windows": 1, "of": 80, "reasons": ["litellm: status 500"]},
            "noise": figure(0.4, "cores", random),
            **content,
        }

    def times(cost: float) -> list[float]:
        return [cost * math.exp(0.25 * random.gauss(0, 1) ** 2) for _ in range(400)]

    def quantiles(cost: float) -> list[float]:
        ordered = sorted(times(cost))
        return [ordered[round(share * 399 / 100)] for share in range(101)]

    def rows(scenario: str, *metrics: tuple[str, float, str]) -> list[JSONObject]:
        return [
            {"scenario": scenario, "variant": name, "metric": metric, **figure(cost * factor, unit, random)}
            for name, cost in COSTS.items()
            for metric, factor, unit in metrics
            if name != "direct" or not metric.startswith("added")
        ]

    def curves(scenario: str, *metrics: str) -> list[JSONObject]:
        return [
            {"scenario": scenario, "variant": name, "metric": metric, "unit": "us", "values": quantiles(cost)}
            for name, cost in COSTS.items()
            for metric in metrics
        ]

    connections = (1, 4, 16, 64, 256, 1000)
    scale = [
        {"scenario": scenario, "variant": name, "workers": workers, "connections": count, "metric": metric, **row}
        for scenario, latency in (("plain", "latency"), ("first_token", "first_token"))
        for name, cost in COSTS.items()
        for workers in ((1, 2, 4) if name == "router" else (1,))
        for count in connections
        for metric, row in (
            ("rate", figure(workers * 1e6 / cost * count / (count + 3), "requests/s", random)),
            ("cpu", figure(cost * 0.8, "us/request", random)),
            (f"{latency}_p50", figure(cost * (1 + count / 3), "us", random)),
            (f"{latency}_p99", figure(cost * (2 + count), "us", random)),
        )
    ]
    points = [
        {
            "variant": name,
            "rate": rate,
            "saturated": rate > 8e5 / cost,
            "unfinished": 0,
            "done": figure(min(rate, 8e5 / cost), "requests/s", random),
            **{f"latency_p{p}": figure(cost * (1 + p / 50), "us", random) for p in (50, 95, 99)},
        }
        for name, cost in COSTS.items()
        for rate in (50, 200, 500, 1000, 2000, 4000)
    ]
    layer_names = ("null app", "error envelope", "request id", "resolution", "resilience", "gate", "dispatch")
    layers = [
        {"name": name, "minus": None if place == 0 else "null app", **figure(3 + 2 * place, "us", random)}
        for place, name in enumerate(layer_names)
    ]
    depth = [
        {"kind": kind, "layers": count, **figure(4 + count * cost, "us", random)}
        for kind, cost in (("pass-through", 0.4), ("wrapping send", 1.1), ("BaseHTTPMiddleware", 160.0))
        for count in (0, 1, 2, 4, 8)
    ]
    stack = [
        {"name": name, "on": [], "off": [name], **figure(60, "us", random), "saved": figure(3 + i, "us", random)}
        for i, name in enumerate(layer_names[1:])
    ]
    series = [
        {
            "variant": name,
            "kind": kind,
            "points": [{"count": n * 2000, "seconds": n, "rss_mb": base + 2 * math.log1p(n)} for n in range(60)],
            "rise_kb_per_thousand": 0.4,
        }
        for kind in ("requests", "disconnects")
        for name, base in (("hello", 33), ("router", 62), ("litellm", 340))
    ]
    aims = [
        {"id": "a", "name": "CPU per request, 32 connections, router / hello", "verdict": "met", **_aim(2.5, 3)},
        {"id": "b", "name": "added latency p50, router / nginx", "verdict": "at worst met", **_aim(1.25, 1.4)},
        {"id": "c", "name": "requests/s, router / hello", "verdict": "not met", **_aim(0.7, None), "way": ">="},
        {"id": "d", "name": "memory, idle", "result": "memory", "way": "<=", "aim": 70, "worst": None},
    ]
    aims[3]["verdict"] = "not measured"
    operation = [{"name": f"operation {n}", **figure(0.3 + n, "us", random)} for n in range(6)]
    plain = ("latency_p50", 1.0, "us"), ("added_latency_p50", 1.0, "us"), ("cpu", 0.8, "us/request"), ("rate", 9, "1/s")
    return {
        "overhead": result(
            "overhead",
            figures=[*rows("plain_1", *plain), *rows("plain_32", *plain)],
            quantiles=curves("plain_1", "latency", "added_latency"),
            ratios=[],
        ),
        "streaming": result(
            "streaming",
            figures=[
                *rows("first_token", ("added_first_token_p50", 1, "us")),
                *rows("burst", ("cpu", 0.01, "us/chunk")),
                *rows("paced", ("cpu", 0.1, "us/chunk")),
            ],
            quantiles=[*curves("first_token", "first_token"), *curves("paced", "delay", "jitter")],
            ratios=[],
        ),
        "scale": result("scale", figures=scale, quantiles=[]),
        "open_loop": result("open_loop", points=points, quantiles=[]),
        "layers": result("layers", layers=layers, operations=operation, depth=depth, stack=stack),
        "gate_operations": result("gate_operations", operations=operation),
        "memory": result(
            "memory",
            figures=[
                {"variant": name, "metric": metric, **figure(value, unit, random)}
                for name, value in (("hello", 33.0), ("router", 62.0), ("litellm", 340.0))
                for metric, unit in (("idle", "MB"), ("per_stream", "KB"))
            ],
            series=series,
        ),
        "startup": result(
            "startup",
            figures=[
                {"what": what, **figure(value, "ms", random)}
                for what, value in (
                    ("python", 20.0),
                    ("first_answer_router", 500.0),
                    ("first_answer_litellm", 14_000.0),
                )
            ],
        ),
        "body_size": result(
            "body_size",
            figures=[
                {"variant": name, "body_bytes": size, "metric": metric, **figure(cost + size / 500, "us", random)}
                for name, cost in COSTS.items()
                for size in (1000, 10_000, 100_000, 1_000_000)
                for metric in ("cpu", "latency_p50")
            ],
        ),
        "aims": {"name": "aims", "measured_at": "2026-11-24T12:00:00+00:00", "aims": aims},
    }


def _aim(aim: float, worst: float | None) -> JSONObject:
    return {
        "result": "overhead",
        "way": "<=",
        "aim": aim,
        "worst": worst,
        "unit": "x",
        "median": 2.1,
        "low": 1.9,
        "high": 2.4,
        "n": 5,
    }
