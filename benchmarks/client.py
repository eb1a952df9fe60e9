"""One connection of the load generator: writes a request, reads its answer, notes the times, begins again."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from .answers import CHAT_PATH, STAMP, chat_body

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
    latency: list[int] = field(default_factory=list)
    first_token: list[int] = field(default_factory=list)
    delay: list[int] = field(default_factory=list)
    """From the stamp inside a chunk to its arrival here."""
    errors: list[str] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """A keep-alive connection in a closed loop; an answer must have `status` and hold the words `holding`."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_holding",
        "_request",
        "_seen",
        "_start",
        "_streaming",
        "_tally",
        "_text",
        "_transport",
        "began",
    )

    def __init__(
        self, tally: Tally, chunks: int, pace_ms: int, port: int, *, status: int = 200, holding: str = ""
    ) -> None:
        self._tally = tally
        self._start = b"HTTP/1.1 %d" % status
        self._holding = holding.encode()
        self._chunks = chunks
        body = chat_body(chunks, pace_ms)
        self._request = (
            b"POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (CHAT_PATH.encode(), port, len(body), body)
        )
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""
        self._text = b""
        self._streaming = False
        self._seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._fail("the server closed a connection")

    def close(self) -> None:
        """Leave, in the middle of an answer or not."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _send(self) -> None:
        self._reset()
        self.began = time.monotonic_ns()
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
        if seen and self._seen == 0:
            tally.streams_begun += 1
            if tally.open:
                tally.first_token.append(now - self.began)
        self._seen += seen
        if tally.open:
            tally.chunks += seen

    def _complete(self, now: int) -> None:
        tally = self._tally
        if tally.open:
            tally.requests += 1
            tally.latency.append(now - self.began)
        self._send()
