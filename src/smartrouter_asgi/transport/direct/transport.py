"""The transport over connections of our own."""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache

import anyio

from ..causes import connect_error, connect_timeout_error, is_own_limit, unsendable_error
from ..http import HTTPRequest
from .connection import Connection
from .dial import dial
from .exchange import Exchange
from .head import HeaderError, Origin, render_head
from .pool import Pool
from .tls import default_context

HEADS = 256
"""Rendered heads that are remembered: one for each path and key of a backend. The last used stay."""


class DirectTransport:
    """Speaks HTTP/1.1 over asyncio's own connections, TLS by the standard library. See `Transport`.

    Whoever calls may be cancelled in any way. `tls` replaces the context that trusts the usual authorities.
    """

    cancels_natively = True

    def __init__(self, *, connect_timeout_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._pool: Pool | None = None
        self._render = lru_cache(HEADS)(render_head)

    @property
    def busy(self) -> list[Connection]:
        """Connections under way, for those who look for leaks."""
        return [] if self._pool is None else self._pool.busy

    async def open(self, request: HTTPRequest) -> Exchange:
        """Send a request and wait for the head of its answer; see `Transport.open`."""
        body = request.body
        try:
            origin, head = self._render(request.method, request.url, tuple(request.headers))
        except HeaderError as exc:
            raise unsendable_error(request.backend, str(exc)) from exc
        except ValueError as exc:
            raise connect_error(request.backend, exc) from exc
        pool = self._pool_of_this_loop()
        connection = pool.take(origin)
        reused = connection is not None
        if connection is None:
            connection = await self._connect(origin, pool, request.backend)
        exchange = Exchange(
            request.backend,
            connection,
            body_bytes=len(body),
            reused=reused,
            to_head=request.method == "HEAD",
        )
        if body or request.method not in ("GET", "HEAD"):
            head += b"content-length: %d\r\n\r\n" % len(body)
        else:
            head += b"\r\n"
        connection.begin(exchange, head, body)
        return await exchange.head()

    async def aclose(self) -> None:
        """Close all connections; the transport can be used again afterwards."""
        pool, self._pool = self._pool, None
        if pool is not None and pool.loop is asyncio.get_running_loop():
            await pool.aclose()

    def _pool_of_this_loop(self) -> Pool:
        """Return the running loop's connections: those of another loop died with it."""
        pool = self._pool
        if pool is None or pool.loop is not asyncio.get_running_loop():
            pool = self._pool = Pool()
        return pool

    async def _connect(self, origin: Origin, pool: Pool, backend: str) -> Connection:
        """Make a connection; one clock covers name, socket and handshake."""
        with anyio.move_on_after(self._connect_timeout_s):
            try:
                return await self._made(origin, pool)
            except (OSError, UnicodeError, ExceptionGroup) as exc:
                raise connect_error(backend, exc) from exc
        raise connect_timeout_error(backend)

    async def _made(self, origin: Origin, pool: Pool) -> Connection:
        context = (self._tls or default_context()) if origin.scheme == "https" else None
        sock = await dial(origin.host, origin.port)
        connection = Connection(origin, pool)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=context,
                server_hostname=origin.host if context is not None else None,
            )
        except BaseException as exc:
            connection.abort()  # or TLS would wait for a farewell
            connection.connection_lost(None)  # uvloop does not say so when it has just said that it was made
            sock.close()
            if context is not None and isinstance(exc, OSError) and not is_own_limit(exc):
                raise ssl.SSLError("the handshake failed") from exc  # also where it was cut, and no more is known
            raise
        return connection
