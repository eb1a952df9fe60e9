"""How figures and verdicts are said: the same words on the terminal and in the report; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]

DIFFERENCES = (
    ("ttft_p50_ms", "time to first token, median"),
    ("ttft_p95_ms", "time to first token, p95"),
    ("gap_mean_ms", "between tokens, mean of a stream"),
    ("total_p50_ms", "whole answer, median"),
)


def number(value: float) -> str:
    """Write a number with no more digits than it deserves."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size else "0"


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return ("+" if value > 0 else "") + number(value)


def interval(found: Mapping[str, Any]) -> str:
    """Write a difference with its interval, in milliseconds."""
    if found["low"] is None:
        return f"{signed(found['value'])} ms"
    return f"{signed(found['value'])} ms ({signed(found['low'])} to {signed(found['high'])})"


def verdict(found: Mapping[str, Any]) -> str:
    """Say what may be said of a difference."""
    match found["verdict"]:
        case "more":
            return "routed takes longer"
        case "less":
            return "routed takes less time"
        case "noise":
            return "within noise: the interval holds zero"
        case _:
            return f"too few rounds to say ({found['rounds']}; it takes {found['needs']})"


def headline(result: Result) -> str:
    """Say the outcome in one sentence."""
    added = result["added"]
    if added is None:
        return "No pair of requests succeeded on both sides: nothing can be compared."
    first = added["ttft_p50_ms"]
    pairs = _counted(first["pairs"], "pair")
    if first["rounds"] != first["pairs"]:
        pairs += f" in {_counted(first['rounds'], 'round')}"
    if first["low"] is None:
        return (
            f"{pairs}: too few to tell a difference from noise. "
            f"The time to first token differed by {signed(first['value'])} ms."
        )
    shown = f"95 % interval {signed(first['low'])} to {signed(first['high'])} ms, {pairs}"
    if first["verdict"] == "noise":
        return f"No added time to the first token was shown: {signed(first['value'])} ms is within noise ({shown})."
    change = number(abs(first["value"]))
    if first["verdict"] == "more":
        return f"The router adds {change} ms to the time to first token ({shown})."
    return f"The router takes {change} ms off the time to first token ({shown})."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def method(result: Result) -> list[str]:
    """Say how it was measured, in sentences."""
    plan, router = result["plan"], result["router"]
    together = ", each side with all its connections at once" if plan["concurrency"] > 1 else ""
    one = "a round, whose requests share their luck, counts once" if plan["concurrency"] > 1 else "each counts once"
    before = f"{_counted(plan['warmup'], 'round')} before {'was' if plan['warmup'] == 1 else 'were'} not counted"
    usage = "the engine's own count" if result["tokens_from"] == "usage" else "events: the engine tells no usage"
    told = [
        f"{_counted(plan['requests'], 'streamed request')} each way, {plan['concurrency']} at a time, in pairs: direct "
        f"and routed one right after the other, in random order{together}; {before}.",
        "Every prompt begins with a word of its own, so that the engine's prompt cache favours neither side.",
        "The clock runs from a request's last byte to the first event with content; connections are made before. "
        "Events that came in one read count as no time apart.",
        f"Differences are taken inside the pairs; in brackets, intervals of 95 % confidence, for which {one}.",
        f"Tokens are {usage}.",
    ]
    if router["own"]:
        told.append(
            "The router was `smartrouter-asgi serve` in a process of its own on this machine, with defaults and this "
            f"one backend, transport {router['transport']}; the gate on GPU memory is not in it: one model has nothing "
            "to wait for."
        )
    else:
        told.append("The router was one that ran already, with whatever settings and other work it had.")
    if result["engine"]["type"] == "ollama":
        told.append(
            "Direct is Ollama's native API, which the router speaks to it too: the engine does the same work either "
            "way, and translating to OpenAI's API and back is in the difference."
        )
    return told


def rows(result: Result) -> list[tuple[str, str, str]]:
    """Return the figures of both sides: what, direct, routed."""
    direct, routed = result["sides"]["direct"], result["sides"]["routed"]

    def cell(side: Mapping[str, Any], metric: str, name: str) -> str:
        found = side.get(metric)
        return "-" if not found else number(found[name]) if name else number(found)

    wanted = [
        ("first token p50, ms", "ttft_ms", "p50"),
        ("first token p95, ms", "ttft_ms", "p95"),
        ("between tokens p50, ms", "gap_ms", "p50"),
        ("between tokens p95, ms", "gap_ms", "p95"),
        ("between tokens p99, ms", "gap_ms", "p99"),
        ("whole answer p50, ms", "total_ms", "p50"),
        ("tokens/s in a stream, median", "stream_tokens_per_s", ""),
        (f"tokens/s, {result['plan']['concurrency']} at a time", "tokens_per_s", ""),
    ]
    found = [(title, cell(direct, metric, name), cell(routed, metric, name)) for title, metric, name in wanted]
    counts = [f"{side['requests'] - side['failed']} of {side['requests']}" for side in (direct, routed)]
    return [*found, ("requests that succeeded", counts[0], counts[1])]
