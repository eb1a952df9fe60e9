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
        self._idle: dict[Origin, list[Connection]] = {}
        """By origin, in the order in which they were given back."""
        self.idle = 0
        """How many wait for a request."""
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop they live on."""
        return self._loop

    @property
    def busy(self) -> list[Connection]:
        """Connections that carry an exchange, or are lost for any."""
        return [one for one in self._connections if not one.is_idle]

    def add(self, connection: Connection) -> None:
        """Count a connection that was made; it is busy until it is given back."""
        self._connections.add(connection)

    def take(self, origin: Origin) -> Connection | None:
        """Return an idle connection that can be used, or None; those that cannot are closed."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            connection.is_idle = False
            self.idle -= 1
            if self._loop.time() - connection.idle_since < KEEPALIVE_EXPIRY_S and connection.is_quiet:
                return connection
            connection.abort()
        return None

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        connection.idle_since = now = self._loop.time()
        connection.is_idle = True
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = []
        idle.append(connection)
        self.idle += 1
        if self.idle > MAX_IDLE:
            self._close(min((same[0] for same in self._idle.values() if same), key=_idle_since))
        if self._timer is None:
            self._timer = self._loop.call_at(now + KEEPALIVE_EXPIRY_S, self._sweep)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is no more."""
        if connection.is_idle:
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
        """Close what has waited too long, and look again when the next one will have."""
        self._timer = None
        now = self._loop.time()
        due = []
        for same in list(self._idle.values()):
            while same and same[0].idle_since + KEEPALIVE_EXPIRY_S <= now:
                self._close(same[0])
            if same:
                due.append(same[0].idle_since + KEEPALIVE_EXPIRY_S)
        self._idle = {origin: same for origin, same in self._idle.items() if same}
        if due:
            self._timer = self._loop.call_at(min(due), self._sweep)

    def _close(self, connection: Connection) -> None:
        self._remove(connection)
        connection.abort()

    def _remove(self, connection: Connection) -> None:
        self._idle[connection.origin].remove(connection)
        connection.is_idle = False
        self.idle -= 1


def _idle_since(connection: Connection) -> float:
    return connection.idle_since
