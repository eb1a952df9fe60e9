"""The simulated engine's HTTP server, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from smartrouter_asgi.testing.ollama import Fault, SimulatedOllama

from .simulated_engine import ask, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = b"host: localhost\r\n"
VERSION = b"GET /api/version HTTP/1.1\r\n" + HOST


@pytest.fixture
async def engine(start):
    engine, _ = await start(plain("a", 1))
    return engine


@contextlib.asynccontextmanager
async def connected(engine) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(engine.host, engine.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer with a content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), await reader.readexactly(int(headers["content-length"]))


async def test_a_connection_serves_one_request_after_the_other(engine):
    async with connected(engine) as (reader, writer):
        for _ in range(3):
            writer.write(VERSION + b"\r\n")
            assert await answer(reader) == (200, b'{"version":"0.33.0"}')
        assert engine.stats.open_connections == 1
    await engine.wait_for(lambda e: e.stats.open_connections == 0)
    assert (engine.stats.connections, engine.stats.requests) == (1, 3)


async def test_pipelined_requests_are_answered_in_order(engine):
    async with connected(engine) as (reader, writer):
        writer.write(VERSION + b"\r\n" + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await answer(reader))[1].startswith(b'{"version"')
        assert (await answer(reader))[1] == b"Ollama is running"


async def test_connection_close_is_honoured(engine):
    async with connected(engine) as (reader, writer):
        writer.write(VERSION + b"connection: close\r\n\r\n")
        assert (await reader.read()).endswith(b'{"version":"0.33.0"}')


@pytest.mark.parametrize("step", [1, 5, 1000])
async def test_a_chunked_request_body_is_put_together(engine, step):
    body = json.dumps({"model": "a", "keep_alive": 0}).encode()
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, len(body), 9))
    head = b"POST /api/generate HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    request = head + chunks + b"0\r\nx-trailer: 1\r\n\r\n"
    async with connected(engine) as (reader, writer):
        for at in range(0, len(request), step):
            writer.write(request[at : at + step])
            await writer.drain()
        status, content = await answer(reader)
    assert status == 200
    assert json.loads(content)["done_reason"] == "unload"


async def test_a_client_that_expects_100_continue_gets_it(engine):
    body = json.dumps({"model": "a", "keep_alive": 0}).encode()
    async with connected(engine) as (reader, writer):
        writer.write(b"POST /api/generate HTTP/1.1\r\n" + HOST + b"expect: 100-continue\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
    ],
)
async def test_bytes_that_are_no_request_end_the_connection(engine, request_bytes, status):
    async with connected(engine) as (reader, writer):
        writer.write(request_bytes)
        assert (await answer(reader))[0] == status
        assert await reader.read() == b""


async def test_a_stream_for_http_1_0_ends_with_the_connection(engine):
    body = json.dumps(ask("a", stream=True)).encode()
    async with connected(engine) as (reader, writer):
        writer.write(b"POST /api/chat HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert json.loads(content.splitlines()[-1])["done"] is True


async def test_a_half_closed_connection_counts_as_a_client_that_left(engine):
    engine.faults.set(Fault(stall="mid_stream", after_tokens=1))
    body = json.dumps(ask("a", stream=True)).encode()
    async with connected(engine) as (reader, writer):
        writer.write(b"POST /api/chat HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body) + body)
        await engine.wait_for(lambda e: e.stats.tokens_generated == 1)
        writer.write_eof()
        await engine.wait_for(lambda e: e.stats.aborted_generations == 1)
        assert not (await reader.read()).endswith(b"0\r\n\r\n")


async def test_a_client_that_stops_reading_and_vanishes_ends_the_generation(start):
    engine, _ = await start(plain("a", 1, answer_tokens=60_000, tokens_per_s=10**7))
    body = json.dumps(ask("a", stream=True)).encode()
    reader, writer = await asyncio.open_connection(engine.host, engine.port, limit=1024)
    writer.write(b"POST /api/chat HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body) + body)
    await engine.wait_for(lambda e: e.stats.tokens_generated > 100)
    writer.transport.abort()
    await engine.wait_for(lambda e: e.stats.aborted_generations == 1)
    assert engine.stats.tokens_generated < 60_000
    assert engine.stats.active_generations == 0
    del reader


def test_the_engine_runs_on_uvloop_too():
    uvloop = pytest.importorskip("uvloop")

    async def talk() -> None:
        async with SimulatedOllama([plain("a", 1)], time_scale=0.01) as engine:
            engine.faults.once(Fault(), Fault(crash="reset", after_tokens=2))
            async with connected(engine) as (reader, writer):
                body = json.dumps(ask("a")).encode()
                for _ in range(2):
                    writer.write(
                        b"POST /api/chat HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body) + body
                    )
                assert (await answer(reader))[0] == 200
                with pytest.raises(ConnectionResetError):
                    await reader.read()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())
