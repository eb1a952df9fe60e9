"""Leases whose client is gone: held until the engine shows idle, or a grace has passed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from .tasks import error_of

if TYPE_CHECKING:
    from ..types import Clock
    from .engines import Engines
    from .lease import Lease
    from .names import ModelKey
    from .tasks import OwnTasks

POLL_S = 0.1
"""How often an engine that can tell is asked whether it is idle."""


class DrainWatch:
    """Polls each model with draining leases by one task, however many leases there are."""

    def __init__(self, engines: Engines, *, tasks: OwnTasks, grace_s: float, clock: Clock) -> None:
        self._engines = engines
        self._tasks = tasks
        self._grace_s = grace_s
        self._clock = clock
        self._leases: dict[ModelKey, list[tuple[Lease, float]]] = {}
        self._pollers: dict[ModelKey, asyncio.Task[None]] = {}

    def add(self, lease: Lease) -> None:
        """Watch one more lease; it gets `finish_draining` exactly once."""
        self._leases.setdefault(lease.key, []).append((lease, self._clock()))
        if lease.key not in self._pollers:
            self._start(lease.key)

    def _start(self, key: ModelKey) -> None:
        self._pollers[key] = self._tasks.start(self._poll(key), partial(self._ended, key))

    async def _poll(self, key: ModelKey) -> None:
        """Ask until nothing drains; an answer counts for the leases that drained before it was asked for."""
        while self._leases[key]:
            asked_at = self._clock()
            idle = await self._engines.is_idle(key, within_s=self._left_s(key, asked_at))
            now = self._clock()
            staying: list[tuple[Lease, float]] = []
            for lease, since in self._leases[key]:
                if now >= since + self._grace_s or (idle and since <= asked_at):
                    lease.finish_draining()
                else:
                    staying.append((lease, since))
            self._leases[key] = staying
            if staying:
                left_s = self._left_s(key, now)
                await asyncio.sleep(left_s if idle is None else min(POLL_S, left_s))

    def _left_s(self, key: ModelKey, now: float) -> float:
        """Return what is left of the grace of the lease that drains longest."""
        return self._leases[key][0][1] + self._grace_s - now

    def _ended(self, key: ModelKey, task: asyncio.Task[None]) -> None:
        """Go on for leases that came at the last moment; leave none behind when the polling was ended."""
        del self._pollers[key]
        if self._leases[key] and error_of(task) is None:
            self._start(key)
            return
        for lease, _ in self._leases.pop(key):
            lease.finish_draining()
