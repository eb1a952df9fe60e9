"""The llama.cpp adapter against scripted servers, through the router; the real engine's tests are in `live/`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter

from .harness.engines import ANSWER, ROLE, STREAM, chunk, good
from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve

LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
OVERFLOW = (
    b'{"error":{"code":400,"message":"request (2019 tokens) exceeds the available context size (256 tokens), '
    b'try increasing it","type":"exceed_context_size_error","n_prompt_tokens":2019,"n_ctx":256}}'
)


def slots(*processing: bool) -> bytes:
    return json.dumps([{"id": n, "n_ctx": 256, "is_processing": p} for n, p in enumerate(processing)]).encode()


class LlamaServer:
    """A scripted llama-server: `answers` maps a path to status and body, everything else is healthy."""

    def __init__(self, answers: dict[str, tuple[int, bytes]] | None = None) -> None:
        self.answers = answers or {}

    async def __call__(self, exchange: Exchange) -> None:
        for path, (status, body) in self.answers.items():
            if exchange.path.startswith(path):
                await exchange.answer(status, body)
                return
        if exchange.path == "/health":
            await exchange.answer(200, b'{"status":"ok"}')
        elif exchange.path == "/slots":
            await exchange.answer(200, slots(False, False))
        else:
            await good(exchange)


def router_over(url: str, *, type: str = "llama.cpp", retry: dict[str, Any] | None = None) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"local": {"type": type, "url": url}},
                "models": [{"name": "chat", "deployments": [{"backend": "local", "model": "engine-model"}]}],
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms", **(retry or {})}},
            }
        )
    )


@asynccontextmanager
async def through(router: SmartRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the router, served without a lifespan so that the engine sees nothing but what the test asks."""
    async with aclosing(router), serve(router, lifespan="off") as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            yield client


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_base_url_works_with_and_without_version(suffix: str):
    """Inference and the list live under `/v1`, health and slots beside it, however the address was written."""
    async with RawServer(LlamaServer()) as engine:
        router = router_over(engine.base_url + suffix)
        async with through(router) as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            await client.get("/v1/models")
            await client.get("/health")
            await router.backends["local"].is_idle("engine-model")
    assert answer.content == json.dumps(ANSWER).encode()
    assert engine.paths == ["/v1/chat/completions", "/v1/models", "/health", "/slots"]


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/chat/completions", chat("chat")),
        ("/completions", {"model": "chat", "prompt": "hi"}),
        ("/embeddings", {"model": "chat", "input": "hi"}),
    ],
)
async def test_every_operation_goes_to_its_path(path: str, request_body: dict[str, Any]):
    """The engine sees the configured id and otherwise what the client sent."""
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post(f"/v1{path}", json=request_body)
    assert response.status_code == 200
    assert engine.paths == [f"/v1{path}"]
    assert json.loads(engine.exchanges[0].body) == {**request_body, "model": "engine-model"}


async def test_stream_passes_byte_for_byte_with_its_keepalive_comments():
    """A comment the engine sends every 30 s is no event: before the answer it is nothing, within it it passes."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in (b":\n\n", *STREAM[:2], b":\n\n", *STREAM[2:]):
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    assert response.content == b"".join([*STREAM[:2], b":\n\n", *STREAM[2:]])


@pytest.mark.parametrize("stream", [False, True])
async def test_request_during_loading_is_retried_until_the_model_is_there(stream: bool):
    """503 "Loading model" passes by itself: the client sees the answer, not the wait."""

    async def script(exchange: Exchange) -> None:
        if len(engine.exchanges) <= 2:
            await exchange.answer(503, LOADING)
        else:
            await good(exchange)

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=stream))
    assert response.status_code == 200
    assert response.headers["x-smartrouter-attempts"] == "3"


async def test_loading_that_outlasts_the_retries_is_503_in_the_engines_words():
    """The exhausted route says what the engine said, and how often it was asked."""
    async with (
        RawServer(LlamaServer({"/": (503, LOADING)})) as engine,
        through(router_over(engine.base_url, retry={"max_retries": 2})) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    error = response.json()["error"]
    assert response.status_code == 503
    assert error["message"] == "Loading model"
    assert [attempt["status"] for attempt in error["attempts"]] == [503, 503, 503]
    assert response.headers["x-should-retry"] == "false"
    assert int(response.headers["retry-after"]) >= 1


async def test_health_says_that_it_loads():
    """Down, with the engine's own reason; nothing of its address."""
    async with (
        RawServer(LlamaServer({"/": (503, LOADING)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.get("/health")
    assert response.status_code == 503
    assert response.json()["backends"]["local"]["state"] == "down"
    assert response.json()["backends"]["local"]["reason"] == "Loading model"
    assert engine.base_url not in response.text


async def test_health_asks_health_and_nothing_else():
    """`/health` is public and cheap: no list of models, no slots."""
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["backends"]["local"]["state"] == "up"
    assert engine.paths == ["/health"]


@pytest.mark.parametrize(
    ("answer", "idle"),
    [
        pytest.param((200, slots(False, False)), True, id="no slot works"),
        pytest.param((200, slots(False, True)), False, id="one slot works"),
        pytest.param((200, slots()), True, id="no slots"),
        pytest.param(
            (501, b'{"error":{"code":501,"message":"no slots","type":"not_supported_error"}}'), None, id="off"
        ),
        pytest.param((404, b"{}"), None, id="unknown path"),
        pytest.param((200, b'{"slots":[]}'), None, id="another shape"),
        pytest.param((200, b"<html>"), None, id="no JSON"),
        pytest.param((503, LOADING), None, id="loading"),
    ],
)
async def test_idle_is_read_from_the_slots(answer: tuple[int, bytes], idle: bool | None):
    """None means that it cannot be told, which is neither idle nor busy."""
    async with RawServer(LlamaServer({"/slots": answer})) as engine:
        router = router_over(engine.base_url)
        assert await router.backends["local"].is_idle("engine-model") is idle
        await router.aclose()


async def test_no_server_is_an_idle_one():
    """A process that is gone works on nothing."""
    async with RawServer(LlamaServer()) as engine:
        pass
    router = router_over(engine.base_url)
    assert await router.backends["local"].is_idle("engine-model") is True
    await router.aclose()


@pytest.mark.parametrize(("processing", "attempts"), [(False, 2), (True, 1)])
async def test_cut_connection_is_retried_only_where_the_engine_is_seen_idle(processing: bool, attempts: int):
    """What the engine may still be working on is not sent to it a second time."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/slots":
            await exchange.answer(200, slots(processing, False))
        elif len([path for path in engine.paths if path != "/slots"]) == 1:
            exchange.reset()
        else:
            await good(exchange)

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert len([path for path in engine.paths if path != "/slots"]) == attempts
    assert response.status_code == (502 if processing else 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_context_overflow_gets_the_code_openai_clients_know(stream: bool):
    """400 before anything of a stream is sent, asked once."""
    async with (
        RawServer(LlamaServer({"/v1/chat": (400, OVERFLOW)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat(stream=stream))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(engine.exchanges) == 1


async def test_wrong_key_is_the_gateways_fault():
    """The engine's 401 is about our key, never about the client's: 502, and the key's value appears nowhere."""
    refusal = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
    async with (
        RawServer(LlamaServer({"/v1": (401, refusal)})) as engine,
        through(router_over(engine.base_url)) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_auth"


async def test_error_inside_a_stream_ends_it_in_the_engines_words():
    """Old servers send `error: {...}` without `data:`; the client gets one well-formed error event, no `[DONE]`."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.chunk(b'error: {"code":500,"message":"context shift failed","type":"server_error"}\n\n')
        await exchange.end_stream()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    *before, last = [event for event in response.text.split("\n\n") if event]
    assert len(before) == 2
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "context shift failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_closes_the_engines_connection(stream: bool):
    """The engine sees it at once: the only way it has of knowing that it works for nobody."""

    async def script(exchange: Exchange) -> None:
        if stream:
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
        await exchange.gone()

    async with RawServer(script) as engine, through(router_over(engine.base_url)) as client:
        request = asyncio.create_task(client.post("/v1/chat/completions", json=chat(stream=stream)))
        exchange = await engine.seen(1)
        request.cancel()
        async with asyncio.timeout(0.5):  # the aim is 0.1 s
            await exchange.closed.wait()
        await asyncio.gather(request, return_exceptions=True)


async def test_clients_headers_stay_here():
    """`X-Conversation-Id` would make the engine go on after a disconnect; the client's key is not the engine's."""
    headers = {"x-conversation-id": "c1", "authorization": "Bearer client", "cookie": "a=b"}
    async with RawServer(LlamaServer()) as engine, through(router_over(engine.base_url)) as client:
        await client.post("/v1/chat/completions", json=chat(), headers=headers)
    seen = engine.exchanges[0]
    assert [seen.header(name) for name in headers] == [None, None, None]


@pytest.mark.parametrize(
    "props", [b'{"default_generation_settings":{},"total_slots":1}', b'{"role":"router","max_instances":4}']
)
async def test_auto_tells_it_by_its_props(props: bytes):
    """A server with llama.cpp's `/props` is one, with a model or as a router of models."""
    answers = {"/api/version": (404, b"{}"), "/props": (200, props)}
    async with (
        RawServer(LlamaServer(answers)) as engine,
        through(router_over(engine.base_url, type="auto")) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
        health = (await client.get("/health")).json()
    assert response.status_code == 200
    assert health["backends"]["local"]["type"] == "llama.cpp"
    assert engine.paths[-2:] == ["/v1/chat/completions", "/health"]


async def test_auto_waits_for_a_server_that_loads():
    """While every path answers 503 its kind cannot be told; the request is retried and finds it ready."""

    async def script(exchange: Exchange) -> None:
        if len(engine.exchanges) <= 3:
            await exchange.answer(503, LOADING)
        else:
            await ready(exchange)

    ready = LlamaServer({"/api/version": (404, b"{}"), "/props": (200, b'{"default_generation_settings":{}}')})
    async with RawServer(script) as engine, through(router_over(engine.base_url, type="auto")) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 200


async def test_auto_with_a_wrong_key_says_so():
    """A server that answers nobody without its key is not "of no known kind"."""
    refusal = b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
    async with (
        RawServer(LlamaServer({"/": (401, refusal)})) as engine,
        through(router_over(engine.base_url, type="auto")) as client,
    ):
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_auth"
