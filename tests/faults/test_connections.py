"""Connections that fail: names that resolve to nothing, TLS, black holes, ends at every point before an answer."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import trustme

from smartrouter_asgi.transport.divided import DividedTransport

from ..harness.answers import error_code
from ..harness.engines import ANSWER, STREAM, good, silent
from ..harness.gateways import gateway_over
from ..harness.servers import Exchange, RawServer, Script

CLOCKS = {"first_token": "20s", "idle": "20s", "total": "30s", "connect": "5s"}
HASTY = {"timeouts": {**CLOCKS, "first_token": "700ms"}}
MIB = 1024 * 1024


def writing(data: bytes, then: Script) -> Script:
    """An engine that writes some bytes and then does something else."""

    async def script(exchange: Exchange) -> None:
        await exchange.write(data)
        await then(exchange)

    return script


async def rst(exchange: Exchange) -> None:
    exchange.reset()


async def fin(exchange: Exchange) -> None:
    exchange.writer.close()


@pytest.mark.parametrize("name", ["engine-7.invalid", "x" * 64 + ".invalid"], ids=["unknown", "no-name-at-all"])
async def test_row_3_a_name_that_resolves_to_nothing_is_upstream_dns(name: str):
    """As a refused connection, and the name is in no body."""
    async with RawServer(good) as engine, gateway_over(f"http://{name}:8080", engine) as gateway:
        response = await gateway.ask()
        assert response.json() == ANSWER
        assert response.headers["x-smartrouter-attempts"] == "2"
        assert (gateway.breaker("b1"), gateway.breaker("b2")) == ("open", "closed")
    async with gateway_over(f"http://{name}:8080", serves_on=False) as gateway:
        response = await gateway.ask()
    assert error_code(response) == (503, "upstream_dns")
    assert name not in response.text
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["x-should-retry"] == "false"


async def words_without_tls(exchange: Exchange) -> None:
    """What a server that speaks plain HTTP makes of a handshake."""
    await exchange.reader.read(1)
    await exchange.answer(400, b"no")
    exchange.writer.close()


@pytest.mark.parametrize("greet", [words_without_tls, fin, rst], ids=["words", "fin", "rst"])
async def test_row_3_a_handshake_that_fails_is_upstream_tls(greet: Script):
    """Whether the other side answers it with plain words or cuts it."""
    async with RawServer(good, greet=greet) as plain, RawServer(good) as engine:
        tls_url = plain.base_url.replace("http:", "https:")
        async with gateway_over(tls_url, engine) as gateway:
            response = await gateway.ask()
            assert (response.json(), response.headers["x-smartrouter-attempts"]) == (ANSWER, "2")
        async with gateway_over(tls_url, serves_on=False) as gateway:
            response = await gateway.ask()
    assert error_code(response) == (503, "upstream_tls")
    assert "127.0.0.1" not in response.text


async def test_row_3_a_certificate_nobody_vouches_for_is_never_taken():
    """Neither at first nor on a retry; a client that trusts its authority is served there."""
    authority = trustme.CA()
    at_server, at_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(at_server)
    authority.configure_trust(at_client)
    async with RawServer(good, tls=at_server) as strange, RawServer(good) as engine:
        async with gateway_over(strange, engine) as gateway:
            assert (await gateway.ask()).headers["x-smartrouter-backend"] == "b2"
        async with gateway_over(strange, serves_on=False) as gateway:
            response = await gateway.ask()
        assert error_code(response) == (503, "upstream_tls")
        assert strange.exchanges == []
        async with httpx.AsyncClient(verify=at_client) as client:
            assert (await client.get(f"{strange.base_url}/models")).status_code == 200


@contextmanager
def black_hole() -> Iterator[str]:
    """An address whose queue of connections is full: the kernel drops what comes, and nobody says so."""
    held = [socket.create_server(("127.0.0.1", 0), backlog=0)]
    try:
        for _ in range(16):
            one = socket.socket()
            held.append(one)
            one.setblocking(False)
            one.connect_ex(held[0].getsockname())
            if not select.select([], [one], [], 0.05)[1]:
                break
        else:
            pytest.skip("this kernel's queues never fill")
        yield f"http://127.0.0.1:{held[0].getsockname()[1]}"
    finally:
        for one in held:
            one.close()


async def test_row_4_a_black_hole_is_left_by_the_connect_clock():
    """Not by the first token's, which is for engines that were reached."""
    short = {"timeouts": {**CLOCKS, "connect": "300ms"}, "retry": {"max_retries": 1}}
    with black_hole() as hole:
        async with RawServer(good) as engine, gateway_over(hole, engine, resilience=short) as gateway:
            started = time.monotonic()
            response = await gateway.ask(stream=True)
            assert 0.3 <= time.monotonic() - started < 3
            assert response.content == b"".join(STREAM)
            assert response.headers["x-smartrouter-attempts"] == "2"
        async with gateway_over(hole, resilience=short, serves_on=False) as gateway:
            response = await gateway.ask()
    assert error_code(response) == (504, "upstream_connect_timeout")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("greet", "script"), [(rst, good), (None, rst), (None, fin)], ids=["at-once", "rst", "fin"])
async def test_row_5_a_connection_that_dies_before_an_answer(greet: Script | None, script: Script, stream: bool):
    """One other candidate; a lone engine is not asked again, it may be the request that kills it."""
    async with RawServer(script, greet=greet) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            response = await gateway.ask(stream=stream)
            assert response.content == b"".join(STREAM) if stream else response.json() == ANSWER
            assert (bad.connections, response.headers["x-smartrouter-attempts"]) == (1, "2")
        before = bad.connections
        async with gateway_over(bad, serves_on=False) as gateway:
            response = await gateway.ask(stream=stream)
        assert error_code(response) == (502, "upstream_disconnected")
        assert bad.connections == before + 1


async def test_row_6_a_stale_connection_is_no_mark_against_its_engine():
    """Also where a single failure would open the breaker."""

    async def closing_under_the_second(exchange: Exchange) -> None:
        await (fin if len(engine.exchanges) == 2 else good)(exchange)

    async with RawServer(closing_under_the_second) as engine, gateway_over(engine) as gateway:
        await gateway.ask()
        response = await gateway.ask()
        assert (response.json(), response.headers["x-smartrouter-attempts"]) == (ANSWER, "2")
        assert gateway.breaker("b1") == "closed"
    assert engine.connections == 2


@pytest.mark.parametrize("end", [fin, rst], ids=["fin", "rst"])
@pytest.mark.parametrize(
    "part", [b"HTT", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nx-half: tr", b"HTTP/1.1 200 OK\r\nx-half: true\r\n"]
)
async def test_row_7_half_a_head_is_no_head(part: bytes, end: Script):
    """The next candidate answers, and nothing of the half one shows."""
    async with RawServer(writing(part, end)) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            response = await gateway.ask()
            assert response.json() == ANSWER
            assert "x-half" not in response.headers
            assert bad.connections == 1


def dripping(data: bytes, *, piece: int, pause_s: float) -> Script:
    """An engine that is never silent for long and never done."""

    async def script(exchange: Exchange) -> None:
        for start in range(0, len(data), piece):
            await exchange.write(data[start : start + piece])
            await asyncio.sleep(pause_s)
        await exchange.gone()

    return script


HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        dripping(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1000, piece=1, pause_s=0.05),
        writing(HINTS * 2000, silent),
        dripping(HINTS * 2000, piece=len(HINTS), pause_s=0.05),
    ],
    ids=["bytes", "hints-at-once", "hints"],
)
async def test_row_9_a_head_that_never_ends_is_left_by_the_first_token_s_clock(script: Script):
    """However often something comes."""
    async with RawServer(script) as slow, RawServer(good) as engine:
        async with gateway_over(slow, engine, resilience=HASTY) as gateway:
            started = time.monotonic()
            response = await gateway.ask(stream=True)
            assert 0.7 <= time.monotonic() - started < 5
            assert response.content == b"".join(STREAM)
            slow.script = good


async def test_row_9_hints_before_an_answer_are_read_over():
    """2000 of them are odd and still not the answer."""
    async with RawServer(writing(HINTS * 2000, good)) as engine, gateway_over(engine) as gateway:
        assert (await gateway.ask()).json() == ANSWER


async def test_row_9_a_head_of_a_megabyte_is_refused():
    """502 of a lone engine, else the next one answers."""
    head = writing(b"HTTP/1.1 200 OK\r\nx-large: " + b"a" * MIB + b"\r\n", good)
    async with RawServer(head) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            response = await gateway.ask()
            assert (response.json(), response.headers["x-smartrouter-attempts"]) == (ANSWER, "2")
        async with gateway_over(bad, serves_on=False) as gateway:
            assert error_code(await gateway.ask()) == (502, "upstream_protocol")


ROOMY = {"server": {"max_body": "32MiB"}}


def refusing_unread(then: Script) -> Script:
    """An engine that answers a large request before it has read it, and then does something else."""

    async def script(exchange: Exchange) -> None:
        size = int(exchange.header("content-length") or 0)
        if size < MIB:
            exchange.body = await exchange.reader.readexactly(size)
            await good(exchange)
            return
        await exchange.answer(413, b'{"error": {"message": "too large"}}', extra="connection: close\r\n")
        await then(exchange)

    return script


@pytest.mark.parametrize("megabytes", [2, 20])
async def test_row_42_a_large_body_refused_unread_counts_for_no_breaker(megabytes: int):
    """413 where it was seen, else 502; two engines are asked at most."""
    engines = [RawServer(refusing_unread(rst), reads_body=False) for _ in range(3)]
    async with engines[0], engines[1], engines[2]:
        async with gateway_over(*engines, **ROOMY) as gateway:
            response = await gateway.ask(messages=[{"role": "user", "content": "x" * (megabytes * MIB)}])
            assert error_code(response) in [(502, "upstream_disconnected"), (413, "invalid_request")]
            assert len(engines[0].exchanges) == 1
            assert engines[2].exchanges == []
            assert {gateway.breaker(name) for name in ("b1", "b2", "b3")} == {"closed"}


async def test_row_42_an_early_refusal_that_was_seen_is_final():
    """Where the connection is not cut under it."""
    async with RawServer(refusing_unread(silent), reads_body=False) as engine, RawServer(good) as other:
        async with gateway_over(engine, other, **ROOMY) as gateway:
            response = await gateway.ask(messages=[{"role": "user", "content": "x" * (2 * MIB)}])
            assert error_code(response) == (413, "invalid_request")
            assert other.exchanges == []
            assert gateway.breaker("b1") == "closed"


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Nothing more can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("begun", [False, True])
async def test_row_69_no_descriptor_left_is_the_gateway_s_own_fault(begun: bool):
    """503 that says so, and neither engine is blamed; also when the very first request meets it."""
    async with RawServer(good) as first, RawServer(good) as second, gateway_over(first, second) as gateway:
        await gateway.client.get(f"{gateway.url}/healthz")  # so that the client has its connection
        if begun:
            transport: Any = gateway.router._transport
            divided = isinstance(transport, DividedTransport)
            transport.data._pool_of_this_loop() if divided else transport._client_of_this_loop()
        with no_descriptor_left():
            response = await gateway.ask()
        assert error_code(response) == (503, "gateway_overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert (gateway.breaker("b1"), gateway.breaker("b2")) == ("closed", "closed")
        assert first.exchanges == second.exchanges == []
