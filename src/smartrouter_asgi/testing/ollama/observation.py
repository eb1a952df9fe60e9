"""What a test can see of the engine: the requests it got, counts, and waiting for a condition."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True, eq=False)
class Exchange:
    """One request that reached the engine, and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case; of a repeated header the last value."""
    body: Any = None
    """Decoded JSON, else the bytes; None when empty."""
    status: int | None = None
    """The status line sent, None until then."""
    outcome: Literal["open", "done", "aborted", "dropped"] = "open"
    """`aborted`: the client left first; `dropped`: a fault broke the connection."""
    tokens: int = 0
    """Tokens generated for it so far."""


@dataclass(slots=True)
class Stats:
    """Counts since the start, except the two marked as momentary."""

    open_connections: int = 0
    """Momentary."""
    active_generations: int = 0
    """Momentary: requests in a runner's slot."""
    connections: int = 0
    requests: int = 0
    loads_started: int = 0
    loads: int = 0
    load_failures: int = 0
    aborted_loads: int = 0
    unloads: int = 0
    generations: int = 0
    aborted_generations: int = 0
    """Ended before the last token, by the client or by a fault."""
    tokens_generated: int = 0
    mutating_calls: int = 0
    """Calls to pull, push, create, copy, delete and blobs, which a gateway must not make."""
    peak_active_generations: int = 0
    peak_vram_bytes: int = 0


@dataclass(slots=True)
class Observation:
    """The engine's log and counts, and those who wait for a condition on them."""

    log: list[Exchange] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)
    _waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)

    def changed(self) -> None:
        """Look at every awaited condition; to be called after each change of state, once it is consistent."""
        for condition, future in self._waiting[:]:
            if future.done():
                continue
            try:
                if condition():
                    future.set_result(None)
            except Exception as exc:
                future.set_exception(exc)

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the condition holds; raises `TimeoutError` after so many real seconds."""
        if condition():
            return
        entry = (condition, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await entry[1]
        finally:
            self._waiting.remove(entry)
