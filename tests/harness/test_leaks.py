"""The look for leaks finds each kind of them."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from .engines import good
from .leaks import leaves_nothing
from .routers import chat, router_over
from .servers import Exchange, RawServer, serve


async def test_a_task_is_found():
    """One that nobody ends."""
    router = router_over("http://127.0.0.1:1")
    task = None
    with pytest.raises(AssertionError, match="a task"):
        async with leaves_nothing(router, patience_s=0.05):
            task = asyncio.create_task(asyncio.Event().wait())
    assert task is not None
    task.cancel()


async def test_an_exchange_under_way_is_found_everywhere():
    """In the count of exchanges, at the engine and among the connections."""

    async def silent(exchange: Exchange) -> None:
        await exchange.gone()

    async with RawServer(silent) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            with pytest.raises(AssertionError, match=r"1 exchanges with b1.*1 requests at an.*a connection"):  # noqa: PT012
                async with leaves_nothing(router, engine, patience_s=0.05):
                    task = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=chat()))
                    await engine.seen(1)
            task.cancel()


async def test_kept_connections_are_no_leak():
    """They wait for the next request."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            async with leaves_nothing(router, engine):
                assert (await client.post(f"{url}/v1/chat/completions", json=chat())).status_code == 200
            assert engine.open_connections == 1
