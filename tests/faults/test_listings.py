"""Engines whose list of models is late, wrong or huge: what was known stays, and no request waits for it."""

from __future__ import annotations

import asyncio
import json
import re
import time

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter

from ..harness.engines import ANSWER, answering, good, silent
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer, Script, serve

MODEL = {"id": "engine-model", "object": "model"}


def listing(body: bytes) -> Script:
    return answering(200, body)


def models(*ids: object) -> bytes:
    return json.dumps({"object": "list", "data": [{**MODEL, "id": id_} for id_ in ids]}).encode()


@pytest.mark.parametrize(
    "broken",
    [
        silent,
        answering(500),
        listing(b"<html>"),
        listing(b'{"object": "list"}'),
        listing(b'{"object": "list", "data": "' + b"x" * 5_000_000 + b'"}'),
        listing(b"[" * 5_000_000),
        listing(models("engine-model", "engine-model", 7, None, "")),
        listing(models()),
    ],
    ids=["hang", "500", "html", "no list", "5 MB in one string", "5 MB of brackets", "ids twice and no ids", "empty"],
)
async def test_row_70_what_was_listed_stays_while_an_engine_cannot_list(broken: Script):
    """Requests have their answers at once, and the breaker that answers count for does not move."""
    lists: list[Script] = [listing(models("engine-model"))]

    async def script(exchange: Exchange) -> None:
        await (lists[-1] if exchange.path.endswith("/models") else good)(exchange)

    async with RawServer(script) as engine:
        router = SmartRouter(
            Settings.model_validate(
                {"backends": {"b": {"type": "openai", "url": f"{engine.base_url}/v1"}}, "discovery": {"ttl": "10ms"}}
            )
        )
        async with serve(router) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:

            async def ask() -> httpx.Response:
                return await client.post("/v1/chat/completions", json=chat("engine-model"))

            assert (await ask()).json() == ANSWER
            lists.append(broken)
            for _ in range(5):
                await asyncio.sleep(0.02)  # the list is too old now
                began = time.monotonic()
                assert (await ask()).json() == ANSWER
                assert time.monotonic() - began < 1
            assert engine.paths.count("/v1/models") >= 2
            listed = (await client.get("/v1/models")).json()
            assert [model["id"] for model in listed["data"]] == ["engine-model"]
            assert ("b", "chat", "closed") in router.breakers.states()


async def test_row_70_an_empty_list_is_not_believed_until_it_is_confirmed():
    """The operator sees how old the list is, and may confirm the empty one by asking again."""
    lists: list[Script] = [listing(models("engine-model"))]

    async def script(exchange: Exchange) -> None:
        await (lists[-1] if exchange.path.endswith("/models") else good)(exchange)

    async with RawServer(script) as engine:
        router = SmartRouter(
            Settings.model_validate({"backends": {"b": {"type": "openai", "url": f"{engine.base_url}/v1"}}})
        )
        async with serve(router) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:

            async def refreshed() -> list[str]:
                names: list[str] = (await client.post("/admin/models/refresh")).json()["models"]
                return names

            async def age_s() -> float:
                text = (await client.get("/metrics")).text
                return float(re.findall(r'^smartrouter_model_list_age_seconds\{backend="b"\} (\S+)$', text, re.M)[0])

            assert await refreshed() == ["engine-model"]
            lists.append(listing(models()))
            listed_at = time.monotonic()
            assert await refreshed() == ["engine-model"]
            known_s = time.monotonic() - listed_at
            assert await age_s() >= known_s, "the age is that of the list which is kept"
            assert (await client.post("/v1/chat/completions", json=chat("engine-model"))).json() == ANSWER
            assert await refreshed() == []
            assert (await client.post("/v1/chat/completions", json=chat("engine-model"))).status_code == 404
            lists.append(listing(models("engine-model")))
            assert await refreshed() == ["engine-model"]
