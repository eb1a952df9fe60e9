"""What the tests of the direct lane share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.transport.http import HTTPRequest, Transport

from ..harness.servers import Exchange, Script
from ..harness.waiting import until

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


def request_to(url: str, body: bytes = b"{}", **fields: Any) -> HTTPRequest:
    """A request as a backend makes it."""
    headers = [(b"content-type", b"application/json")]
    return HTTPRequest(**{"backend": "b", "method": "POST", "url": url, "headers": headers, "body": body, **fields})


async def fetch(transport: Transport, url: str, body: bytes = b"{}", **fields: Any) -> bytes:
    """Ask once and read the whole answer."""
    answer = await transport.open(request_to(url, body, **fields))
    try:
        return await answer.read(1 << 30)
    finally:
        await answer.aclose()


def writing(*pieces: bytes, then: str = "") -> Script:
    """A server that answers with these bytes, one write each, and then ends: fin, rst, half; by default it goes on."""

    async def script(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.write(piece)
        if then == "fin":
            exchange.writer.close()
        elif then == "rst":
            exchange.reset()
        elif then == "half":
            exchange.writer.write_eof()
            await exchange.gone()

    return script


@asynccontextmanager
async def lane(**settings: Any) -> AsyncIterator[DirectTransport]:
    """A transport that has nothing under way once all is over."""
    transport = DirectTransport(**settings)
    try:
        yield transport
        await until(lambda: not transport.busy, within_s=5)
    finally:
        await transport.aclose()
