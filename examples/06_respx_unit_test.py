"""Unit-test an app that mounts the gateway: no socket, no engine, no server.

    python examples/06_respx_unit_test.py

Upstream, `respx` plays the engine: hand the router an `httpx.AsyncClient` of your own, and what it sends is mocked like
any other httpx call. Where your app makes the router and leaves you no way to hand one in, say `ROUTER_TRANSPORT=httpx`
in your tests (`transport: httpx` in a file). Without either, the router speaks over connections of its own, of which
respx knows nothing. Downstream, `httpx.ASGITransport` calls your app in the same process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import respx
from fastapi import FastAPI

from smartrouter_asgi import Settings, SmartRouter, install

ENGINE = "http://engine.test/v1"


def create_app(http_client: httpx.AsyncClient | None = None, transport: str = "auto") -> FastAPI:
    """Your app. Tests hand in a client, or name a transport; without either the router takes the quickest it has."""
    settings = Settings.model_validate(
        {
            "transport": transport,
            "backends": {"engine": {"type": "openai", "base_url": ENGINE}},
            "models": [{"name": "chat", "deployments": [{"backend": "engine", "model": "llama-3.1-8b"}]}],
            "discovery": {"enabled": False},  # the names above are all there are: nothing else is asked
            "resilience": {"retry": {"base_delay": "1ms", "max_delay": "1ms"}},  # tests need no patience
        }
    )
    app = FastAPI()
    install(app, "/llm", SmartRouter(settings, http_client=http_client))
    return app


async def post(body: dict[str, object]) -> httpx.Response:
    """Send one chat request through the app. Two clients: one is the router's way out, the other your app's user."""
    async with httpx.AsyncClient() as upstream:  # the router never closes a client it was given
        app = create_app(upstream)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.test") as client,
        ):
            return await client.post("/llm/v1/chat/completions", json=body)


REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "llama-3.1-8b",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
}


@respx.mock
async def test_answer_passes_and_the_engine_sees_its_own_model_name() -> None:
    engine = respx.post(f"{ENGINE}/chat/completions").respond(json=ANSWER)
    response = await post(REQUEST)
    assert response.json() == ANSWER
    assert json.loads(engine.calls.last.request.content) == {**REQUEST, "model": "llama-3.1-8b"}


EVENTS = [
    b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


async def event_stream() -> AsyncIterator[bytes]:
    for event in EVENTS:
        yield event  # await or raise here, and you test a slow engine or one that breaks off


@respx.mock
async def test_stream_passes_event_by_event() -> None:
    headers = {"content-type": "text/event-stream"}
    respx.post(f"{ENGINE}/chat/completions").mock(httpx.Response(200, headers=headers, content=event_stream()))
    response = await post({**REQUEST, "stream": True})
    assert response.content == b"".join(EVENTS)


@respx.mock
async def test_engine_that_is_overloaded_once_is_asked_again() -> None:
    engine = respx.post(f"{ENGINE}/chat/completions")
    engine.side_effect = [httpx.Response(503), httpx.ConnectError("refused"), httpx.Response(200, json=ANSWER)]
    response = await post(REQUEST)
    assert response.status_code == 200
    assert response.headers["x-smartrouter-attempts"] == "3"


@respx.mock
async def test_engine_that_stays_away_is_a_503_your_users_can_read() -> None:
    respx.post(f"{ENGINE}/chat/completions").mock(side_effect=httpx.ConnectError("refused"))
    response = await post(REQUEST)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_backend"
    assert len(response.json()["error"]["attempts"]) == 4  # one, and three retries


@respx.mock
async def test_a_router_that_makes_its_own_client_is_mocked_by_the_name_of_its_transport() -> None:
    engine = respx.post(f"{ENGINE}/chat/completions").respond(json=ANSWER)
    app = create_app(transport="httpx")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.test") as client,
    ):
        response = await client.post("/llm/v1/chat/completions", json=REQUEST)
    assert response.json() == ANSWER
    assert engine.call_count == 1


if __name__ == "__main__":  # under pytest they are collected like any others
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            asyncio.run(test())
            print("passed:", name)
