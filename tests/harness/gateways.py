"""A router under uvicorn over scripted engines, and what must hold once a fault is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from smartrouter_asgi import SmartRouter

from .engines import ANSWER
from .leaks import leaves_nothing
from .routers import chat, router_over
from .servers import RawServer, serve

TOUCHY = {"failure_threshold": 1}
"""One failure opens a breaker: so that what is neutral can be told from what is not."""


@dataclass
class Gateway:
    """A client's side of it."""

    router: SmartRouter
    client: httpx.AsyncClient
    url: str

    async def ask(self, **fields: Any) -> httpx.Response:
        """Ask for a chat completion."""
        return await self.client.post(f"{self.url}/v1/chat/completions", json=chat(**fields))

    def breaker(self, backend: str, operation: str = "chat") -> str:
        """The state of a backend's breaker."""
        states = {(name, its): state for name, its, state in self.router.breakers.states()}
        return states.get((backend, operation), "closed")


@asynccontextmanager
async def gateway_over(
    *engines: RawServer | str, serves_on: bool = True, resilience: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """Engines, or their URLs, in the order of the plan: `b1`, `b2`, ...

    At the end nothing is left behind, and with `serves_on` the next request is answered, by whichever engine is good.
    """
    servers = [engine for engine in engines if isinstance(engine, RawServer)]
    urls = [engine.base_url if isinstance(engine, RawServer) else engine for engine in engines]
    router = router_over(*urls, resilience={"circuit_breaker": TOUCHY, **(resilience or {})}, **settings)
    async with serve(router) as url, leaves_nothing(router, *servers), httpx.AsyncClient(timeout=30) as client:
        gateway = Gateway(router, client, url)
        yield gateway
        if serves_on:
            assert (await gateway.ask()).json() == ANSWER
