"""What does the gate save? `python -m benchmarks.ollama_gate [--quick] [--rounds N] [--out FOLDER]`.

The same requests, for models of which only one fits into memory, go to a simulated Ollama over real sockets: straight
to it, and through the router with its gate. See README.md for the method. The run fails when a request is not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends import ollama as adapter
from smartrouter_asgi.backends.ollama import UNLOAD_SETTLE_S, OllamaBackend
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama
from smartrouter_asgi.vram.policy import GatePolicy

from . import gate_report
from .figures import RESULTS, assemble, commit, figure, save

LOAD_S = 6.0
"""What 14 GiB take from a good disk; with the unload before it a swap takes about eight seconds."""
ANSWER_TOKENS = 50
TOKENS_PER_S = 50.0
PARALLEL = 4
GAP_S = 1.0
"""Mean time between two requests."""
POLL_S = adapter.UNLOAD_POLL_S
RUN_LIMIT_S = 60.0

WAYS = ("straight to Ollama", "through the gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many requests, how often, and how long an engine's second takes."""

    requests: int
    rounds: int
    time_scale: float


FULL = Size(requests=100, rounds=1, time_scale=0.04)
QUICK = Size(requests=12, rounds=1, time_scale=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: when it comes, in engine seconds, and for which model."""

    at: float
    model: str


def arrivals(models: int, size: Size, seed: int) -> list[Request]:
    """Return the requests: each for another model than the one before, in turn, by a Poisson process."""
    rng, at, made = random.Random(seed), 0.0, []
    for number in range(size.requests):
        at += rng.expovariate(1 / GAP_S)
        made.append(Request(at=at, model=f"model-{number % models}"))
    return made


@asynccontextmanager
async def engine(models: int, time_scale: float) -> AsyncIterator[SimulatedOllama]:
    """An Ollama with one card of 24 GiB and models of 14."""
    library = [
        SimulatedModel(
            f"model-{number}",
            14 * GIB,
            kv_bytes=0,
            overhead_bytes=0,
            load_s=LOAD_S,
            tokens_per_s=TOKENS_PER_S,
            answer_tokens=ANSWER_TOKENS,
        )
        for number in range(models)
    ]
    made = SimulatedOllama(library, gpu_bytes=24 * GIB, num_parallel=PARALLEL, max_queue=100_000, time_scale=time_scale)
    async with made as running:
        yield running


@asynccontextmanager
async def router_over(url: str, time_scale: float) -> AsyncIterator[str]:
    """A router with the gate's defaults, its clocks as fast as the engine's; nobody is sent away for waiting long."""
    policy = GatePolicy()
    router = SmartRouter(
        Settings.model_validate(
            {
                "backends": {"local": {"type": "ollama", "url": url, "gated": True}},
                "vram": {
                    "max_total": "22GiB",
                    "footprints": False,
                    "fair_after": policy.fair_after_s * time_scale,
                    "monitor_interval": policy.reconcile_ttl_s * time_scale,
                    "max_wait": RUN_LIMIT_S,
                    "max_queue": 100_000,
                },
                "resilience": {"timeouts": {"first_token": RUN_LIMIT_S, "first_token_cold": RUN_LIMIT_S}},
            }
        )
    )
    backend = router.backends["local"]
    assert isinstance(backend, OllamaBackend)
    backend.unload_settle_s = UNLOAD_SETTLE_S * time_scale
    adapter.UNLOAD_POLL_S = POLL_S * time_scale
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(router, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # they are this process's own
    serving = asyncio.create_task(server._serve([listener]))
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def ask(client: httpx.AsyncClient, url: str, model: str) -> float:
    """Stream an answer to its end and return the seconds to its first token. Raises unless it is a whole answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "go"}], "stream": True}
    began, first_s, last = time.monotonic(), 0.0, ""
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            first_s = first_s or time.monotonic() - began
            last = line or last
    if last != "data: [DONE]" and '"done":true' not in last:
        raise RuntimeError(f"an answer ended with {last[:200]!r}")
    return first_s


async def run(url: str, requests: list[Request], time_scale: float) -> dict[str, float]:
    """Make the requests when they are due and return what their clients saw, in engine seconds."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=RUN_LIMIT_S, limits=limits) as client, asyncio.timeout(RUN_LIMIT_S):
        began = time.monotonic()

        async def one(request: Request) -> float:
            await asyncio.sleep(max(0.0, began + request.at * time_scale - time.monotonic()))
            return await ask(client, url, request.model) / time_scale

        waits = sorted(await asyncio.gather(*(one(request) for request in requests)))
        wall_s = (time.monotonic() - began) / time_scale
    return {
        "wait_mean": statistics.mean(waits),
        "wait_p95": waits[round(0.95 * (len(waits) - 1))],
        "wait_max": waits[-1],
        "wall": wall_s,
    }


async def measure_way(way: str, models: int, size: Size, seed: int) -> dict[str, float]:
    """Run the requests one way against an engine that has nothing in memory."""
    requests = arrivals(models, size, seed)
    async with engine(models, size.time_scale) as ollama:
        if way == WAYS[0]:
            seen = await run(f"{ollama.base_url}/api/chat", requests, size.time_scale)
        else:
            async with router_over(ollama.base_url, size.time_scale) as url:
                seen = await run(f"{url}/v1/chat/completions", requests, size.time_scale)
        return {"loads": ollama.stats.loads, **seen}


async def measure(size: Size) -> list[dict[str, Any]]:
    """Measure both ways, with two and with three models."""
    rows = []
    for models in (2, 3):
        for way in WAYS:
            found = [await measure_way(way, models, size, seed) for seed in range(size.rounds)]
            columns = {name: [one[name] for one in found] for name in found[0]}
            figures = {
                name: figure(values, "loads" if name == "loads" else "engine s") for name, values in columns.items()
            }
            rows.append({"models": models, "way": way, "requests": size.requests, **figures})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="what the gate saves")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="with how many seeds (1 to 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    rounds = min(max(arguments.rounds, 1), 5) if arguments.rounds else size.rounds
    size = Size(requests=size.requests, rounds=rounds, time_scale=size.time_scale)
    revision = commit()
    try:
        rows = asyncio.run(measure(size))
    except (RuntimeError, TimeoutError, httpx.HTTPError) as exc:
        sys.exit(f"a request was not answered: {type(exc).__name__} {exc}")
    method = {
        "rounds": size.rounds,
        "quick": arguments.quick,
        "time_scale": size.time_scale,
        "gap_s": GAP_S,
        "load_s": LOAD_S,
        "answer_s": ANSWER_TOKENS / TOKENS_PER_S,
        "parallel": PARALLEL,
    }
    result = assemble("ollama_gate", revision, method, {}, runs=rows)
    save(result, arguments.out)
    print(gate_report.ollama_gate(result))


if __name__ == "__main__":
    main()
