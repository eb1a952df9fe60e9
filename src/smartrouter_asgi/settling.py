"""Finding out what engines are: once for all who want to know, in the background, not again right after a failure."""

from __future__ import annotations

import asyncio
import time

import anyio

from .backends.base import Undecided
from .exceptions import SmartRouterError

TIMEOUT_S = 2.0
"""How long one try, and the request that waits for it, may take."""

PAUSE_S = 2.0
"""How long nobody tries, or waits, after a try that failed."""


class Settling:
    """The tries under way, by backend name. The tasks are its own: a request that leaves ends none of them."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed_at: dict[str, float] = {}

    def start(self, name: str, backend: Undecided) -> None:
        """Start a try, unless the backend is settled, one is under way, or one has just failed."""
        if backend.is_settled or time.monotonic() - self._failed_at.get(name, float("-inf")) < PAUSE_S:
            return
        loop = asyncio.get_running_loop()
        task = self._tasks.get(name)
        if task is None or task.done() or task.get_loop() is not loop:
            self._tasks[name] = loop.create_task(self._try(name, backend))

    async def wait(self, name: str) -> None:
        """Wait for the try under way, if there is one."""
        task = self._tasks.get(name)
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait({task}, timeout=TIMEOUT_S)

    async def aclose(self) -> None:
        """Stop what is under way."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks.values() if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _try(self, name: str, backend: Undecided) -> None:
        try:
            with anyio.move_on_after(TIMEOUT_S):
                await backend.settle()
        except SmartRouterError:
            pass  # it says so itself when it is asked for an answer
        if not backend.is_settled:
            self._failed_at[name] = time.monotonic()
