"""uvicorn, run as the command wants it: our sockets, our logs, one orderly end."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from .logs import logging_config
from .signals import SIGNALS

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from types import FrameType

    from ..config import Settings

T = TypeVar("T")

MARGIN_S = 5.0
"""How much longer than the drain the server waits before it cuts connections: what is ended also has to be told."""


def calm_collector() -> None:
    """Let Python's cycle collector look less often, and never again at what is there already.

    Requests leave no cycles behind, and with many of them under way the collector would look at them again and again,
    in vain, and each time at every module that was imported: a fifth of the CPU time of a request. Cycles of others,
    such as a logged traceback's, still go, some tens of thousands of objects later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class RouterServer(uvicorn.Server):
    """A server that calls `on_listening` once it listens."""

    def __init__(self, config: uvicorn.Config, *, on_listening: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell that it listens."""
        await super().startup(sockets)
        if self.started:
            await self._on_listening()
            calm_collector()


def uvicorn_config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration: no access log (one line a request is ours), peers as the socket shows them.

    uvicorn's own limit for running requests comes after the drain's: it cuts without a word.
    """
    return uvicorn.Config(
        app,
        log_config=logging_config(settings.logging),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.resilience.drain.timeout_s + MARGIN_S),
        **options,
    )


def run_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the command's coroutine, on uvloop where that is installed. A signal raises `KeyboardInterrupt`."""
    with _signals_interrupt(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main())


@contextmanager
def _signals_interrupt() -> Generator[None]:
    """Let SIGTERM do what SIGINT does, as long as uvicorn does not take both; it raises them again at its end."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    earlier = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's loops, None where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
