"""The short table for those who only want to know whether it is fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .figures import is_quick
from .tables import spread, table

AGAINST = {
    "nginx": "nginx as a reverse proxy",
    "hello": "uvicorn answering by itself",
    "openai_endpoint": "AsyncOpenAI in a Starlette endpoint",
    "litellm": "LiteLLM proxy",
}
COLUMNS = (
    ("CPU per request", "overhead", "cpu_plain_32_router_{}"),
    ("added latency, 1 connection", "overhead", "added_plain_1_router_{}"),
    ("added time to first token", "streaming", "added_first_token_router_{}"),
    ("CPU per chunk, 20 ms apart", "streaming", "cpu_paced_router_{}"),
)
NOT_MEASURED = "Not measured yet: `make bench-peers`, then `make bench-report`."
USED = ("overhead", "streaming", "memory", "startup")
_ROUTER = {"variant": "router"}
_BUSY, _ALONE = {**_ROUTER, "scenario": "plain_32"}, {**_ROUTER, "scenario": "plain_1"}
OWN: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("CPU per request over 32 connections", "overhead", {**_BUSY, "metric": "cpu"}, "us"),
    ("requests/s on one core", "overhead", {**_BUSY, "metric": "rate"}, ""),
    ("latency added at one connection", "overhead", {**_ALONE, "metric": "added_latency_p50"}, "us"),
    ("memory, idle", "memory", {**_ROUTER, "metric": "idle"}, "MB"),
    ("memory per open stream", "memory", {**_ROUTER, "metric": "per_stream"}, "KB"),
    ("from command to first answer", "startup", {"what": "first_answer_serve"}, "ms"),
)


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ratios that matter, what they were measured on, and when."""
    results = {name: results[name] for name in USED if name in results and not is_quick(results[name])}
    if "overhead" not in results:
        return NOT_MEASURED
    ratios = {row["id"]: row for name in ("overhead", "streaming") for row in results.get(name, {}).get("ratios", ())}
    rows = []
    for base, text in AGAINST.items():
        cells = [ratios.get(name.format(base)) for _, _, name in COLUMNS]
        if any(cells):
            rows.append([text, *["-" if cell is None else f"{spread(cell)} x" for cell in cells]])
    head = ("the router costs, against", *[title for title, _, _ in COLUMNS])
    return "\n\n".join(
        [
            table(head, rows),
            "; ".join(_own(results)) + ".",
            f"{_measured(results)}; one worker each. Medians of {results['overhead']['method']['rounds']} round(s) "
            "(lowest to highest), ratios made inside each round.",
        ]
    )


def _measured(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Say when and on what; of more than one run which of the figures are whose."""
    runs: dict[str, list[str]] = {}
    for name, found in results.items():
        machine, versions = found["machine"], found["versions"]
        text = (
            f"{found['measured_at'][:10]}, commit {found['commit']}, {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['implementation']} {versions['python']}, uvicorn {versions['uvicorn']}"
        )
        runs.setdefault(text, []).append(name)
    peers = results["overhead"]["versions"]
    named = "".join(f", {name} {peers[name]}" for name in ("nginx", "litellm") if name in peers)
    if len(runs) == 1:
        return f"{next(iter(runs))}{named}"
    return "; ".join(
        f"{', '.join(names)}: {text}{named if 'overhead' in names else ''}" for text, names in runs.items()
    )


def _own(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{title}: {spread(row)} {unit}".strip()
        for title, name, labels, unit in OWN
        for row in results.get(name, {}).get("figures", ())
        if labels.items() <= row.items()
    ]
