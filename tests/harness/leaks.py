"""What every fault must leave behind: nothing (the fault matrix's N2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from smartrouter_asgi import SmartRouter
from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.transport.divided import DividedTransport
from smartrouter_asgi.transport.http import Transport

from .servers import RawServer

PATIENCE_S = 5.0


@asynccontextmanager
async def leaves_nothing(
    router: SmartRouter, *engines: RawServer, patience_s: float = PATIENCE_S
) -> AsyncIterator[None]:
    """What happens inside leaves no task, no exchange, no lease and no upstream connection but idle ones.

    Enter it once router and engines are up, and leave it before they are down; it waits for `patience_s` at most.
    """
    before = asyncio.all_tasks()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while left := _left(router, engines, before):
        assert loop.time() < until, f"left behind: {', '.join(left)}"
        await asyncio.sleep(0.01)


def _left(router: SmartRouter, engines: tuple[RawServer, ...], before: set[asyncio.Task[object]]) -> list[str]:
    # An idle connection that is kept alive has a task at the engine's end; `busy` tells of the others.
    theirs = {task for engine in engines for task in engine.tasks}
    left = [f"a task {task.get_coro()}" for task in asyncio.all_tasks() - before - theirs]
    left += [f"{count} exchanges with {name}" for name, count in router._tracker.inflight.items()]
    left += [f"{engine.busy} requests at an engine" for engine in engines if engine.busy]
    left += [f"a connection {connection}" for connection in _busy_connections(router._transport)]
    if router.gate is not None:
        seen = router.gate.snapshot()
        left += [f"{held.leases} leases on {held.deployment}" for held in seen.residents if held.leases]
        left += [f"{queue.waiting} waiters for {queue.deployment}" for queue in seen.queues if queue.waiting]
    return left


def _busy_connections(transport: Transport | None) -> list[str]:
    """Look into a transport's pool: what is neither idle nor closed is in use, or lost."""
    if isinstance(transport, DividedTransport):
        return _busy_connections(transport.data) + _busy_connections(transport.control)
    if isinstance(transport, DirectTransport):
        return [repr(one) for one in transport.busy]
    client = getattr(transport, "_client", None)
    pool = getattr(getattr(client, "_transport", None), "_pool", None)
    connections = [] if pool is None else pool.connections
    return [repr(one) for one in connections if not (one.is_idle() or one.is_closed())]
