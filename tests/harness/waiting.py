"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 10.0


async def until(condition: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Return once the condition holds; `TimeoutError` when it does not come to that in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)
