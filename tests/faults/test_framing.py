"""Answers that break HTTP, their encoding or their dialect: another candidate, a status or an error event."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from ..harness.answers import error_code, last_error
from ..harness.engines import ANSWER, ROLE, STREAM, chunk, good
from ..harness.gateways import gateway_over
from ..harness.servers import Exchange, RawServer, Script

PLAIN = json.dumps(ANSWER).encode()
EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def saying(data: bytes, *, once: bool = False) -> Script:
    """An engine that answers with these bytes, every time or the first time only."""
    said = False

    async def script(exchange: Exchange) -> None:
        nonlocal said
        if said and once:
            await good(exchange)
            return
        said = True
        await exchange.write(data)

    return script


def as_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# -- row 21

OVERLAP = [
    JSON_HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + as_chunk(PLAIN) + b"0\r\n\r\n",
    JSON_HEAD + b"transfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n" % len(PLAIN) + PLAIN,
    JSON_HEAD + b"content-length: %d\r\ncontent-length: 5\r\n\r\n" % len(PLAIN) + PLAIN,
    JSON_HEAD + b"content-length: +%d\r\n\r\n" % len(PLAIN) + PLAIN,
    JSON_HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + as_chunk(PLAIN) + b"0\r\n\r\n",
    JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + PLAIN,
    JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n" + PLAIN,
    JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + as_chunk(PLAIN)[:-2] + b"XX0\r\n\r\n",
    JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + as_chunk(PLAIN) + b"0\r\nno trailer\r\n\r\n",
]


NO_BREAKER = {"circuit_breaker": {"enabled": False}}


async def test_row_21_an_answer_whose_end_is_a_matter_of_taste_is_refused():
    """502 of a lone engine, else the next candidate answers; its connection is never used again."""
    async with RawServer(good) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine, resilience=NO_BREAKER) as gateway:
            for answer in OVERLAP:
                bad.script = saying(answer)
                response = await gateway.ask()
                assert (response.json(), response.headers["x-smartrouter-attempts"]) == (ANSWER, "2"), answer
            bad.script = good
        assert bad.connections == len(bad.exchanges)
        async with gateway_over(bad, resilience=NO_BREAKER) as gateway:
            for answer in OVERLAP:
                bad.script = saying(answer)
                assert error_code(await gateway.ask()) == (502, "upstream_protocol"), answer
            bad.script = good


async def test_row_21_an_answer_that_breaks_http_counts_for_the_breaker():
    """No engine that works sends one."""
    async with RawServer(saying(OVERLAP[0])) as bad, RawServer(good) as engine, gateway_over(bad, engine) as gateway:
        await gateway.ask()
        assert gateway.breaker("b1") == "open"


@pytest.mark.parametrize("garbage", [b"zz\r\nabc", as_chunk(chunk("lo"))[:-2] + b"XX", b"5;" + b"x" * 200_000])
async def test_row_21_framing_that_breaks_under_a_stream_is_told(garbage: bytes):
    """What was delivered stays, then one error event."""
    begun = as_chunk(ROLE + chunk("Hel"))
    async with RawServer(saying(EVENT_STREAM + b"transfer-encoding: chunked\r\n\r\n" + begun + garbage)) as bad:
        async with RawServer(good) as engine, gateway_over(bad, engine) as gateway:
            response = await gateway.ask(stream=True)
            assert response.content.startswith(ROLE + chunk("Hel"))
            assert last_error(response)["code"] == "upstream_protocol"
            bad.script = good


SMUGGLED = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"smuggled":1}'


@pytest.mark.parametrize(
    ("answer", "stream", "status"),
    [
        (JSON_HEAD + b"content-length: %d\r\n\r\n" % len(PLAIN) + PLAIN, False, 200),
        (JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + as_chunk(PLAIN) + b"0\r\n\r\n", False, 200),
        (
            EVENT_STREAM + b"transfer-encoding: chunked\r\n\r\n" + as_chunk(b"".join(STREAM)) + b"0\r\n\r\n",
            True,
            200,
        ),
        (b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\n{}", False, 400),
        (b"HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n", False, 400),
        (b"HTTP/1.1 204 X\r\n\r\n", False, 502),
    ],
    ids=["length", "chunked", "stream", "error", "empty error", "no content"],
)
async def test_row_21_bytes_after_an_answer_are_nobody_s_answer(answer: bytes, stream: bool, status: int):
    """The next request gets its own, over another connection."""
    async with RawServer(saying(answer + SMUGGLED, once=True)) as engine:
        async with gateway_over(engine, resilience=NO_BREAKER) as gateway:
            response = await gateway.ask(stream=stream)
            assert response.status_code == status
            response = await gateway.ask()
            assert response.json() == ANSWER
    assert engine.connections == 2


# -- row 23

BOMB = gzip.compress(b'{"x":"' + b"0" * 50_000_000 + b'"}')


def encoded(encoding: str, body: bytes, *, status: int = 200, kind: str = "application/json") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, kind, f"content-encoding: {encoding}\r\n" if encoding else "")

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", BOMB), ("gzip", b"no gzip at all"), ("br", b"\x0b\x02\x80"), ("zstd", b"("), ("gzip, gzip", BOMB)],
    ids=["bomb", "bad", "br", "zstd", "twice"],
)
async def test_row_23_an_encoding_nobody_asked_for_is_refused_undecoded(encoding: str, body: bytes, stream: bool):
    """502; memory stays flat."""
    kind = "text/event-stream" if stream else "application/json"
    async with RawServer(encoded(encoding, body, kind=kind)) as bad, RawServer(good) as engine:
        async with gateway_over(bad, engine) as gateway:
            tracemalloc.start()
            try:
                response = await gateway.ask(stream=stream)
                peak_bytes = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert response.headers["x-smartrouter-attempts"] == "2"
            assert peak_bytes < 10_000_000
            bad.script = good
        bad.script = encoded(encoding, body, kind=kind)
        async with gateway_over(bad, serves_on=False) as gateway:
            assert error_code(await gateway.ask(stream=stream)) == (502, "upstream_protocol")


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_row_23_an_error_is_read_without_being_decoded(encoding: str):
    """Its status says enough; packed bytes under 200 that call themselves JSON are none."""
    async with RawServer(encoded(encoding, BOMB, status=503)) as bad:
        async with gateway_over(bad, serves_on=False, resilience={"retry": {"enabled": False}}) as gateway:
            response = await gateway.ask()
            assert error_code(response) == (503, "upstream_error")
            assert len(response.content) < 1000
        bad.script = encoded("", BOMB)
        async with gateway_over(bad, serves_on=False) as gateway:
            assert error_code(await gateway.ask()) == (502, "upstream_error")
