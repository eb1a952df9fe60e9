from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartrouter_asgi.testing.ollama import SimulatedModel, SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[tuple[SimulatedOllama, httpx.AsyncClient]]]]:
    """Start engines with clients; both are closed after the test."""
    async with AsyncExitStack() as stack:

        async def _start(*models: SimulatedModel, **settings: Any) -> tuple[SimulatedOllama, httpx.AsyncClient]:
            engine = await stack.enter_async_context(SimulatedOllama(models, **{"time_scale": 0.01, **settings}))
            client = httpx.AsyncClient(base_url=engine.base_url, timeout=20, verify=False, trust_env=False)
            return engine, await stack.enter_async_context(client)

        yield _start
