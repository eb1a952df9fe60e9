"""One connection: bytes in, bytes out, one exchange at a time. What the bytes mean is the parser's business."""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from .head import Origin
from .parser import AnswerParser

MAX_UNREAD_BYTES = 64 * 1024
"""Of a body that nobody takes: beyond it nothing more is read."""
WRITE_BYTES = 256 * 1024
"""A large body goes out in pieces of this size, so that it is not copied whole into a buffer."""


class Ending(Protocol):
    """The exchange as its connection sees it."""

    parser: AnswerParser

    def wake(self) -> None:
        """Look at the parser again."""

    def end(self, exc: BaseException | None) -> None:
        """Hear that nothing more comes: the connection is lost, or carries another exchange from now on."""


class Home(Protocol):
    """The pool as its connections see it."""

    def add(self, connection: Connection) -> None:
        """Count a connection that was made."""

    def give(self, connection: Connection) -> None:
        """Take a connection back that may be used again."""

    def forget(self, connection: Connection) -> None:
        """Hear that a connection is no more."""


class Connection(asyncio.Protocol):
    """A connection to an origin. It is aborted whenever anything happens on it that nobody asked for.

    An exchange that has ended lets go of it at once: given back when it can be used again, else closed.
    """

    __slots__ = (
        "_can_write",
        "_exchange",
        "_has_input",
        "_is_cut",
        "_is_reading",
        "_pool",
        "_transport",
        "_unsent",
        "idle_since",
        "is_idle",
        "origin",
    )

    def __init__(self, origin: Origin, pool: Home) -> None:
        self.origin = origin
        self.idle_since = 0.0
        """When it was given back, on the loop's clock."""
        self.is_idle = False
        """The pool has it, and may give it to the next request."""
        self._pool = pool
        self._exchange: Ending | None = None
        self._transport: asyncio.Transport | None = None
        self._has_input: Callable[[], bool] = lambda: True
        self._unsent: memoryview | None = None
        self._is_cut = False
        """A body was not sent to its end: what comes after it would be taken for the rest of it."""
        self._can_write = True
        self._is_reading = True

    # -- for the exchange and the pool

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._exchange is not None

    @property
    def is_quiet(self) -> bool:
        """Whether an idle connection is open and silent: even what the loop has not read yet rules it out."""
        return self._transport is not None and not self._transport.is_closing() and not self._has_input()

    def begin(self, exchange: Ending, head: bytes, body: bytes) -> None:
        """Send a request; what comes is fed to the exchange's parser, which is woken."""
        self._exchange = exchange
        transport = self._transport
        if transport is None:
            self._let_go(None)
        elif len(body) <= WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = memoryview(body)
            self._send_more()

    def resume(self) -> None:
        """Read on, if reading was paused."""
        if not self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the socket now, whatever was under way; TLS's words of farewell would be waited for."""
        self._unsent = None
        if self._transport is not None:
            self._transport.abort()
        self._let_go(None)

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn what to write to."""
        self._transport = cast(asyncio.Transport, transport)
        self._pool.add(self)
        self._has_input = _input_check(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        exchange = self._exchange
        if exchange is None:  # words of nobody's: the next request must not take them for its answer
            self.abort()
            return
        parser = exchange.parser
        parser.feed(data)
        if parser.complete:
            self._complete(parser)
        elif parser.broken:
            self.abort()
        else:
            if parser.unread_bytes > MAX_UNREAD_BYTES and self._is_reading and self._transport is not None:
                self._is_reading = False
                self._transport.pause_reading()
            if self._unsent is not None and parser.status >= 400:
                self._unsent = None  # refused already: what was not sent yet will not be read
                self._is_cut = True
            exchange.wake()

    def eof_received(self) -> None:
        """Read the end: of an answer that has no other one, else of everything."""
        exchange = self._exchange
        if exchange is not None:
            if self._transport is not None and _is_meant(self._transport):
                exchange.parser.finish()
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell exchange and pool."""
        self._transport = self._unsent = None
        self._pool.forget(self)
        self._let_go(exc)

    def pause_writing(self) -> None:
        """Hold the rest of a body back."""
        self._can_write = False

    def resume_writing(self) -> None:
        """Send on."""
        self._can_write = True
        self._send_more()

    def _send_more(self) -> None:
        while self._unsent is not None and self._can_write and self._transport is not None:
            piece, rest = self._unsent[:WRITE_BYTES], self._unsent[WRITE_BYTES:]
            self._unsent = rest if rest else None
            self._transport.write(piece)

    def _complete(self, parser: AnswerParser) -> None:
        transport = self._transport
        unsent = (
            self._is_cut
            or self._unsent is not None
            or (transport is not None and transport.get_write_buffer_size() > 0)
        )
        if unsent or not parser.reusable:
            self.abort()
            return
        self.resume()
        self._let_go(None)
        self._pool.give(self)

    def _let_go(self, exc: BaseException | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(exc)


def _is_meant(transport: asyncio.Transport) -> bool:
    """Tell whether the other side has ended the stream: under TLS by its farewell, for a mere end anybody can make."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return bool(tls.read(1) == b"")  # asyncio tells of both ends alike; without a farewell, more is waited for
    except ssl.SSLError:
        return False


def _input_check(fileno: int) -> Callable[[], bool]:
    """Return a function that tells whether a socket has something to read: bytes, an end or an error."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([fileno], [], [], 0)[0])
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return lambda: bool(poll.poll(0))
