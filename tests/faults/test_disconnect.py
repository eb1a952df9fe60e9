"""A client that leaves frees everything at once: the upstream connection, the queue slot, the permit."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ..harness.engines import ROLE, chunk, good
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve

AIM_S = 0.1
BOUND_S = 5 * AIM_S


@asynccontextmanager
async def raw_request(url: str, body: dict) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request over a plain socket."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    payload = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()


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
            async with asyncio.timeout(BOUND_S):
                while sum(router._tracker.inflight.values()) > 0:
                    await asyncio.sleep(0.005)
            engine.script = good
            # The breaker took no notice, and the next request is served.
            async with raw_request(url, chat()) as (reader, _):
                assert b"200" in await reader.readline()
        assert {state for _, _, state in router.breakers.states()} == {"closed"}


async def test_row_44_many_disconnects_at_random_phases_leave_nothing_behind():
    """After 200 clients have left, no upstream connection is busy and the next request is served."""

    async def slow(exchange: Exchange) -> None:
        if not json.loads(exchange.body).get("stream"):
            await good(exchange)
            return
        await exchange.start_stream()
        try:
            while not exchange.writer.is_closing():
                await exchange.chunk(chunk("x"))
                await asyncio.sleep(0.005)
        except ConnectionError:
            return

    async def one(url: str, number: int) -> None:
        async with raw_request(url, chat(stream=True)):
            await asyncio.sleep((number * 7 % 100) / 1000)

    async with RawServer(slow) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url:
            for _ in range(4):
                await asyncio.gather(*(one(url, number) for number in range(50)))
            async with asyncio.timeout(5):
                while engine.open_connections > 0 or sum(router._tracker.inflight.values()) > 0:
                    await asyncio.sleep(0.01)
            async with raw_request(url, chat()) as (reader, _):
                assert b"200" in await reader.readline()


async def test_a_client_that_leaves_while_its_body_is_on_the_way_reaches_no_engine():
    """Half a body is no request."""
    async with RawServer(good) as engine, serve(router_over(engine.base_url)) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with raw_request(url, chat()) as (reader, _):
            assert b"200" in await reader.readline()
        assert len(engine.exchanges) == 1
