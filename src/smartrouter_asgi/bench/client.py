"""One connection of the load: it writes a request and keeps when each part of the answer came, and does no more."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ..transport.causes import connect_error, connect_timeout_error
from ..transport.direct.dial import dial
from ..transport.direct.head import Origin, render_head
from ..transport.direct.parser import AnswerParser
from ..transport.direct.tls import default_context
from .plan import Dialect

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 3.0
"""A connection that has waited this long is made anew before the clock starts: many servers close theirs after 5 s."""


class CutOffError(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one side's requests go."""

    url: str
    headers: Sequence[tuple[bytes, bytes]]
    model: str
    """The name by which this side knows the model."""
    dialect: Dialect = "openai"
    secret: str = ""
    """The key among the headers; it shows in no message."""

    def __repr__(self) -> str:
        return f"Target({self.url!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came, and when. All times are `time.perf_counter()`."""

    status: int
    sent_at: float
    """When the request's last byte was written."""
    ended_at: float
    parts: tuple[tuple[float, bytes], ...]
    """The body in the parts in which it arrived."""

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(part for _, part in self.parts)


class Line:
    """A place in the load: one request at a time, over a connection that is kept while it can be."""

    def __init__(self, target: Target, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._origin, self._head = render_head("POST", target.url, tuple(target.headers))
        self._tls = tls
        self._wire: _Wire | None = None

    async def ask(self, body: bytes, *, timeout_s: float) -> Answer:
        """Send a request and read the whole answer.

        Raises `TimeoutError`, `CutOffError`, or `AttemptError` when there is no connection. A kept connection that
        turns out to be closed is replaced and the clock started anew.
        """
        async with asyncio.timeout(timeout_s):
            wire, fresh = await self._connected()
            try:
                answer = await wire.ask(self._head, body)
                if answer is None and not fresh:
                    self.close()
                    wire, _ = await self._connected()
                    answer = await wire.ask(self._head, body)
            except BaseException:
                self.close()
                raise
        if answer is None:
            raise CutOffError("the connection was closed before an answer")
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _connected(self) -> tuple[_Wire, bool]:
        wire = self._wire
        if wire is not None and wire.usable and time.perf_counter() - wire.used_at < IDLE_S:
            return wire, False
        self.close()
        self._wire = wire = await _connect(self._origin, self._tls)
        return wire, True


async def _connect(origin: Origin, tls: ssl.SSLContext | None) -> _Wire:
    context = (tls or default_context()) if origin.scheme == "https" else None
    name = f"{origin.host}:{origin.port}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            sock = await dial(origin.host, origin.port)
            try:
                _, wire = await asyncio.get_running_loop().create_connection(
                    _Wire, sock=sock, ssl=context, server_hostname=origin.host if context is not None else None
                )
            except BaseException:
                sock.close()
                raise
    except TimeoutError as exc:
        raise connect_timeout_error(name) from exc
    except (OSError, UnicodeError, ExceptionGroup) as exc:
        raise connect_error(name, exc) from exc
    return wire


class _Wire(asyncio.Protocol):
    """The connection itself."""

    def __init__(self) -> None:
        self.used_at = time.perf_counter()
        self._transport: asyncio.Transport | None = None
        self._parser: AnswerParser | None = None
        self._ended: asyncio.Future[float] | None = None
        self._parts: list[tuple[float, bytes]] = []
        self._sent_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> Answer | None:
        """Send and read; None when the connection was closed before a byte of an answer. Raises `CutOffError`."""
        transport = self._transport
        if transport is None:
            return None
        self._parser = parser = AnswerParser()
        self._parts = []
        self._ended = asyncio.get_running_loop().create_future()
        transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self._sent_at = time.perf_counter()
        ended_at = await self._ended
        self._parser = self._ended = None
        if not parser.begun:
            return None
        if not parser.complete:
            raise CutOffError("the answer broke off" if not parser.broken else "the answer is not HTTP as it should be")
        self.used_at = ended_at
        if not parser.reusable:
            self.close()
        return Answer(status=parser.status, sent_at=self._sent_at, ended_at=ended_at, parts=tuple(self._parts))

    def close(self) -> None:
        """Close the socket now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn what to write to, and want to hear when all is written."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)

    def resume_writing(self) -> None:
        """Note when a body that did not fit into the socket at once had gone out."""
        self._sent_at = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        """Note the time first, then look at what has come."""
        now = time.perf_counter()
        parser = self._parser
        if parser is None:
            self.close()
            return
        parser.feed(data)
        if parser.unread_bytes:
            self._parts.append((now, b"".join(parser.take())))
        if parser.complete or parser.broken:
            self._end(now)

    def eof_received(self) -> None:
        """Read the end of an answer that has no other one."""
        if self._parser is not None:
            self._parser.finish()
            self._end(time.perf_counter())

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what was under way."""
        self._transport = None
        self._end(time.perf_counter())

    def _end(self, now: float) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(now)
