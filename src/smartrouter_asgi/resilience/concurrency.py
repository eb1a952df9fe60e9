"""Limits on how much runs at once on a deployment and on a backend: bounded first-come-first-served queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from ..deployment import Deployment
from ..exceptions import QueueFullError


class ConcurrencyLimit:
    """Lets at most `max_parallel` through at a time; at most `max_queue` wait, the next gets `QueueFullError` (503).

    A waiter that is cancelled is gone at once. One event loop at a time.
    """

    def __init__(self, name: str, max_parallel: int, *, max_queue: int = 64) -> None:
        self._name = name
        self._max_queue = max_queue
        self._max_parallel = max_parallel
        self._limiter: anyio.CapacityLimiter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Hold one of the slots for the length of the block."""
        loop = asyncio.get_running_loop()
        if self._limiter is None or self._loop is not loop:  # who held slots on another loop is gone with it
            self._limiter, self._loop = anyio.CapacityLimiter(self._max_parallel), loop
        limiter = self._limiter
        waiting = limiter.statistics().tasks_waiting
        if waiting >= self._max_queue:
            raise QueueFullError(
                f"{self._name} serves {self._max_parallel} requests at a time and {waiting} more wait already",
                retry_after_s=1.0,
            )
        holder = object()
        await limiter.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            limiter.release_on_behalf_of(holder)


class ConcurrencyLimits:
    """The limits of backends, by name, and those that deployments carry themselves."""

    def __init__(self, backends: Mapping[str, int] | None = None) -> None:
        self._limits = {name: ConcurrencyLimit(f"backend '{name}'", limit) for name, limit in (backends or {}).items()}

    def apply(self, deployment: Deployment) -> bool:
        """Tell whether any limit holds for a deployment."""
        return deployment.max_parallel is not None or deployment.backend in self._limits

    @asynccontextmanager
    async def slot(self, deployment: Deployment) -> AsyncGenerator[None, None]:
        """Hold a slot of the deployment and one of its backend. Raises `QueueFullError` (503)."""
        async with AsyncExitStack() as stack:
            if deployment.max_parallel is not None:
                own = self._limits.get(deployment.id)
                if own is None:
                    own = ConcurrencyLimit(f"deployment '{deployment.id}'", deployment.max_parallel)
                    self._limits[deployment.id] = own
                await stack.enter_async_context(own.slot())
            shared = self._limits.get(deployment.backend)
            if shared is not None:
                await stack.enter_async_context(shared.slot())
            yield
