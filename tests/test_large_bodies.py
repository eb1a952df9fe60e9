"""A large request body is not kept for as long as its answer streams."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import httpx

from .harness.engines import ROLE, chunk
from .harness.routers import chat, router_over
from .harness.servers import Exchange, RawServer, serve

MIB = 1024 * 1024
STREAMS = 6


async def test_streams_that_have_begun_hold_no_bodies():
    """Nobody else will be asked any more: what images and long contexts take is free again, but for httpx's own."""
    body = json.dumps(chat(stream=True, user="x" * MIB)).encode()
    ends = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        exchange.body = b""
        await ends.wait()

    async with (
        RawServer(script) as engine,
        serve(router_over(engine.base_url, transport="direct")) as url,
        httpx.AsyncClient(timeout=20) as client,
    ):
        responses = []

        async def begin() -> None:
            request = client.build_request("POST", f"{url}/v1/chat/completions", content=body)
            response = await client.send(request, stream=True)
            request.stream = None  # type: ignore[assignment]
            lines = response.aiter_lines()
            while "Hel" not in await anext(lines):
                pass
            responses.append((response, lines))

        await begin()  # whatever is made once
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(STREAMS):
                await begin()
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < STREAMS * MIB / 2
        ends.set()
        for response, _ in responses:
            await response.aclose()
