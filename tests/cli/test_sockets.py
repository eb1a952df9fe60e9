"""Laws of the sockets that `serve` listens on."""

from __future__ import annotations

import asyncio
import socket

from smartrouter_asgi.cli.sockets import bind


async def test_what_is_written_is_sent_at_once():
    """Nagle's algorithm is off for each connection, on asyncio's own loop too; else a kept one waits for ACKs."""
    taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def took(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    (listener,) = bind("127.0.0.1", 0)
    async with await asyncio.start_server(took, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await taken
        writer.close()
        await writer.wait_closed()
