"""Affinity over real sockets: conversations, three engines, and routers that know nothing of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from smartrouter_asgi import SmartRouter

from .harness.engines import good
from .harness.routers import router_over
from .harness.servers import Exchange, RawServer, serve

TOPICS = [f"topic {number}" for number in range(24)]


async def dead(exchange: Exchange) -> None:
    """An engine that dies under every request."""
    exchange.reset()


@pytest.fixture
async def engines() -> AsyncIterator[list[RawServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(RawServer(good)) for _ in range(3)]


def router(engines: list[RawServer], affinity: str, **settings: Any) -> SmartRouter:
    """A router whose model `chat` is served by all engines alike."""
    names = [f"b{number}" for number, _ in enumerate(engines, 1)]
    model = {"name": "chat", "affinity": affinity, "deployments": [{"backend": n, "model": "m"} for n in names]}
    return router_over(*[engine.base_url for engine in engines], models=[model], **settings)


async def answered_by(client: httpx.AsyncClient, turns: list[str], **request: Any) -> str:
    """Go on with a conversation by one request and return the backend that answered."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    body = {"model": "chat", "messages": messages, **request.pop("fields", {})}
    response = await client.post("/v1/chat/completions", json=body, **request)
    assert response.status_code == 200, response.text
    return response.headers["x-smartrouter-backend"]


async def places(client: httpx.AsyncClient, *more: str) -> dict[str, str]:
    """Return who answers which conversation, after some turns."""
    return {topic: await answered_by(client, [topic, *more]) for topic in TOPICS}


async def test_a_conversation_stays_at_its_engine_leaves_it_while_it_is_down_and_comes_back(engines):
    """Nobody else's moves meanwhile; those of the engine that is down are shared by the others."""
    patient = {
        "circuit_breaker": {"failure_threshold": 100}
    }  # or it would stay away for longer than a test should take
    app = router(engines, "prefix", resilience=patient)
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as client:
        home = await places(client)
        assert set(home.values()) == {"b1", "b2", "b3"}
        assert await places(client, "an answer", "and now?") == home
        engines[0].script = dead
        away = await places(client, "an answer", "and now?", "another", "and then?")
        assert {topic: who for topic, who in away.items() if home[topic] != "b1"} == {
            topic: who for topic, who in home.items() if who != "b1"
        }
        assert {who for topic, who in away.items() if home[topic] == "b1"} == {"b2", "b3"}
        engines[0].script = good
        assert await places(client, "an answer", "and now?") == home


async def test_workers_agree_without_knowing_of_each_other(engines):
    """Three fresh routers send each conversation to the same engine."""
    found = []
    for _ in range(3):
        async with serve(router(engines, "prefix")) as url, httpx.AsyncClient(base_url=url) as client:
            found.append(await places(client))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("header", ["X-Session-Id", "X-LiteLLM-Session-Id", "X-OpenWebUI-Chat-Id"])
async def test_a_session_is_named_by_a_header_or_by_the_body(engines, header: str):
    """Whatever is said in it; a name means the same wherever it stands."""
    async with serve(router(engines, "session")) as url, httpx.AsyncClient(base_url=url) as client:
        found = {
            topic: {await answered_by(client, [str(n)], headers={header: topic}) for n in range(3)}
            | {await answered_by(client, ["x"], fields={"prompt_cache_key": topic})}
            for topic in TOPICS
        }
    assert all(len(who) == 1 for who in found.values())
    assert set.union(*found.values()) == {"b1", "b2", "b3"}


async def test_headers_have_an_order_and_an_empty_one_names_nothing(engines):
    """The general one goes first; without a name the requests are balanced."""
    async with serve(router(engines, "session")) as url, httpx.AsyncClient(base_url=url) as client:
        both = {
            topic: {
                await answered_by(client, ["x"], headers={"x-litellm-session-id": str(n), "x-session-id": topic})
                for n in range(4)
            }
            for topic in TOPICS
        }
        nameless = {await answered_by(client, ["x"], headers={"x-session-id": ""}) for _ in range(40)}
    assert all(len(who) == 1 for who in both.values())
    assert nameless == {"b1", "b2", "b3"}


async def test_without_affinity_a_conversation_goes_anywhere(engines):
    """The default: its header is nobody's business."""
    async with serve(router(engines, "none")) as url, httpx.AsyncClient(base_url=url) as client:
        found = {await answered_by(client, ["x"], headers={"x-session-id": "one"}) for _ in range(40)}
    assert found == {"b1", "b2", "b3"}
