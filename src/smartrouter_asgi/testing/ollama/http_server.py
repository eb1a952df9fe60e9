"""A small HTTP/1.1 server on asyncio: keep-alive, chunked answers, and a client's leaving cancels its request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, cast

from .errors import ConnectionDropped
from .http_parser import BadRequestError, Request, RequestParser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Answering: TypeAlias = Callable[[Request, "Response"], Awaitable[None]]


class HTTPServer:
    """Listens, and gives every request to `handle` in a task that is cancelled when the client leaves."""

    def __init__(self, handle: Answering, on_connections: Callable[[int, int], None]) -> None:
        self.handle = handle
        self.port = 0
        self._on_connections = on_connections
        self._open: set[Connection] = set()
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Accept connections; port 0 means any free one, which `port` then tells."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def drop_connections(self) -> None:
        """Break every open connection and wait until its request has ended."""
        while self._open:
            connections = list(self._open)
            for connection in connections:
                connection.break_off()
            for connection in connections:
                await connection.ended()

    def opened(self, connection: Connection) -> None:
        """Count a new connection."""
        self._open.add(connection)
        self._on_connections(len(self._open), 1)

    def closed(self, connection: Connection) -> None:
        """Count a connection's end."""
        self._open.discard(connection)
        self._on_connections(len(self._open), 0)


class Connection(asyncio.Protocol):
    """One client connection; requests on it are served one after the other."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._parser = RequestParser()
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; a request that arrives amid another waits."""
        self._parser.feed(data)
        if self._task is None:
            self._next()

    def eof_received(self) -> bool:
        """Treat a half-closed connection as a client that left, as Go's server does."""
        self._cancel()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._lost.set()
        self._may_write.set()
        self._cancel()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """Let writers wait for a slow client."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._may_write.set()

    async def write(self, data: bytes) -> None:
        """Send bytes, at the client's pace."""
        self._transport.write(data)
        await self._may_write.wait()

    def break_off(self, *, reset: bool = False) -> None:
        """End the connection now, by RST when `reset`; what is written but not sent yet is lost with RST only."""
        self._cancel()
        if reset:
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif not self._transport.is_closing():
            self._transport.close()

    async def ended(self) -> None:
        """Wait until the connection is closed and no request of it runs."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._transport.abort()
        await self._lost.wait()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _next(self) -> None:
        try:
            request = self._parser.next_request()
        except BadRequestError as exc:
            reason = HTTPStatus(exc.status).phrase
            body = f"{exc.status} {reason}".encode()
            head = f"HTTP/1.1 {exc.status} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            self._transport.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            self._transport.close()
            return
        if request is None:
            if self._parser.wants_continue:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        response = Response(self, request)
        current = asyncio.current_task()
        try:
            await self._server.handle(request, response)
            await response.end()
        except ConnectionDropped as exc:
            self._task = None
            self.break_off(reset=exc.reset)
        except asyncio.CancelledError:
            self._transport.close()
        finally:
            if self._task is current:
                self._task = None
        if not request.keeps_alive or response.ends_connection:
            self._transport.close()
        elif not self._transport.is_closing():
            self._next()


class Response:
    """The answer to one request: either `send` it whole, or `start`, `write` and leave the end to the server."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._chunked = False
        self._ended = False
        self.status: int | None = None
        self.ends_connection = False

    async def send(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send a whole answer; after HEAD only its head."""
        head = self._head(status, content_type if body else "", [*headers, ("content-length", str(len(body)))])
        self._ended = True
        await self._connection.write(head if self._request.method == "HEAD" else head + body)

    async def start(self, status: int, content_type: str) -> None:
        """Send the head of an answer whose length is not known."""
        self._chunked = self._request.minor_version == 1
        self.ends_connection = not self._chunked
        headers = [("transfer-encoding", "chunked")] if self._chunked else [("connection", "close")]
        await self._connection.write(self._head(status, content_type, headers))

    async def write(self, data: bytes) -> None:
        """Send a part of the body, as one chunk."""
        await self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """End the answer; an answer that was never begun is an empty 200."""
        if self.status is None:
            await self.send(200)
        elif not self._ended and self._chunked:
            self._ended = True
            await self._connection.write(b"0\r\n\r\n")

    def _head(self, status: int, content_type: str, headers: Sequence[tuple[str, str]]) -> bytes:
        self.status = status
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"HTTP/1.1 {status} {reason}", f"date: {formatdate(usegmt=True)}"]
        if content_type:
            lines.append(f"content-type: {content_type}")
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
