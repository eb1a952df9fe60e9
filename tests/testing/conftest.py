from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TIME_SCALE = 0.02


def plain(name: str, gib: float, **settings: Any) -> SimulatedModel:
    """A model whose footprint is its size, to the byte."""
    return SimulatedModel(name, int(gib * GIB), **{"kv_bytes": 0, "overhead_bytes": 0, "load_s": 1.0, **settings})


def ask(model: str, text: str = "hello there", **fields: Any) -> dict[str, Any]:
    """The body of a chat request that is not streamed."""
    return {"model": model, "stream": False, "messages": [{"role": "user", "content": text}], **fields}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[tuple[SimulatedOllama, httpx.AsyncClient]]]]:
    """Start engines with clients; both are closed after the test."""
    async with AsyncExitStack() as stack:

        async def _start(*models: SimulatedModel, **settings: Any) -> tuple[SimulatedOllama, httpx.AsyncClient]:
            settings = {"time_scale": TIME_SCALE, **settings}
            engine = await stack.enter_async_context(SimulatedOllama(models, **settings))
            client = httpx.AsyncClient(base_url=engine.base_url, timeout=20)
            return engine, await stack.enter_async_context(client)

        yield _start
