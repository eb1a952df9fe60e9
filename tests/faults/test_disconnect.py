"""A client that leaves frees everything at once: the upstream connection, the queue slot, the permit."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter

import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from ..harness.engines import ROLE, chunk, good
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, in_line, router_over
from ..harness.servers import Exchange, RawServer, serve
from ..harness.sockets import connected, raw_request
from ..harness.waiting import until

AIM_S = 0.1
BOUND_S = 5 * AIM_S


class Endless:
    """An engine that works until its connection closes, and says how long that took after the client left."""

    def __init__(self, *, talks: bool) -> None:
        self.talks = talks
        self.closed_at: float | None = None
        self.closed = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if self.talks:
            await exchange.start_stream()
            await exchange.chunk(ROLE)
            await exchange.chunk(chunk("Hel"))
        await exchange.gone()
        self.closed_at = time.monotonic()
        self.closed.set()


@pytest.mark.parametrize(
    ("stream", "talks"), [(True, True), (True, False), (False, False)], ids=["mid-stream", "before-headers", "plain"]
)
async def test_row_43_the_upstream_connection_closes_when_the_client_leaves(stream: bool, talks: bool):
    """Streamed or not, answering or not: within 100 ms (bound: five times that)."""
    script = Endless(talks=talks)
    async with RawServer(script) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url:
            async with raw_request(url, chat(stream=stream)) as (reader, _):
                await engine.seen(1)
                if talks:
                    await reader.readuntil(b"Hel")
                left_at = time.monotonic()
            await asyncio.wait_for(script.closed.wait(), BOUND_S)
            assert script.closed_at is not None
            assert script.closed_at - left_at < BOUND_S
            await until(lambda: not router._tracker.inflight, within_s=BOUND_S)
            engine.script = good
            # The breaker took no notice, and the next request is served.
            async with raw_request(url, chat()) as (reader, _):
                assert b"200" in await reader.readline()
        assert {state for _, _, state in router.breakers.states()} == {"closed"}


@pytest.mark.parametrize("stream", [True, False])
async def test_row_43_a_client_that_leaves_between_two_attempts_ends_the_wait(stream: bool):
    """The engine has said when to come back; nobody comes back for a client that left."""

    async def busy(exchange: Exchange) -> None:
        await exchange.answer(429, b'{"error": {"message": "busy"}}', extra="retry-after: 5\r\n")

    async with RawServer(busy) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, leaves_nothing(router, engine, patience_s=BOUND_S):
            async with raw_request(url, chat(stream=stream)):
                await engine.seen(1)
                await until(lambda: not engine.busy and not router._tracker.inflight)
        assert len(engine.exchanges) == 1
        assert {state for _, _, state in router.breakers.states()} == {"closed"}


async def test_row_43_a_client_that_leaves_the_gate_s_queue_is_forgotten_while_the_load_goes_on():
    """What the engine has begun for it is ready for the next one; nobody holds a lease meanwhile."""
    async with SimulatedOllama([SimulatedModel("small", 4 * GIB, load_s=30.0)], time_scale=0.02) as engine:
        settings = Settings.model_validate(
            {
                "backends": {"local": {"type": "ollama", "url": engine.base_url}},
                "models": [{"name": "chat", "deployments": [{"backend": "local", "model": "small", "vram": "4GiB"}]}],
                "vram": {"max_total": "20GiB"},
            }
        )
        router = SmartRouter(settings)
        gate = router.gate
        assert gate is not None
        async with serve(router) as url:
            async with leaves_nothing(router):
                async with raw_request(url, chat(stream=True)):
                    await engine.wait_for(lambda e: e.loading == "small:latest")
                    assert gate.queue_depths() == {"local/small:latest": 1}
                await until(lambda: not gate.queue_depths(), within_s=BOUND_S)
                assert engine.loading == "small:latest"
            assert [held.leases for held in gate.snapshot().residents] == [0]
            async with raw_request(url, chat(max_tokens=2)) as (reader, _):
                assert b"200" in await reader.readline()
        assert engine.stats.loads == 1


CLIENTS = 1000
AT_ONCE = 100


async def test_row_44_a_thousand_clients_that_leave_at_random_leave_nothing_behind():
    """Ten slots, a line before them: clients leave it, leave before headers and in mid-stream, and some are refused."""
    chance = random.Random(44)
    phases = Counter[str]()

    async def half(exchange: Exchange) -> None:
        if json.loads(exchange.body).get("stream"):
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.gone()

    async def one(url: str, turn: asyncio.Semaphore) -> None:
        stream = chance.random() < 0.7
        patience_s = chance.choice([0.0, 0.01, 0.05, BOUND_S * 10 if stream else 0.1])
        async with turn, raw_request(url, chat(stream=stream)) as (reader, _):
            try:
                async with asyncio.timeout(patience_s):
                    status = await reader.readuntil(b"\r\n")
                    phases[status.split()[1].decode()] += 1
            except TimeoutError:
                phases["no answer yet"] += 1

    async with RawServer(half) as engine:
        router = router_over(engine.base_url)
        ten = router.settings.backends["b1"].model_copy(update={"max_parallel": 10})
        router = SmartRouter(router.settings.model_copy(update={"backends": {"b1": ten}}))
        async with serve(router) as url:
            async with leaves_nothing(router, engine, patience_s=2):
                turn = asyncio.Semaphore(AT_ONCE)
                await asyncio.gather(*(one(url, turn) for _ in range(CLIENTS)))
            assert in_line(router) == 0
            assert engine.open_connections <= 10
            engine.script = good
            async with raw_request(url, chat()) as (reader, _):
                assert b"200" in await asyncio.wait_for(reader.readline(), BOUND_S)
        assert {state for _, _, state in router.breakers.states()} == {"closed"}
    assert sum(phases.values()) == CLIENTS
    assert all(phases[phase] >= 20 for phase in ("no answer yet", "200", "503")), phases
    assert 100 < len(engine.exchanges) < CLIENTS, "some were served, and some left the line"


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_row_45_a_half_closed_connection_is_a_client_that_left(http: str):
    """Who shuts its side down after the request gets no answer: uvicorn takes it for a disconnect, and so do we."""
    script = Endless(talks=True)
    async with RawServer(script) as engine:
        router = router_over(engine.base_url)
        async with serve(router, http=http) as url, leaves_nothing(router, engine, patience_s=BOUND_S):
            async with raw_request(url, chat(stream=True)) as (reader, writer):
                await reader.readuntil(b"Hel")
                writer.write_eof()
                await asyncio.wait_for(script.closed.wait(), BOUND_S)
                rest = await asyncio.wait_for(reader.read(), BOUND_S)
            assert b"[DONE]" not in rest
            assert b"0\r\n\r\n" not in rest
        assert len(engine.exchanges) == 1


async def test_a_client_that_leaves_while_its_body_is_on_the_way_reaches_no_engine():
    """Half a body is no request."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url:
        async with connected(url) as (_, writer):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            await writer.drain()
        await writer.wait_closed()
        async with raw_request(url, chat()) as (reader, _):
            assert b"200" in await reader.readline()
        assert len(engine.exchanges) == 1
