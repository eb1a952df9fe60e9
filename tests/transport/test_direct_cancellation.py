"""Whenever a request over the direct lane is cancelled, in whatever way, its socket is closed and nothing is left."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import anyio
import pytest
import trustme

from smartrouter_asgi.transport.direct import dial
from smartrouter_asgi.transport.direct.connection import Connection
from smartrouter_asgi.transport.direct.transport import DirectTransport

from ..harness.loops import on_both_loops
from ..harness.servers import Exchange, RawServer
from ..harness.stepping import CountedLoop, run_counted
from ..harness.waiting import until
from .lanes import fetch, request_to

MOST_TURNS = 60
BODY = b"x" * 1_000_000


async def in_three_parts(exchange: Exchange) -> None:
    """Answer in as many turns of the loop, to whoever is still there."""
    try:
        await exchange.start_stream()
        for number in range(3):
            await asyncio.sleep(0)
            await exchange.chunk(b"part %d" % number)
        await asyncio.sleep(0)
        await exchange.end_stream()
    except ConnectionError:
        exchange.writer.close()


def is_idle(transport: DirectTransport) -> bool:
    return not transport.busy


async def whole(transport: DirectTransport, url: str, body: bytes) -> None:
    """Ask and read, as a backend does."""
    answer = await transport.open(request_to(url, body))
    try:
        async with aclosing(answer.chunks()) as chunks:
            async for _ in chunks:
                pass
    finally:
        await answer.aclose()


async def struck(transport: DirectTransport, url: str, body: bytes, *, at: int, native: bool) -> bool:
    """Cancel a request at a turn of the loop; tell whether it was still under way."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountedLoop)
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await whole(transport, url, body)

    task = asyncio.create_task(run())
    turns = 0

    def on_turn() -> None:
        nonlocal turns
        turns += 1
        if turns == at:
            task.cancel() if native else scope.cancel()

    loop.on_turn = on_turn
    try:
        await asyncio.wait({task}, timeout=5)
    finally:
        loop.on_turn = None
    assert task.done()
    if turns < at:
        task.result()
        return False
    assert task.cancelled() or task.exception() is None
    return True


def at_every_turn(
    native: bool,
    *,
    reused: bool,
    body: bytes,
    host: str,
    tls: Callable[[], tuple[ssl.SSLContext, ssl.SSLContext]] | None,
) -> int:
    """Strike one request after the other, each a turn later, until one is through; return how many were struck."""
    count = 0

    async def main() -> None:
        nonlocal count
        at_server, at_client = tls() if tls is not None else (None, None)
        async with RawServer(in_three_parts, tls=at_server) as server:
            url = server.base_url.replace("127.0.0.1", host)
            for at in range(1, MOST_TURNS):
                transport = DirectTransport(tls=at_client)
                if reused:
                    await fetch(transport, url)
                if not await struck(transport, url, body, at=at, native=native):
                    await transport.aclose()
                    break
                count += 1
                await until(partial(is_idle, transport), within_s=5)
                assert await fetch(transport, url) == b"part 0part 1part 2"  # and whatever was kept can be used
                await transport.aclose()
                await until(lambda: server.open_connections == 0, within_s=5)
            else:
                raise AssertionError("it never came through")
            await until(lambda: server.open_connections == 0, within_s=5)

    run_counted(main())
    return count


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    at_server, at_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(at_server)
    authority.configure_trust(at_client)
    return at_server, at_client


@pytest.mark.parametrize("native", [True, False], ids=["task.cancel", "scope"])
@pytest.mark.parametrize("body", [b"{}", BODY], ids=["small", "large"])
@pytest.mark.parametrize("reused", [True, False], ids=["reused", "new"])
def test_row_58_a_request_cancelled_at_any_turn_leaves_no_socket(native: bool, reused: bool, body: bytes):
    """Nor a future that nobody wakes, nor a connection that somebody else's answer is still on."""
    assert at_every_turn(native, reused=reused, body=body, host="127.0.0.1", tls=None) >= 5


@pytest.mark.parametrize("native", [True, False], ids=["task.cancel", "scope"])
def test_row_58_a_handshake_cancelled_at_any_turn_leaves_no_socket(native: bool):
    """Whether the other side has seen the request or not."""
    assert at_every_turn(native, reused=False, body=b"{}", host="127.0.0.1", tls=contexts) >= 8


@pytest.mark.parametrize("native", [True, False], ids=["task.cancel", "scope"])
def test_row_58_a_name_looked_up_in_vain_leaves_no_socket(native: bool):
    """Of several addresses too."""
    assert at_every_turn(native, reused=False, body=b"{}", host="localhost", tls=None) >= 6


@pytest.mark.parametrize("native", [True, False], ids=["task.cancel", "scope"])
@pytest.mark.parametrize("delay_s", [0.0, 60.0], ids=["side by side", "in turns"])
def test_row_58_addresses_tried_in_vain_leave_no_socket(monkeypatch: pytest.MonkeyPatch, native: bool, delay_s: float):
    """Nor does the one that had just won; and who was cancelled stays so."""

    async def resolve(host: str, port: int) -> list[dial.Address]:
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ("127.0.0.1", port))] * 3

    monkeypatch.setattr(dial, "resolve", resolve)
    monkeypatch.setattr(dial, "HAPPY_EYEBALLS_DELAY_S", delay_s)
    assert at_every_turn(native, reused=False, body=b"{}", host="engine.test", tls=None) >= 6


@on_both_loops
async def test_row_58_a_connection_that_is_made_for_nobody_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    """Whichever loop, though uvloop does not tell a connection of its end in the moment it was made."""
    made = Connection.connection_made

    def cancelling(self: Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        task.cancel()

    monkeypatch.setattr(Connection, "connection_made", cancelling)
    async with RawServer(in_three_parts) as server:
        transport = DirectTransport()
        task = asyncio.create_task(fetch(transport, server.base_url))
        await asyncio.wait({task})
        assert task.cancelled()
        await until(partial(is_idle, transport), within_s=5)
        await asyncio.wait_for(transport.aclose(), 5)
        await until(lambda: server.open_connections == 0, within_s=5)


@on_both_loops
async def test_a_thousand_cancelled_at_random_leave_nothing():
    """Connections that were given back meanwhile carry nobody else's answer."""

    async def echo(exchange: Exchange) -> None:
        try:
            await exchange.start_stream()
            await exchange.chunk(exchange.body)
            await asyncio.sleep(0)
            await exchange.end_stream()
        except ConnectionError:
            exchange.writer.close()

    async with RawServer(echo) as server:
        transport = DirectTransport()

        async def one(number: int) -> None:
            body = b"%d" % number
            try:
                async with asyncio.timeout((number * 7919 % 100) / 2000):
                    assert await fetch(transport, server.base_url, body) == body
            except TimeoutError:
                pass

        for begin in range(0, 1000, 50):
            await asyncio.gather(*(one(number) for number in range(begin, begin + 50)))
        await until(lambda: not transport.busy)
        await transport.aclose()
        await until(lambda: server.open_connections == 0)
