"""One router, one event loop after the other: without a lifespan, and after one has ended."""

from __future__ import annotations

import asyncio
import gc

import httpx
import pytest

from smartrouter_asgi import SmartRouter

from .harness.engines import good
from .harness.routers import chat, router_over
from .harness.servers import RawServer, serve


async def ask(router: SmartRouter) -> int:
    transport = httpx.ASGITransport(app=router)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        response = await client.post("/v1/chat/completions", json=chat())
        listed = await client.get("/v1/models")
        health = await client.get("/health")
    assert (listed.status_code, health.status_code) == (200, 200)
    return response.status_code


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_each_new_loop_gets_connections_of_its_own():
    """As a test client without a lifespan has it: the connections of a loop die with it."""

    async def engine_and(calls: int) -> list[int]:
        codes: list[int] = []
        async with RawServer(good) as engine:
            router = router_over(engine.base_url, discovery={"enabled": True, "ttl": "0s"})
            for _ in range(calls):
                # Another loop in another thread, while the engine's own goes on here.
                codes.append(await asyncio.to_thread(lambda: asyncio.run(ask(router))))
        return codes

    codes = asyncio.run(engine_and(4))
    gc.collect()  # what the closed loops left behind warns here, where that is expected
    assert codes == [200, 200, 200, 200]


async def test_a_router_serves_again_after_its_lifespan():
    """The end of a lifespan lets go of everything and forbids nothing."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url)
        async with router.lifespan():
            assert await ask(router) == 200
        assert await ask(router) == 200
        async with serve(router) as url, httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/readyz")).status_code == 200
        await router.aclose()
