"""Limits on how much runs at once on one deployment or backend: a bounded first-come-first-served queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..exceptions import QueueFullError


class ConcurrencyLimit:
    """Lets at most `max_parallel` through at a time; at most `max_queue` wait, the next gets `QueueFullError` (503).

    A waiter that is cancelled is gone at once.
    """

    def __init__(self, name: str, max_parallel: int, *, max_queue: int = 64) -> None:
        self._name = name
        self._max_queue = max_queue
        self._max_parallel = max_parallel
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return self._limiter.statistics().tasks_waiting if self._limiter is not None else 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the slots for the length of the block."""
        if self._limiter is None:  # made on the loop that uses it
            self._limiter = anyio.CapacityLimiter(self._max_parallel)
        if self.waiting >= self._max_queue:
            raise QueueFullError(
                f"{self._name} serves {self._max_parallel} requests at a time and {self.waiting} more wait already",
                retry_after_s=1.0,
            )
        holder = object()
        await self._limiter.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(holder)
