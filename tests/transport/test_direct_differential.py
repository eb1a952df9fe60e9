"""The direct lane next to httpx and aiohttp, all asking one server: the same answer, or none for the same reason."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import aiohttp
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.transport.http import Transport
from smartrouter_asgi.transport.httpx_transport import HttpxTransport
from smartrouter_asgi.types import Headers

from ..harness.servers import Exchange, RawServer
from .lanes import request_to
from .test_direct_parser import BROKEN, LAST, OK, SAID_TWICE, WHOLE, cut


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client got."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


Outcome: TypeAlias = Answer | FailureKind
"""An answer, or why there was none: its connection was cut (`RESET`), or it broke HTTP (`PROTOCOL`)."""


class Trial:
    """One server that says what it is told to, then ends the connection; and three clients, on one loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._pieces: list[bytes] = []
        self.method = "POST"

    def __enter__(self) -> Trial:
        self._runner.run(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def direct(self, *pieces: bytes) -> Outcome:
        """Return what the lane makes of an answer that is written in these pieces."""
        return self._run(pieces, self._over(self._direct))

    def httpx(self, *pieces: bytes) -> Outcome:
        """Return what httpx makes of it."""
        return self._run(pieces, self._over(self._httpx))

    def aiohttp(self, *pieces: bytes) -> Outcome:
        """Return what aiohttp makes of it."""
        return self._run(pieces, self._over_aiohttp())

    async def _start(self) -> None:
        enter = self._stack.enter_async_context
        self._server = await enter(RawServer(self._script))
        self._direct = DirectTransport()
        self._stack.push_async_callback(self._direct.aclose)
        limits = httpx.Limits(max_keepalive_connections=0)
        self._httpx = HttpxTransport(await enter(httpx.AsyncClient(trust_env=False, limits=limits)))
        connector = aiohttp.TCPConnector(force_close=True)
        self._aiohttp = await enter(aiohttp.ClientSession(connector=connector, auto_decompress=False))

    async def _script(self, exchange: Exchange) -> None:
        for piece in self._pieces:
            await exchange.write(piece)
            await asyncio.sleep(0)
        exchange.writer.close()

    def _run(self, pieces: tuple[bytes, ...], work: Coroutine[None, None, Outcome]) -> Outcome:
        self._pieces = [piece for piece in pieces if piece]
        return self._runner.run(asyncio.wait_for(work, 10))

    async def _over(self, transport: Transport) -> Outcome:
        try:
            answer = await transport.open(request_to(self._server.base_url, method=self.method))
            try:
                body = await answer.read(1 << 20)
            finally:
                await answer.aclose()
        except AttemptError as exc:
            if exc.kind is FailureKind.STALE:  # of the answer before
                return await self._over(transport)
            return exc.kind
        return Answer(status=answer.status, headers=_sorted(answer.headers), body=body)

    async def _over_aiohttp(self) -> Outcome:
        try:
            async with self._aiohttp.request(self.method, self._server.base_url, data=b"{}") as response:
                body = await response.read()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError):
            return FailureKind.RESET
        except (aiohttp.ClientError, ValueError):
            return FailureKind.PROTOCOL
        return Answer(status=response.status, headers=_sorted(response.raw_headers), body=body)


def _sorted(headers: Headers | tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted((name.lower(), value) for name, value in headers))


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with Trial() as made:
        yield made


CUT = [
    b"",
    b"HTT",
    OK,
    OK + b"content-length: 5\r\n\r\n",
    OK + b"content-length: 5\r\n\r\nhell",
    OK + b"transfer-encoding: chunked\r\n\r\n",
    OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhel",
    OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
]


@pytest.mark.parametrize("data", [*WHOLE, *LAST, OK + b"\r\nto the end", OK + b"connection: close\r\n\r\n"])
def test_all_three_read_the_same_answer(trial: Trial, data: bytes):
    """Status, headers and body."""
    direct = trial.direct(data)
    assert isinstance(direct, Answer)
    assert direct == trial.httpx(data)
    assert direct == trial.aiohttp(data)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"content-length: 500\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n",
        OK + b"x: y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"content-length: 5\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n",
    ],
)
def test_all_three_read_the_same_answer_to_head(trial: Trial, monkeypatch: pytest.MonkeyPatch, data: bytes):
    """Without a body, whatever it says of one."""
    monkeypatch.setattr(trial, "method", "HEAD")
    direct = trial.direct(data)
    assert isinstance(direct, Answer)
    assert direct.body == b""
    assert direct == trial.httpx(data)
    assert direct == trial.aiohttp(data)


@pytest.mark.parametrize("data", SAID_TWICE)
def test_a_length_may_be_said_twice(trial: Trial, data: bytes):
    """Where both are the same; aiohttp does not take it."""
    direct = trial.direct(data)
    assert isinstance(direct, Answer)
    assert direct == trial.httpx(data)


@pytest.mark.parametrize("data", CUT)
def test_all_three_tell_an_answer_that_was_cut(trial: Trial, data: bytes):
    """None of them takes the part for the whole."""
    assert trial.direct(data) is FailureKind.RESET
    assert trial.httpx(data) is FailureKind.RESET
    assert not isinstance(trial.aiohttp(data), Answer)


@pytest.mark.parametrize("data", BROKEN)
def test_what_leaves_the_end_in_doubt_is_refused(trial: Trial, data: bytes):
    """Some of these the libraries take, folded headers for one; the lane takes none."""
    assert trial.direct(data) is FailureKind.PROTOCOL


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.sampled_from([*WHOLE, *LAST, *BROKEN]),  # of a length said twice there is one judge only, strict elsewhere
    places=st.lists(st.integers(0, 500), max_size=4),
    at=st.integers(0, 200),
    change=st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"0", b": ", b" ", b"chunked", b"5"]),
    skipped=st.integers(0, 3),
)
def test_whatever_the_lane_takes_for_an_answer_another_takes_too(
    trial: Trial, data: bytes, places: list[int], at: int, change: bytes, skipped: int
):
    """Of bytes that were tampered with; aiohttp is asked last, for it waits for ever where some of them break."""
    at %= len(data) + 1
    pieces = cut(data[:at] + change + data[at + skipped :], places)
    direct = trial.direct(*pieces)
    if isinstance(direct, Answer):
        assert direct == trial.httpx(*pieces) or direct == trial.aiohttp(*pieces)
    else:
        assert direct in (FailureKind.RESET, FailureKind.PROTOCOL)
