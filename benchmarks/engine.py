"""A mock OpenAI-compatible engine, as cheap as Python allows: `python -m benchmarks.engine`.

It prints `{"port": ...}` and serves on 127.0.0.1 until its standard input ends or its time is over.
"""

from __future__ import annotations

import asyncio
import re

from .answers import ANSWER, LAST_EVENTS, MODELS, ROLE_EVENT, framed, framed_stamp, wanted
from .child import run_child, served

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")
_PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_PLAIN = _PLAIN_HEAD % len(ANSWER) + ANSWER
_MODELS = _PLAIN_HEAD % len(MODELS) + MODELS
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + framed(ROLE_EVENT)
)
_STREAM_END = framed(LAST_EVENTS) + b"0\r\n\r\n"


class EngineProtocol(asyncio.Protocol):
    """One connection. Requests come one after the other, as HTTP/1.1 clients without pipelining send them."""

    __slots__ = ("_buffer", "_due", "_left", "_loop", "_pace_s", "_timer", "_transport", "_write")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = bytearray()
        self._due = 0
        """How long the request is that is coming in, once its head is there."""
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._pace_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._write = transport.write  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._due:
                return
            data = bytes(self._buffer)
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head) if head >= 0 else None
        self._due = head + 4 + int(length[1]) if length is not None else 0
        if head < 0 or len(data) < self._due:
            if not self._buffer:
                self._buffer += data
            return
        self._buffer.clear()
        self._due = 0
        self.answer(data)

    def answer(self, request: bytes) -> None:
        """Answer one whole request."""
        if request.startswith(b"GET"):
            self._write(_MODELS)
            return
        stream = wanted(request)
        if stream is None:
            self._write(_PLAIN)
        else:
            self._stream(*stream)

    def _stream(self, chunks: int, pace_s: float) -> None:
        if pace_s == 0:
            self._write(b"".join((STREAM_HEAD, *[framed_stamp() for _ in range(chunks)], _STREAM_END)))
            return
        self._left, self._pace_s = chunks - 1, pace_s
        self._write(STREAM_HEAD + framed_stamp())
        self._timer = self._loop.call_later(pace_s, self._tick)

    def _tick(self) -> None:
        if self._left > 0:
            self._left -= 1
            self._write(framed_stamp())
            self._timer = self._loop.call_later(self._pace_s, self._tick)
        else:
            self._timer = None
            self._write(_STREAM_END)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EngineProtocol(loop), "127.0.0.1", 0, backlog=2048)
    await served(server.sockets[0].getsockname()[1])
    server.close()


if __name__ == "__main__":
    run_child(serve)
