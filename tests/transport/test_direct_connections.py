"""Connections of our own on real sockets: kept, used again, given up, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
from typing import Any

import pytest

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.direct import dial, pool
from smartrouter_asgi.transport.direct.connection import MAX_UNREAD_BYTES, WRITE_BYTES, Connection
from smartrouter_asgi.transport.direct.exchange import Exchange as DirectExchange
from smartrouter_asgi.transport.direct.head import render_head
from smartrouter_asgi.transport.direct.parser import MAX_HEAD_BYTES
from smartrouter_asgi.transport.direct.pool import Pool
from smartrouter_asgi.transport.direct.transport import DirectTransport

from ..harness.engines import silent
from ..harness.loops import on_both_loops
from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until
from .lanes import HELLO, fetch, lane, request_to, writing

MIB = 1024 * 1024
READ_BYTES = 256 * 1024  # what a loop reads at once


async def failure(transport: DirectTransport, url: str, body: bytes = b"{}", **fields: Any) -> AttemptError:
    """Ask, and return what went wrong."""
    with pytest.raises(AttemptError) as caught:
        await fetch(transport, url, body, **fields)
    return caught.value


# -- kept and used again


@on_both_loops
async def test_a_connection_is_used_again():
    """Whatever the framing of the answer before, and whether or not there was a body."""
    answers = [
        HELLO,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        b"HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + HELLO,
    ]

    async def script(exchange: Exchange) -> None:
        await exchange.write(answers[len(server.exchanges) % 4])

    async with RawServer(script) as server, lane() as transport:
        for _ in range(8):
            assert await fetch(transport, server.base_url) == b"hello"
        server.script = writing(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await fetch(transport, server.base_url) == b""
        assert server.connections == 1


@on_both_loops
async def test_the_connection_used_last_goes_first():
    """So that those of a rush are left to end."""
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            await release.wait()
        await exchange.write(HELLO)

    async with RawServer(script) as server, lane() as transport:
        slow = asyncio.create_task(fetch(transport, f"{server.base_url}/slow"))
        await server.seen(1)
        await fetch(transport, server.base_url)
        release.set()
        await slow
        await fetch(transport, server.base_url)
        first, _, third = server.exchanges
        assert (server.connections, third.writer) == (2, first.writer)


@on_both_loops
async def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch):
    """Before servers close theirs, and also when nobody asks for another."""
    monkeypatch.setattr(pool, "KEEPALIVE_EXPIRY_S", 0.05)
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        await asyncio.gather(*(fetch(transport, server.base_url) for _ in range(3)))
        await until(lambda: server.open_connections == 0)
        await fetch(transport, server.base_url)
        assert server.connections == 4


@on_both_loops
async def test_each_idle_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch):
    """The end of one is not the end of those that were used after it."""
    monkeypatch.setattr(pool, "KEEPALIVE_EXPIRY_S", 0.5)
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/later":
            await release.wait()
        await exchange.write(HELLO)

    async with RawServer(script) as server, lane() as transport:
        later = asyncio.create_task(fetch(transport, f"{server.base_url}/later"))
        await server.seen(1)
        await fetch(transport, server.base_url)
        connections: Any = transport._pool
        asyncio.get_running_loop().call_later(0.25, release.set)
        await later
        assert connections.idle == 2
        await until(lambda: connections.idle != 2)
        assert connections.idle == 1
        await until(lambda: connections.idle == 0)


@on_both_loops
async def test_a_connection_that_is_too_old_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    """Though the loop was too busy to close it in time."""
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        await fetch(transport, server.base_url)
        monkeypatch.setattr(pool, "KEEPALIVE_EXPIRY_S", 0.0)
        await fetch(transport, server.base_url)
        assert server.connections == 2


def test_idle_connections_end_before_servers_end_them():
    """So do uvicorn and llama.cpp after 5 s."""
    assert pool.KEEPALIVE_EXPIRY_S <= 4


@on_both_loops
async def test_no_more_than_so_many_stay_idle(monkeypatch: pytest.MonkeyPatch):
    """The one that has waited longest goes."""
    monkeypatch.setattr(pool, "MAX_IDLE", 2)
    everybody = asyncio.Barrier(5)

    async def script(exchange: Exchange) -> None:
        await everybody.wait()
        await exchange.write(HELLO)

    async with RawServer(script) as server, lane() as transport:
        await asyncio.gather(*(fetch(transport, server.base_url) for _ in range(5)))
        await until(lambda: server.open_connections == 2)
        assert server.connections == 5


GARBAGE = b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"smuggled":1}'


@on_both_loops
@pytest.mark.parametrize("garbage", [GARBAGE, b"\r\n", b"x"])
@pytest.mark.parametrize("late", [False, True], ids=["unread", "read"])
async def test_row_21_words_on_an_idle_connection_are_nobody_s_answer(garbage: bytes, late: bool):
    """Also when the loop has not seen them yet; the next request has a new connection."""
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        await fetch(transport, server.base_url)
        os.write(server.exchanges[0].writer.get_extra_info("socket").fileno(), garbage)
        if late:
            await until(lambda: server.open_connections == 0, within_s=2)  # long before it is too old
        assert await fetch(transport, server.base_url) == b"hello"
        assert server.connections == 2


@on_both_loops
async def test_a_connection_that_its_server_has_closed_is_forgotten():
    """At once, not when it is wanted."""
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        await fetch(transport, server.base_url)
        connections: Any = transport._pool
        assert connections.idle == 1
        server.exchanges[0].writer.close()
        await until(lambda: connections.idle == 0, within_s=2)
        assert not connections.busy


@on_both_loops
async def test_a_server_that_has_said_its_last_is_not_asked_again():
    """It closed its half of the connection and still listens on the other."""
    async with RawServer(writing(HELLO, then="half")) as server, lane() as transport:
        assert await fetch(transport, server.base_url) == b"hello"
        assert await fetch(transport, server.base_url) == b"hello"
        assert server.connections == 2


@on_both_loops
async def test_an_answer_may_end_with_its_connection():
    """Without a length, by either kind of end of half or all of it; but not by a reset."""
    head = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"
    async with RawServer(writing(head, b"some", b" text", then="half")) as server, lane() as transport:
        assert await fetch(transport, server.base_url) == b"some text"
        server.script = writing(head, b"some", b" text", then="fin")
        assert await fetch(transport, server.base_url) == b"some text"
        server.script = writing(head, b"some", b" text", then="rst")
        assert (await failure(transport, server.base_url)).kind is FailureKind.RESET


# -- ends before the end


@on_both_loops
@pytest.mark.parametrize("end", ["fin", "rst", "half"])
async def test_row_6_only_a_reused_connection_can_be_stale(end: str):
    """And only before a byte of an answer has come."""
    async with RawServer(writing(then=end)) as server, lane() as transport:
        error = await failure(transport, server.base_url)
        assert (error.kind, error.code, error.status) == (FailureKind.RESET, "upstream_disconnected", 502)
        for said, kind in [(b"", FailureKind.STALE), (b"H", FailureKind.RESET), (GARBAGE[:20], FailureKind.RESET)]:
            server.script = writing(HELLO)
            await fetch(transport, server.base_url)
            server.script = writing(said, then=end)
            assert (await failure(transport, server.base_url)).kind is kind, said


@on_both_loops
@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhel",
    ],
    ids=["length", "between chunks", "in a chunk"],
)
async def test_row_14_an_answer_that_is_cut_off_is_told_after_what_came(begun: bytes, end: str):
    """Half an answer is never a whole one."""
    async with RawServer(writing(begun, then=end)) as server, lane() as transport:
        answer = await transport.open(request_to(server.base_url))
        chunks = answer.chunks()
        assert await anext(chunks) == b"hel"
        with pytest.raises(AttemptError) as caught:
            await anext(chunks)
        assert (caught.value.kind, caught.value.code) == (FailureKind.RESET, "upstream_disconnected")
        await answer.aclose()


@on_both_loops
async def test_leaving_an_answer_closes_its_socket_at_once():
    """With its head read, some of its body, or when it is larger than wanted; twice is no more than once."""

    async def endless(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"x" * 1000)
        await exchange.gone()

    async with RawServer(endless) as server, lane() as transport:
        answer = await transport.open(request_to(server.base_url))
        await answer.aclose()
        await answer.aclose()
        await asyncio.wait_for(server.exchanges[0].closed.wait(), 1)
        answer = await transport.open(request_to(server.base_url))
        assert await anext(answer.chunks()) == b"x" * 1000
        await answer.aclose()
        await asyncio.wait_for(server.exchanges[1].closed.wait(), 1)
        answer = await transport.open(request_to(server.base_url))
        with pytest.raises(AttemptError, match="over 999 bytes") as caught:
            await answer.read(999)
        assert caught.value.kind is FailureKind.PROTOCOL
        await answer.aclose()
        await asyncio.wait_for(server.exchanges[2].closed.wait(), 1)


@on_both_loops
@pytest.mark.parametrize("size", [MAX_HEAD_BYTES - 1000, MAX_HEAD_BYTES + 1000])
@pytest.mark.parametrize("pieces", [1, 50])
async def test_row_9_a_head_is_as_large_as_it_may_be(size: int, pieces: int):
    """In one write or in many; beyond it nothing more is waited for."""
    head = b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 5\r\n\r\n" % (b"a" * (size - 45))
    cuts = [head[at * size // pieces : (at + 1) * size // pieces] for at in range(pieces)]

    async def script(exchange: Exchange) -> None:
        for cut in cuts:
            await exchange.write(cut)
            await asyncio.sleep(0)
        await exchange.write(b"hello")
        await exchange.gone()

    async with RawServer(script) as server, lane() as transport:
        if size > MAX_HEAD_BYTES:
            assert (await failure(transport, server.base_url)).code == "upstream_protocol"
            await asyncio.wait_for(server.exchanges[0].closed.wait(), 5)
        else:
            assert await fetch(transport, server.base_url) == b"hello"


# -- much, in either direction


@on_both_loops
async def test_row_46_what_nobody_takes_is_not_read():
    """Memory is bounded by what waits in one connection; taken slowly, all of it comes."""
    body = os.urandom(4096) * 4096
    async with RawServer(writing(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)) as server:
        async with lane() as transport:
            answer = await transport.open(request_to(server.base_url))
            connection: Any = answer._connection
            await until(lambda: not connection._transport.is_reading())
            assert answer.parser.unread_bytes <= MAX_UNREAD_BYTES + READ_BYTES
            got = []
            async for chunk in answer.chunks():
                got.append(chunk)
                if len(got) < 5:  # the reader is slow, the server fills whatever is free
                    await until(lambda: not connection._is_reading)
                    assert MAX_UNREAD_BYTES < answer.parser.unread_bytes <= MAX_UNREAD_BYTES + READ_BYTES
            assert b"".join(got) == body
            assert await fetch(transport, server.base_url) == body
            assert server.connections == 1


@on_both_loops
@pytest.mark.parametrize("size", [200_000, 300_000, 8 * MIB])
async def test_a_large_body_arrives_whole(size: int):
    """However slowly the server takes it; the connection is used again after it."""
    body = os.urandom(1000) * (size // 1000)
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        assert await fetch(transport, server.base_url, body) == b"hello"
        assert await fetch(transport, server.base_url, body[::-1]) == b"hello"
        assert [exchange.body for exchange in server.exchanges] == [body, body[::-1]]
        assert server.connections == 1


@on_both_loops
async def test_a_body_that_nobody_reads_waits_where_it_is():
    """It is not copied whole into a buffer."""
    took_over = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.writer.transport.pause_reading()
        took_over.set()
        await asyncio.Event().wait()

    async with RawServer(script, reads_body=False) as server, lane() as transport:
        task = asyncio.create_task(fetch(transport, server.base_url, b"x" * (32 * MIB)))
        await took_over.wait()
        (connection,) = transport.busy
        await until(lambda: not connection._can_write)
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() <= 2 * WRITE_BYTES
        task.cancel()
        await asyncio.wait({task})


@on_both_loops
async def test_an_answer_may_begin_before_the_body_has_been_sent():
    """One that is no refusal gets the rest of it."""
    body = b"x" * (8 * MIB)

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"begun")
        exchange.body = await exchange.reader.readexactly(len(body))
        await exchange.chunk(b"done")
        await exchange.end_stream()

    async with RawServer(script, reads_body=False) as server, lane() as transport:
        answer = await transport.open(request_to(server.base_url, body))
        assert [chunk async for chunk in answer.chunks()] == [b"begun", b"done"]
        assert server.exchanges[0].body == body


@on_both_loops
@pytest.mark.parametrize("answer", [HELLO, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"], ids=["length", "end"])
async def test_an_answer_may_be_whole_before_the_body_has_been_sent(answer: bytes):
    """What of the body comes late must not be read as a request: the connection is done with."""
    body = b"POST /smuggled HTTP/1.1\r\ncontent-length: 0\r\n\r\n" * 200_000

    async def script(exchange: Exchange) -> None:
        exchange.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await exchange.write(answer)
        if answer is not HELLO:
            exchange.writer.write_eof()
        await asyncio.Event().wait()

    async with RawServer(script, reads_body=False) as server, lane() as transport:
        assert await fetch(transport, server.base_url, body) == b"hello"
        assert not transport.busy
        server.script = writing(HELLO)
        assert await fetch(transport, server.base_url, b"") == b"hello"
        assert server.connections == 2
        assert server.paths == ["/", "/"]


@on_both_loops
@pytest.mark.parametrize("status", [400, 413, 503])
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "its head first"])
async def test_row_42_a_refusal_is_taken_while_the_body_is_sent(status: int, slow: bool):
    """The rest is not sent any more, also while the refusal is still on its way; the connection is not used again."""
    body = b"x" * (8 * MIB)
    taken = 0

    async def script(exchange: Exchange) -> None:
        nonlocal taken
        await exchange.write(b"HTTP/1.1 %d No\r\ncontent-length: 9\r\n\r\n" % status)
        if slow:
            with contextlib.suppress(TimeoutError):
                while taken < len(body):
                    taken += len(await asyncio.wait_for(exchange.reader.read(65536), 0.2))
        await exchange.write(b"too large")
        try:
            while part := await exchange.reader.read(65536):
                taken += len(part)
        except ConnectionError:
            pass
        exchange.closed.set()

    async with RawServer(script, reads_body=False) as server, lane() as transport:
        answer = await transport.open(request_to(server.base_url, body))
        assert (answer.status, await answer.read(100)) == (status, b"too large")
        assert transport._pool is not None
        assert transport._pool.idle == 0, "the next request would be taken for the rest of the body"
        await asyncio.wait_for(server.exchanges[0].closed.wait(), 5)
        assert taken < len(body)
        server.script = writing(HELLO)
        assert await fetch(transport, server.base_url, b"") == b"hello"
        assert server.connections == 2


@on_both_loops
async def test_row_42_a_cut_under_a_large_body_may_be_for_its_size():
    """Under a small one it is not."""
    async with RawServer(writing(then="rst"), reads_body=False) as server, lane() as transport:
        error = await failure(transport, server.base_url, b"x" * (4 * MIB))
        assert (error.kind, error.code) == (FailureKind.UPLOAD, "upstream_disconnected")
        assert str(4 * MIB) in error.message
        assert (await failure(transport, server.base_url, b"x")).kind is FailureKind.RESET


# -- requests


@on_both_loops
async def test_a_request_says_what_it_must_and_no_more():
    """Host, the headers given, and a length where there is or could be a body."""
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        host = server.base_url.removeprefix("http://").encode()
        await fetch(transport, f"{server.base_url}/v1/chat?a=b c", b"{}")
        await fetch(transport, server.base_url, b"")
        await fetch(transport, f"{server.base_url}/é", b"", method="GET", headers=[])
        await fetch(transport, server.base_url, b"", method="GET", headers=[(b"Host", b"other"), (b"x", b"")])
        framing = [(b"Content-Length", b"99"), (b"transfer-encoding", b"chunked")]
        await fetch(transport, server.base_url, b"{}", headers=framing)
        json = b"content-type: application/json\r\n"
        assert [exchange.head for exchange in server.exchanges] == [
            b"POST /v1/chat?a=b%%20c HTTP/1.1\r\nhost: %b\r\n%bcontent-length: 2\r\n\r\n" % (host, json),
            b"POST / HTTP/1.1\r\nhost: %b\r\n%bcontent-length: 0\r\n\r\n" % (host, json),
            b"GET /%%C3%%A9 HTTP/1.1\r\nhost: %b\r\n\r\n" % host,
            b"GET / HTTP/1.1\r\nHost: other\r\nx: \r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: %b\r\ncontent-length: 2\r\n\r\n" % host,
        ]


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": [(b"authorization", b"Bearer a\r\nx-evil: 1")]},
        {"headers": [(b"authorization", b"Bearer a\nx-evil: 1")]},
        {"headers": [(b"x", b"\x00")]},
        {"headers": [(b"x: y\r\nz", b"1")]},
        {"headers": [(b"", b"1")]},
        {"headers": [(b"x ", b"1")]},
        {"method": "GET / HTTP/1.1\r\nx"},
    ],
)
async def test_nothing_can_be_slipped_into_a_request(fields: dict[str, Any]):
    """It is not sent at all, and no secret shows in why."""
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        error = await failure(transport, server.base_url, **fields)
        assert (error.kind, error.code) == (FailureKind.PROTOCOL, "upstream_protocol")
        assert "Bearer" not in error.message
        assert server.connections == 0
        await fetch(transport, f"{server.base_url}/a\r\nx-evil: 1\r\n", b"")
        assert b"x-evil: 1\r\n" not in server.exchanges[0].head


@on_both_loops
async def test_an_answer_to_head_has_no_body():
    """Though it tells the length of one."""
    async with RawServer(writing(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")) as server, lane() as transport:
        answer = await transport.open(request_to(server.base_url, b"", method="HEAD"))
        assert (answer.status, answer.headers, await answer.read(9)) == (200, [(b"content-length", b"500")], b"")
        await answer.aclose()


@on_both_loops
async def test_parts_that_come_together_are_one():
    """Nothing is lost by it, and nothing is done for each of them."""
    parts = [b"%d," % number for number in range(400)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    async with RawServer(writing(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)) as server:
        async with lane() as transport:
            answer = await transport.open(request_to(server.base_url))
            got = [chunk async for chunk in answer.chunks()]
            assert len(got) < len(parts) / 2  # it was one write
            assert b"".join(got) == b"".join(parts)


# -- connecting


@on_both_loops
async def test_nobody_listens():
    """As nothing was sent, anybody else may be asked."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    async with lane() as transport:
        error = await failure(transport, url)
        assert (error.kind, error.code, error.status) == (FailureKind.CONNECT, "no_backend", 503)


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://", "/v1", "http://user:pass@h/", "http://h:99999/", "http://[::1/"]
)
async def test_a_url_that_leads_nowhere_is_told(url: str):
    """It is nobody's fault but the configuration's."""
    async with lane() as transport:
        error = await failure(transport, url)
        assert (error.kind, error.code, error.status) == (FailureKind.CONNECT, "no_backend", 503)


@on_both_loops
@pytest.mark.parametrize("name", ["engine-7.invalid", "x" * 64 + ".invalid"], ids=["unknown", "no name at all"])
async def test_row_3_a_name_that_resolves_to_nothing(name: str):
    """And it is not told."""
    async with lane() as transport:
        error = await failure(transport, f"http://{name}:1/")
        assert (error.kind, error.code) == (FailureKind.CONNECT, "upstream_dns")
        assert name not in error.message


@on_both_loops
async def test_row_4_one_clock_covers_all_of_connecting(monkeypatch: pytest.MonkeyPatch):
    """A name that takes for ever is left too."""

    async def never(host: str, port: int) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(dial, "resolve", never)
    async with lane(connect_timeout_s=0.05) as transport:
        error = await failure(transport, "http://engine:1/")
        assert (error.kind, error.code, error.status) == (FailureKind.CONNECT, "upstream_connect_timeout", 504)


def address(port: int) -> dial.Address:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ("127.0.0.1", port)


@on_both_loops
async def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch):
    """At once; and when all refuse, nobody listens."""
    monkeypatch.setattr(dial, "HAPPY_EYEBALLS_DELAY_S", 60)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        found = [address(closed), address(int(server.base_url.rpartition(":")[2]))]

        async def resolve(host: str, port: int) -> list[dial.Address]:
            return found

        monkeypatch.setattr(dial, "resolve", resolve)
        assert await fetch(transport, "http://engine/") == b"hello"
        found[:] = [address(closed), address(closed)]
        assert (await failure(transport, "http://other/")).code == "no_backend"


@on_both_loops
async def test_an_address_that_connects_is_the_only_one_asked(monkeypatch: pytest.MonkeyPatch):
    """The others wait for their turn."""
    connect, asked = dial._connect, []

    async def counting(where: dial.Address) -> socket.socket:
        asked.append(where)
        return await connect(where)

    monkeypatch.setattr(dial, "_connect", counting)
    monkeypatch.setattr(dial, "HAPPY_EYEBALLS_DELAY_S", 60)
    async with RawServer(writing(HELLO)) as server, lane() as transport:
        here = address(int(server.base_url.rpartition(":")[2]))

        async def resolve(host: str, port: int) -> list[dial.Address]:
            return [here, here, here]

        monkeypatch.setattr(dial, "resolve", resolve)
        assert await fetch(transport, "http://engine/") == b"hello"
        assert len(asked) == 1


@on_both_loops
async def test_a_silent_address_is_overtaken(monkeypatch: pytest.MonkeyPatch):
    """The first that connects is taken, the others are closed."""
    monkeypatch.setattr(dial, "HAPPY_EYEBALLS_DELAY_S", 0.01)
    connect, ended = dial._connect, asyncio.Event()

    async def slow(where: dial.Address) -> socket.socket:
        if where[3][1] == 1:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return await connect(where)

    monkeypatch.setattr(dial, "_connect", slow)
    async with RawServer(writing(HELLO)) as server, lane() as transport:

        async def resolve(host: str, port: int) -> list[dial.Address]:
            return [address(1), address(int(server.base_url.rpartition(":")[2]))]

        monkeypatch.setattr(dial, "resolve", resolve)
        assert await fetch(transport, "http://engine/") == b"hello"
        assert ended.is_set()


async def test_a_name_without_an_address_is_none(monkeypatch: pytest.MonkeyPatch):
    """Some resolvers answer with an empty list instead of an error."""

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with lane() as transport:
        assert (await failure(transport, "http://engine/")).code == "upstream_dns"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_fails_once_a_socket_is_connected_is_told_apart(monkeypatch: pytest.MonkeyPatch, scheme: str):
    """A limit of this machine, else the handshake where there is one."""
    reason = errno.ENOBUFS

    async def create_connection(*_: Any, **__: Any) -> Any:
        raise OSError(reason, "no")

    async with RawServer(writing(HELLO)) as server, lane() as transport:
        url = server.base_url.replace("http:", f"{scheme}:")
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
        assert (await failure(transport, url)).code == "gateway_overloaded"
        reason = errno.ECONNRESET
        assert (await failure(transport, url)).code == ("upstream_tls" if scheme == "https" else "no_backend")
        await until(lambda: server.open_connections == 0)


async def test_families_take_turns(monkeypatch: pytest.MonkeyPatch):
    """One family that leads nowhere costs one delay, not one for each of its addresses."""
    inet = [(socket.AF_INET, 1, 6, "", (f"127.0.0.{n}", 1)) for n in range(3)]
    inet6 = [(socket.AF_INET6, 1, 6, "", (f"::{n}", 1, 0, 0)) for n in range(2)]

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [*inet6, *inet]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    families = [family for family, *_ in await dial.resolve("engine", 1)]
    six, four = socket.AF_INET6, socket.AF_INET
    assert families == [six, four, six, four, four]


# -- ends of the transport


@on_both_loops
async def test_a_connection_that_is_lost_before_it_is_used_ends_its_exchange():
    """Nobody waits for an answer on it."""
    async with RawServer(writing(HELLO)) as server:
        origin, head = render_head("POST", server.base_url, ())
        connection = Connection(origin, Pool())
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, origin.host, origin.port)
        connection.abort()
        await until(lambda: server.connections == 1 and server.open_connections == 0)
        exchange = DirectExchange("b", connection, body_bytes=0, reused=False, to_head=False)
        connection.begin(exchange, head + b"content-length: 0\r\n\r\n", b"")
        with pytest.raises(AttemptError) as caught:
            await asyncio.wait_for(exchange.head(), 5)
        assert caught.value.kind is FailureKind.RESET


async def test_a_connection_that_this_machine_could_not_hold_is_nobody_s_fault():
    """Its memory for sockets, say."""
    async with RawServer(silent) as server, lane() as transport:
        task = asyncio.create_task(fetch(transport, server.base_url))
        await server.seen(1)
        (connection,) = transport.busy
        connection._let_go(OSError(errno.ENOBUFS, "no"))
        connection.abort()
        with pytest.raises(AttemptError) as caught:
            await task
        assert (caught.value.kind, caught.value.code) == (FailureKind.LOCAL, "gateway_overloaded")


@on_both_loops
async def test_closing_closes_what_is_idle_and_what_is_under_way():
    """Sockets are closed when it returns; afterwards it can be used again."""

    async def script(exchange: Exchange) -> None:
        await (exchange.gone() if exchange.path == "/slow" else exchange.write(HELLO))

    async with RawServer(script) as server, lane() as transport:
        slow = asyncio.create_task(fetch(transport, f"{server.base_url}/slow"))
        await server.seen(1)
        await fetch(transport, server.base_url)
        await transport.aclose()
        with pytest.raises(AttemptError):
            await slow
        await until(lambda: server.open_connections == 0)
        assert await fetch(transport, server.base_url) == b"hello"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_each_loop_has_connections_of_its_own():
    """Those of a loop that is no more are not touched."""
    async with RawServer(writing(HELLO)) as server:
        transport = DirectTransport()
        for _ in range(3):
            assert await asyncio.to_thread(asyncio.run, fetch(transport, server.base_url)) == b"hello"
        await transport.aclose()
        assert await fetch(transport, server.base_url) == b"hello"
        await transport.aclose()
    gc.collect()  # what the closed loops left behind warns here, where that is expected
