"""Clients on plain sockets: what they send is bytes, and they may leave whenever they like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

PATIENCE_S = 5.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection to a server, closed at the end."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


def post(body: bytes, extra: bytes = b"") -> bytes:
    """A chat request as it goes over the wire; `extra` are whole lines of its head."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n" % (len(body), extra)
    return head + body


@asynccontextmanager
async def raw_request(url: str, body: dict[str, Any]) -> AsyncIterator[Connection]:
    """A chat request that is sent; its client leaves at the end."""
    async with connected(url) as (reader, writer):
        writer.write(post(json.dumps(body).encode()))
        await writer.drain()
        yield reader, writer


async def exchange(url: str, data: bytes) -> bytes:
    """Send bytes and read until the server ends the connection, with a reset where it has not read them all."""
    answer = b""
    async with connected(url) as (reader, writer), asyncio.timeout(PATIENCE_S):
        writer.write(data)
        try:
            while part := await reader.read(65536):
                answer += part
        except ConnectionError:
            pass
    return answer


def statuses_of(answer: bytes) -> list[int]:
    """The statuses of the answers on one connection."""
    return [int(part[1:4]) for part in answer.split(b"HTTP/1.1")[1:]]
