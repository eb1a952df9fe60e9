"""Faults over real sockets: an open breaker, a storm, clients that leave, slow first tokens; see `resilience`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .answers import ENGINE_MODEL, MODEL
from .figures import figure, quantiles
from .leaving import delays_ms
from .processes import Child, cores, first_answer, module

RATIO, RESERVE = 0.2, 10
"""The retry budget that is the default."""
FIRST_TOKEN_S = 0.06
HEDGES: dict[str, dict[str, Any]] = {
    "off": {},
    "on, as it is by default": {"hedge": {"enabled": True}},
    "on, quantile 0.75, budget reserve 1000": {
        "hedge": {"enabled": True, "quantile": 0.75},
        "retry": {"budget": {"reserve": 1000}},
    },
}
"""The `resilience` settings of each way to hedge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything is measured."""

    rounds: int
    operation_s: float
    window_s: float
    storm_s: float
    storm_clients: int
    streams: int
    hedging_s: float
    slow_shares: tuple[float, ...]
    hedges: tuple[str, ...]


FULL = Size(
    rounds=3,
    operation_s=0.06,
    window_s=1.5,
    storm_s=30.0,
    storm_clients=100,
    streams=200,
    hedging_s=6.0,
    slow_shares=(0.2, 0.03),
    hedges=tuple(HEDGES),
)
QUICK = Size(
    rounds=1,
    operation_s=0.002,
    window_s=0.2,
    storm_s=1.0,
    storm_clients=100,
    streams=10,
    hedging_s=0.7,
    slow_shares=(0.2,),
    hedges=tuple(HEDGES)[:2],
)


@contextlib.contextmanager
def router(*engines: Child, **resilience: Any) -> Iterator[Child]:
    """Run a router over these engines, in this order, with `resilience` settings."""
    names = [f"engine{number}" for number, _ in enumerate(engines, 1)]
    settings = {
        "backends": {
            name: {"type": "openai", "url": f"http://127.0.0.1:{engine.port}/v1"}
            for name, engine in zip(names, engines, strict=True)
        },
        "models": [
            {
                "name": MODEL,
                "deployments": [
                    {"backend": name, "model": ENGINE_MODEL, "order": order} for order, name in enumerate(names, 1)
                ],
            }
        ],
        "discovery": {"enabled": False},
        "resilience": resilience,
    }
    with module("serve", "configured", json.dumps(settings), core=cores()[0]) as child:
        first_answer(child.port)
        yield child


def ask(engine: Child, **faults: Any) -> int:
    """Set an engine's faults and return how often it has been called so far."""
    engine.tell(faults)
    return int(str(engine.hear(10)["calls"]))


def run_window(load: Child, child: Child, engine: Child, seconds: float, **job: Any) -> dict[str, Any]:
    """Have one window of load made. Raises `RuntimeError` when an answer was wrong."""
    load.tell(
        {"port": child.port, "pid": child.pid, "engine_pid": engine.pid, "seconds": seconds, "warmup_s": 0.1, **job}
    )
    found = load.hear(seconds + 40)
    if found["errors"]:
        raise RuntimeError(f"a wrong answer: {found['errors']}")
    return found


def measure_refusals(load: Child, good: Child, bad: Child, size: Size) -> list[dict[str, Any]]:
    """Measure the answers of a router whose breaker is open beside those of one whose engine is well.

    Raises `RuntimeError` when the engine behind the open breaker is asked meanwhile.
    """
    windows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with router(good) as well, router(bad, circuit_breaker={"reset_timeout": "1h"}) as broken:
        ask(bad, refuse=True)
        run_window(load, broken, bad, 0.2, connections=8, status=503)  # this opens it
        for _ in range(size.rounds):
            for connections in (1, 32):
                found = run_window(load, well, good, size.window_s, connections=connections)
                windows.setdefault(("engine well", connections), []).append(found)
                before = ask(bad)
                job = {"connections": connections, "status": 503, "holding": '"breaker_open"'}
                found = run_window(load, broken, bad, size.window_s, **job)
                found["calls"] = ask(bad) - before
                if found["calls"]:
                    raise RuntimeError(f"an engine behind an open breaker was asked {found['calls']} times")
                windows.setdefault(("breaker open", connections), []).append(found)
    ask(bad, refuse=False)
    return [_answers(*key, found) for key, found in windows.items()]


def _answers(state: str, connections: int, windows: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"state": state, "connections": connections}
    for p in (50, 95):
        row[f"latency_p{p}"] = figure([w["latency_us"][p] for w in windows], "us")
    row["rate"] = figure([w["requests"] / w["seconds"] for w in windows], "requests/s")
    row["cpu"] = figure([w["cpu_s"] * 1e6 / w["requests"] for w in windows], "us/request")
    if state == "breaker open":
        row["upstream_calls"] = sum(w["calls"] for w in windows)
    return row


def measure_storm(load: Child, engine: Child, size: Size) -> list[dict[str, Any]]:
    """Let clients that never pause ask for what always fails; compare what reaches the engine with the budget."""
    rows = []
    for enabled in (False, True):
        with router(engine, circuit_breaker={"enabled": enabled}) as child:
            before = ask(engine, refuse=True)
            job = {"connections": size.storm_clients, "status": 503, "warmup_s": 0.0}
            found = run_window(load, child, engine, size.storm_s, **job)
            time.sleep(0.3)  # what is under way when the clients leave may still come to the engine
            made = ask(engine, refuse=False) - before
        requests = found["sent"]
        bound = round((1 + RATIO) * requests + RESERVE)
        rows.append(
            {
                "breaker": "on" if enabled else "off",
                "seconds": size.storm_s,
                "clients": size.storm_clients,
                "requests": requests,
                "upstream_calls": made,
                "bound": bound,
                "calls_per_request": float(f"{made / requests:.4g}"),
                "holds": made <= bound,
                "latency_p50": figure([found["latency_us"][50]], "us"),
            }
        )
    return rows


def measure_leaving(engine: Child, size: Size) -> list[dict[str, Any]]:
    """Measure how long the engine goes on after a client has left."""
    found: dict[str, list[list[float]]] = {"mid-stream": [], "before the first token": []}
    with router(engine) as child:
        for _ in range(size.rounds):
            for when, rounds in found.items():
                rounds.append(delays_ms(child, engine, size.streams, first_token=when == "mid-stream"))
    ask(engine, silent=False)
    rows = []
    for when, rounds in found.items():
        at = [quantiles(round(delay * 1000) for delay in delays) for delays in rounds]  # it divides by 1000
        row: dict[str, Any] = {"when": when, "streams": sum(map(len, rounds))}
        row |= {f"p{p}": figure([one[p] for one in at if one], "ms") for p in (50, 95)}
        rows.append({**row, "max": figure([max(delays) for delays in rounds], "ms")})
    return rows


def measure_hedging(load: Child, first: Child, second: Child, size: Size) -> list[dict[str, Any]]:
    """Measure first tokens while some of the first engine's take ten times as long, with and without hedges."""
    windows: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for _ in range(size.rounds):
        for share in size.slow_shares:
            for hedge in size.hedges:
                ask(first, first_token_s=0.0)
                with router(first, second, **HEDGES[hedge]) as child:
                    ask(second, first_token_s=FIRST_TOKEN_S)
                    before = ask(first, first_token_s=FIRST_TOKEN_S, slow_share=share) + ask(second)
                    job = {"connections": 16, "chunks": 4, "warmup_s": min(1.0, size.hedging_s / 2)}
                    found = run_window(load, child, first, size.hedging_s, **job)
                    found["calls"] = ask(first) + ask(second) - before
                windows.setdefault((share, hedge), []).append(found)
    return [_first_tokens(*key, found) for key, found in windows.items()]


def _first_tokens(share: float, hedge: str, windows: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"slow_share": share, "hedge": hedge}
    row["streams"] = sum(w["requests"] for w in windows)
    for p in (50, 95, 99):
        row[f"p{p}"] = figure([w["first_token_us"][p] / 1000 for w in windows], "ms")
    row["extra_calls"] = figure([(w["calls"] / w["sent"] - 1) * 100 for w in windows], "%")
    return row
