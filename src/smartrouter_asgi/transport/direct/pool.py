"""Idle connections by origin: the one used last goes first, and none waits long enough to be closed under a request."""

from __future__ import annotations

import asyncio

from .connection import Connection
from .head import Origin

KEEPALIVE_EXPIRY_S = 4.0  # below the 5 s after which uvicorn and llama.cpp close an idle connection
MAX_IDLE = 256
"""Of all origins together; the one that has waited longest makes room."""


class Pool:
    """The connections of one event loop. How many there may be is decided in front of it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """In the order in which they were given back."""
        self._by_origin: dict[Origin, dict[Connection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop they live on."""
        return self._loop

    @property
    def busy(self) -> list[Connection]:
        """Connections that carry an exchange, or are lost for any."""
        return [one for one in self._connections if one not in self._idle]

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        return len(self._idle)

    def add(self, connection: Connection) -> None:
        """Count a connection that was made; it is busy until it is given back."""
        self._connections.add(connection)

    def take(self, origin: Origin) -> Connection | None:
        """Return an idle connection that can be used, or None; those that cannot are closed."""
        idle = self._by_origin.get(origin)
        while idle:
            connection = next(reversed(idle))
            self._remove(connection)
            if self._loop.time() - connection.idle_since < KEEPALIVE_EXPIRY_S and connection.is_quiet:
                return connection
            connection.abort()
        return None

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        connection.idle_since = now = self._loop.time()
        self._idle[connection] = None
        self._by_origin.setdefault(connection.origin, {})[connection] = None
        if len(self._idle) > MAX_IDLE:
            oldest = next(iter(self._idle))
            self._remove(oldest)
            oldest.abort()
        if self._timer is None:
            self._timer = self._loop.call_at(now + KEEPALIVE_EXPIRY_S, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is no more."""
        self._remove(connection)
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None:
            self._emptied.set()

    async def aclose(self) -> None:
        """Close every connection, those under way too, and wait until their sockets are closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._idle:
            oldest = next(iter(self._idle))
            due = oldest.idle_since + KEEPALIVE_EXPIRY_S
            if due > now:
                self._timer = self._loop.call_at(due, self._sweep)
                return
            self._remove(oldest)
            oldest.abort()

    def _remove(self, connection: Connection) -> None:
        if connection in self._idle:
            del self._idle[connection]
            same = self._by_origin[connection.origin]
            del same[connection]
            if not same:
                del self._by_origin[connection.origin]
