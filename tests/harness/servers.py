"""Real servers on loopback, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn


class PromptServer(uvicorn.Server):
    """Hears of its end at once; uvicorn's own looks for it ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told_to_end = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.told_to_end.wait()


@asynccontextmanager
async def serve(app: Any, *, lifespan: str = "auto", http: str = "auto") -> AsyncIterator[str]:
    """Serve an ASGI app with uvicorn and yield its base URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", lifespan=lifespan, http=http, timeout_graceful_shutdown=2
    )
    server = PromptServer(config)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: or Nagle's waits come in
    listener.bind(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve([listener]))
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.told_to_end.set()
        await task
        listener.close()


@dataclass
class Exchange:
    """One request a raw server has read, and the means to answer it byte by byte."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode()
        return None

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        await self.write(head.encode() + body)

    async def start_stream(self, content_type: str = "text/event-stream") -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        await self.write(head.encode())

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Cut the connection with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the other side has closed the connection."""
        try:
            while await self.reader.read(4096):
                pass
        except ConnectionError:
            pass
        self.closed.set()


Script = Callable[[Exchange], Awaitable[None]]


class RawServer:
    """A server of scripted bytes: each request is handed to `script`, connections are kept alive between them.

    `greet` gets each new connection before anything of a request is read, as an exchange without one; a connection it
    closes brings no request. `tls` is for servers that speak it. With `reads_body` off the script gets a request whose
    body is still on its way.
    """

    def __init__(
        self,
        script: Script,
        *,
        greet: Script | None = None,
        tls: ssl.SSLContext | None = None,
        reads_body: bool = True,
    ) -> None:
        self.script = script
        self.greet = greet
        self.exchanges: list[Exchange] = []
        self.connections = 0
        """How many have ever come."""
        self.open_connections = 0
        self.busy = 0
        """Requests under way: begun and not answered, or not to the end."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self._tls = tls
        self._reads_body = reads_body
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()
        self.base_url = ""

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        scheme = "http" if self._tls is None else "https"
        self.base_url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def seen(self, count: int) -> Exchange:
        """Wait until `count` requests have come and return the last of them."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.exchanges) >= count)
        return self.exchanges[count - 1]

    @property
    def paths(self) -> list[str]:
        return [exchange.path for exchange in self.exchanges]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            if self.greet is not None:
                await self.greet(Exchange(b"", b"", reader, writer))
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(Exchange(head, b"", reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # ends here, quietly: asyncio would print the traceback of a cancelled connection
        finally:
            self.open_connections -= 1
            self.tasks.discard(task)
            writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        self.busy += 1
        try:
            if self._reads_body:
                exchange.body = await exchange.reader.readexactly(int(exchange.header("content-length") or 0))
            async with self._changed:
                self.exchanges.append(exchange)
                self._changed.notify_all()
            await self.script(exchange)
        finally:
            self.busy -= 1
