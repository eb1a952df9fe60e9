"""Signals, as a server of our own takes them: the router drains first, then the server hears of it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

    from ..app import SmartRouter
    from ..types import Message, Receive, Scope, Send

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DrainingOnSignals:
    """A router that, while its server lives, takes the signals before the server does.

    On the first one the router drains at once and the server goes on listening for `drain.delay`, so that probes and
    clients are told; then it hears of the signal and shuts down in its own order. A second SIGINT, or the same signal
    twice, goes to it at once, as the SIGINT that makes it stop without waiting. A SIGTERM after a SIGINT is none of
    these: it is how a supervisor passes on the Ctrl-C that its workers have seen already.
    """

    def __init__(self, router: SmartRouter) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; a server sends one of type `lifespan`, which lasts as long as it does."""
        if scope["type"] != "lifespan":
            await self._router(scope, receive, send)
            return
        with _taking_signals(self._router) as drain:

            async def tell(message: Message) -> None:
                if not drain.forced:  # a server that stops without waiting takes what is cancelled for a failure
                    await send(message)

            await self._router(scope, receive, tell)


@contextmanager
def _taking_signals(router: SmartRouter) -> Generator[_SignalledDrain]:
    servers: dict[int, Any] = {}
    drain = _SignalledDrain(router, lambda number, frame: servers[number](number, frame))
    for taken in SIGNALS:
        servers[taken] = signal.signal(taken, drain.handle)
    try:
        yield drain
    finally:
        drain.close()
        for number, handler in servers.items():
            if signal.getsignal(number) == drain.handle:  # a server that was forced has put others back before
                signal.signal(number, handler)


class _SignalledDrain:
    """What the signals do, in their order."""

    def __init__(self, router: SmartRouter, stop: Callable[[int, FrameType | None], None]) -> None:
        self._router = router
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._seen: list[int] = []
        self.forced = False
        """Somebody insists: the server stops without waiting for anybody."""
        self._timer: asyncio.TimerHandle | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, wherever in the program it has struck."""
        self._loop.call_soon_threadsafe(self._take, number)

    def close(self) -> None:
        """Forget what was still to come."""
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, number: int) -> None:
        first = not self._seen
        insists = number in self._seen or (number == signal.SIGINT and not first)
        self._seen.append(number)
        if first:
            self._router.drain()
            self._timer = self._loop.call_later(
                self._router.settings.resilience.drain.delay_s, self._stop, number, None
            )
        elif insists:
            self.forced = True
            self.close()
            self._stop(self._seen[0], None)
            self._stop(signal.SIGINT, None)
