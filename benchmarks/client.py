"""The connections of the load generator: each writes a request, reads its answer, checks it and notes the times."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from .answers import CHAT_PATH, STAMP

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")


@dataclass(slots=True)
class Tally:
    """What the connections of a window have seen. Times in nanoseconds; kept only while the window is open."""

    open: bool = False
    sent: int = 0
    """Requests since the connections were made, the window being open or not, answered or not."""
    requests: int = 0
    chunks: int = 0
    streams_begun: int = 0
    warm: int = 0
    """Connections that have had an answer, the window being open or not."""
    latency: list[int] = field(default_factory=list)
    first_token: list[int] = field(default_factory=list)
    delay: list[int] = field(default_factory=list)
    """From the stamp inside a chunk to its arrival here."""
    jitter: list[int] = field(default_factory=list)
    """How far the time between two chunks of a stream is from the pace."""
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a connection asks, and how it is to be answered: with `status`, and holding the words `holding`."""

    port: int
    body: bytes
    chunks: int = 0
    pace_ms: int = 0
    status: int = 200
    holding: str = ""

    def rendered(self) -> bytes:
        """Return the request as it goes over the wire."""
        return (
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (CHAT_PATH.encode(), self.port, len(self.body), self.body)
        )


class Connection(asyncio.Protocol):
    """A keep-alive connection in a closed loop: the next request goes out when the last one is answered.

    The first one goes out when it is told that it is `ready`.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_holding",
        "_last_chunk",
        "_pace_ns",
        "_request",
        "_seen",
        "_start",
        "_streaming",
        "_tally",
        "_text",
        "_transport",
        "_warm",
        "began",
    )

    def __init__(self, tally: Tally, exchange: Exchange) -> None:
        self._tally = tally
        self._start = b"HTTP/1.1 %d" % exchange.status
        self._holding = exchange.holding.encode()
        self._chunks = exchange.chunks
        self._pace_ns = exchange.pace_ms * 1_000_000
        self._request = exchange.rendered()
        self._transport: asyncio.Transport | None = None
        self._warm = False
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""
        self._text = b""
        self._streaming = False
        self._seen = 0
        self._last_chunk = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._fail("the server closed a connection")

    def close(self) -> None:
        """Leave, in the middle of an answer or not."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def ready(self) -> None:
        """Do what comes when nothing is under way."""
        self.send(time.monotonic_ns())

    def send(self, began: int) -> None:
        """Write the request; its times count from `began`."""
        self._reset()
        self.began = began
        if self._transport is not None:
            self._tally.sent += 1
            self._transport.write(self._request)

    def _fail(self, what: str) -> None:
        self._tally.errors.append(what)
        self.close()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._buffer:
            data = self._buffer + data
        if self._streaming:
            self._read_stream(data, now)
            return
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._buffer = data
            return
        if not data.startswith(self._start):
            self._fail(data[:300].decode("latin-1"))
            return
        length = _LENGTH.search(data, 0, head)
        if length is None:
            self._streaming = True
            self._read_stream(data[head + 4 :], now)
        elif len(data) >= head + 4 + int(length[1]):
            if self._holding in data:
                self._complete(now)
            else:
                self._fail(data[:300].decode("latin-1"))
        else:
            self._buffer = data

    def _read_stream(self, data: bytes, now: int) -> None:
        """Take the chunks of the transfer encoding apart; a proxy may have cut them anew."""
        at, parts, ended = 0, [self._text], False
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line], 16)
            stop = line + 2 + size
            if len(data) < stop + 2:
                break
            parts.append(data[line + 2 : stop])
            at = stop + 2
            if size == 0:
                ended = True
                break
        self._buffer = data[at:]
        self._note_stamps(b"".join(parts), now)
        if ended:
            if self._seen != self._chunks or b"[DONE]" not in self._text:
                self._fail(f"a stream ended after {self._seen} of {self._chunks} chunks: {self._text[-300:]!r}")
            else:
                self._complete(now)

    def _note_stamps(self, text: bytes, now: int) -> None:
        tally, seen, end = self._tally, 0, 0
        for stamp in STAMP.finditer(text):
            seen, end = seen + 1, stamp.end()
            if tally.open:
                tally.delay.append(now - int(stamp[1]))
        self._text = text[end:]
        if seen and self._pace_ns:
            if tally.open and self._last_chunk:
                tally.jitter.append(abs(now - self._last_chunk - self._pace_ns))
            self._last_chunk = now
        if seen and self._seen == 0:
            tally.streams_begun += 1
            if tally.open:
                tally.first_token.append(now - self.began)
        self._seen += seen
        if tally.open:
            tally.chunks += seen

    def _complete(self, now: int) -> None:
        tally = self._tally
        if not self._warm:
            self._warm = True
            tally.warm += 1
        if tally.open:
            tally.requests += 1
            tally.latency.append(now - self.began)
        self.ready()


class Leaver(Connection):
    """A connection that is closed by the client, in the middle of a stream, as soon as the first chunk is there."""

    __slots__ = ("left",)

    def __init__(self, tally: Tally, exchange: Exchange) -> None:
        super().__init__(tally, exchange)
        self.left = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._seen:
            self.close()

    def close(self) -> None:
        super().close()
        self.left.set()
