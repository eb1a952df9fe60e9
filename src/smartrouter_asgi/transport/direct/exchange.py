"""One request and its answer: what the transport hands out."""

from __future__ import annotations

import asyncio

from ...exceptions import AttemptError
from ...types import Headers
from ..causes import cut_off_error, disconnected_error, is_own_limit, local_error, oversized_error, protocol_error
from .connection import Connection
from .parser import AnswerParser


class Exchange:
    """An answer under way. A wait that is cancelled closes the connection."""

    __slots__ = ("_backend", "_body_bytes", "_connection", "_exc", "_reused", "_waiter", "headers", "parser", "status")

    def __init__(self, backend: str, connection: Connection, *, body_bytes: int, reused: bool, to_head: bool) -> None:
        self.parser = AnswerParser(to_head=to_head)
        self.status = 0
        self.headers: Headers = []
        self._backend = backend
        self._body_bytes = body_bytes
        self._reused = reused
        self._connection: Connection | None = connection
        self._waiter: asyncio.Future[None] | None = None
        self._exc: BaseException | None = None

    async def head(self) -> Exchange:
        """Wait for status and headers. Raises `AttemptError`, see `Transport.open`."""
        parser = self.parser
        while not parser.has_head:
            if self._connection is None:
                raise self._failure_before_head()
            await self._wait()
        self.status = parser.status
        self.headers = parser.headers
        return self

    async def read(self, limit: int) -> bytes:
        """Read the whole body; see `HTTPAnswer.read`."""
        parser = self.parser
        if parser.complete and parser.unread_bytes <= limit:
            parts = parser.take()
            return parts[0] if len(parts) == 1 else b"".join(parts)
        parts = []
        size = 0
        while more := await self.parts():
            for part in more:
                size += len(part)
            if size > limit:
                raise oversized_error(self._backend, limit)
            parts += more
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self) -> Chunks:
        """Yield the body as it arrives; see `HTTPAnswer.chunks`."""
        return Chunks(self)

    async def aclose(self) -> None:
        """Close the connection, unless the answer has ended and let go of it already."""
        if self._connection is not None:
            self._connection.abort()

    # -- for the connection

    def wake(self) -> None:
        """Let the reader look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self, exc: BaseException | None) -> None:
        """Let go of the connection."""
        self._connection = None
        self._exc = exc
        self.wake()

    async def parts(self) -> list[bytes]:
        """Return what has come of the body, nothing at its end. Raises `AttemptError` where it breaks off."""
        parser = self.parser
        while True:
            if parser.unread_bytes:
                parts = parser.take()
                if self._connection is not None:
                    self._connection.resume()
                return parts
            if parser.complete:
                return []
            if self._connection is None:
                raise protocol_error(self._backend) if parser.broken else cut_off_error(self._backend)
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        except BaseException:
            if self._connection is not None:
                self._connection.abort()
            raise
        finally:
            self._waiter = None

    def _failure_before_head(self) -> AttemptError:
        if self.parser.broken:
            return protocol_error(self._backend)
        if self._exc is not None and is_own_limit(self._exc):
            return local_error(self._backend)
        stale = self._reused and not self.parser.begun
        return disconnected_error(self._backend, reused=stale, body_bytes=self._body_bytes)


class Chunks:
    """The body of an answer as it arrives; parts that came together are one."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        parts = await self._exchange.parts()
        if len(parts) == 1:
            return parts[0]
        if not parts:
            raise StopAsyncIteration
        return b"".join(parts)

    async def aclose(self) -> None:
        """Ask for no more; the exchange is closed by itself."""
