"""Plain httpx in front of the router: what anybody sees who writes requests by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from smartrouter_asgi import SmartRouter
from smartrouter_asgi.events import RequestFinished

from ..harness.engines import ANSWER, DONE, ROLE, STREAM, chunk, good
from ..harness.routers import MESSAGES, chat, router_over
from ..harness.servers import Exchange, RawServer, serve

CHAT = "/v1/chat/completions"
NOBODY = "http://127.0.0.1:9"


@asynccontextmanager
async def client_of(router: SmartRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(router) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


def connections(engine: RawServer) -> int:
    """How many connections the engine's requests came over."""
    return len({exchange.writer for exchange in engine.exchanges})


async def test_lines_arrive_as_the_engine_sends_them():
    """No line waits for the next: the engine sends each only once the client has the one before. None follows `[DONE]`.

    The engine never ends the transfer here: the client's answer ends with `[DONE]` all the same.
    """
    wanted = [ROLE, chunk("Hel"), chunk("lo"), chunk(finish="stop"), DONE]

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(wanted[0] + wanted[1])
        await exchange.gone()

    got: list[bytes] = []
    async with RawServer(script) as engine, client_of(router_over(engine.base_url)) as client:
        async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            async for line in response.aiter_lines():
                if line:
                    got.append(line.encode() + b"\n\n")
                elif 2 <= len(got) < len(wanted):
                    await engine.exchanges[0].chunk(wanted[len(got)])
    assert got == wanted


async def test_values_reach_the_engine_as_the_bytes_they_were():
    """Only the model's name is another one: spelling of numbers, escapes, spaces and order inside values stay."""
    messages = '[ {"role":"user", "content":"caf\\u00e9 / \\/ é"} ]'
    rest = '"temperature": 1.0, "seed": 12345678901234567890, "top_p":1e0 ,"logit_bias":{ "5":-1.50 }'
    body = f'{{"stream": false, "messages": {messages}, "model":"chat", {rest}}}'
    async with RawServer(good) as engine, client_of(router_over(engine.base_url)) as client:
        response = await client.post(CHAT, content=body.encode(), headers={"content-type": "application/json"})
    assert response.content == json.dumps(ANSWER).encode()
    received = engine.exchanges[0].body.decode()
    for part in (messages, "1.0", "12345678901234567890", "1e0", '{ "5":-1.50 }'):
        assert part in received
    assert list(json.loads(received)) == list(json.loads(body))


async def test_duplicated_key_means_the_same_to_router_and_engine():
    """The engine gets one `model`: the one that was resolved."""
    body = f'{{"model":"forbidden","messages":{json.dumps(MESSAGES)},"model":"chat"}}'
    async with RawServer(good) as engine, client_of(router_over(engine.base_url)) as client:
        response = await client.post(CHAT, content=body)
    assert response.status_code == 200
    assert engine.exchanges[0].body.count(b'"model"') == 1
    assert json.loads(engine.exchanges[0].body)["model"] == "engine-model"


async def test_nothing_of_the_clients_headers_reaches_the_engine():
    """Its key, cookies and tracing are between it and the gateway; compression is not asked for in its name."""
    headers = {
        "authorization": "Bearer client",
        "cookie": "a=b",
        "x-request-id": "r1",
        "x-stainless-lang": "python",
        "x-forwarded-for": "10.0.0.1",
        "accept-encoding": "gzip",
    }
    async with RawServer(good) as engine, client_of(router_over(engine.base_url)) as client:
        response = await client.post(CHAT, json=chat(), headers=headers)
    seen = {name: engine.exchanges[0].header(name) for name in headers}
    assert seen == {**dict.fromkeys(headers), "accept-encoding": "identity"}
    assert response.headers["x-request-id"] == "r1"
    assert response.headers.get_list("x-request-id") == ["r1"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "/v1/embeddings"])
async def test_wrong_method_is_405_in_json(method: str, path: str):
    """The answer names the method that is served, in words and in `Allow`."""
    async with client_of(router_over(NOBODY)) as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    if method == "HEAD":
        assert response.content == b""
    else:
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert "POST" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("POST", "/v1/chat/completion", "POST /v1/chat/completions"),
        ("POST", "/chat/completions/", "POST /chat/completions"),
        ("POST", "/v1/embedding", "POST /v1/embeddings"),
        ("GET", "/v1/model", "GET /v1/models"),
        ("GET", "/", "GET /health"),
        ("POST", "/v1/v1/chat/completions", "/v1 is in there twice"),
        ("GET", "/v1/v1/models", "/v1 is in there twice"),
    ],
)
async def test_wrong_path_is_404_in_json_that_names_the_right_one(method: str, path: str, named: str):
    """Whoever mistypes an address reads in the answer what to write."""
    async with client_of(router_over(NOBODY)) as client:
        response = await client.request(method, path, json=chat() if method == "POST" else None)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["code"] == "not_found"
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_completed_answer_leaves_both_connections_for_reuse(stream: bool):
    """Keep-alive on both sides: five requests, one connection from the client and one to the engine."""
    addresses = set()
    async with RawServer(good) as engine, client_of(router_over(engine.base_url)) as client:
        for _ in range(5):
            response = await client.post(CHAT, json=chat(stream=stream))
            assert response.status_code == 200
            addresses.add(response.extensions["network_stream"].get_extra_info("client_addr"))
    assert connections(engine) == 1
    assert len(addresses) == 1


async def test_stream_whose_end_comes_after_done_is_reused_all_the_same():
    """The end of the transfer in a packet of its own: the client does not wait for it, the connection does."""

    class Finished(asyncio.Event):
        def on_event(self, event: object) -> None:
            if isinstance(event, RequestFinished):
                self.set()

    told, finished = asyncio.Event(), Finished()

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in STREAM:
            await exchange.chunk(event)
        await told.wait()
        await exchange.end_stream()

    async with RawServer(script) as engine:
        router = SmartRouter(router_over(engine.base_url).settings, observers=(finished,))
        async with client_of(router) as client:
            for _ in range(3):
                response = await client.post(CHAT, json=chat(stream=True))
                assert response.content == b"".join(STREAM)
                told.set()
                await finished.wait()
                told.clear()
                finished.clear()
    assert connections(engine) == 1


async def test_abandoned_stream_does_not_poison_the_next_request():
    """A connection whose answer was not read to its end is closed: the next request gets its own answer."""

    async def script(exchange: Exchange) -> None:
        if len(engine.exchanges) == 1:
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
            await exchange.gone()
        else:
            await good(exchange)

    async with RawServer(script) as engine, client_of(router_over(engine.base_url)) as client:
        async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            async for _ in response.aiter_lines():
                break
        answer = await client.post(CHAT, json=chat())
    assert answer.content == json.dumps(ANSWER).encode()
    assert connections(engine) == 2
