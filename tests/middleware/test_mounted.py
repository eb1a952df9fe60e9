"""The router and the layers inside host apps, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from smartrouter_asgi import BackendDispatch, Settings, SmartRouter, install
from smartrouter_asgi.testing.asgi import drive, http_scope
from smartrouter_asgi.testing.backend import ScriptedBackend

from ..harness.servers import serve
from .layers import CHAT, STACKS, Inner, Witness, chat, resilient, resolved, soon

WARNING = "serving without a lifespan"
QUICKLY_S = 1.0  # the aim is 0.1 s


def scripted_router(**settings):
    backend = ScriptedBackend("mine", models=["model"], **settings)
    return SmartRouter(Settings(), backends={"mine": backend}), backend


def page(text):
    async def endpoint(request):
        return PlainTextResponse(text)

    return endpoint


@contextlib.asynccontextmanager
async def client_of(app, **options):
    async with serve(app, **options) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


@pytest.mark.parametrize("host", [Starlette, FastAPI])
async def test_a_mounted_router_needs_no_lifespan(host, caplog):
    """It serves, and says once, in one line, what it would like."""
    router, _ = scripted_router()
    app = host()
    app.mount("/llm", router)
    async with client_of(app) as client:
        answers = [await client.post("/llm" + CHAT, content=chat("model")) for _ in range(3)]
        models = await client.get("/llm/v1/models")
    assert [answer.status_code for answer in answers] == [200] * 3
    assert models.json()["data"][0]["id"] == "model"
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [WARNING in record.getMessage() for record in warnings] == [True]
    await router.aclose()


async def test_a_router_may_be_mounted_twice():
    """Under two paths, with one state: what one path learns the other knows."""
    router, backend = scripted_router()
    app = Starlette(routes=[Mount("/a", router), Mount("/b/c", router), Route("/", page("home"))])
    async with client_of(app) as client:
        for prefix in ("/a", "/b/c"):
            plain = await client.post(prefix + CHAT, content=chat("model"))
            streamed = await client.post(f"{prefix}/chat/completions", content=chat("model", stream=True))
            wrong = await client.post(f"{prefix}/v1/chat/completion", content=b"{}")
            assert plain.status_code == 200
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert wrong.status_code == 404
            assert "did you mean POST /v1/chat/completions" in wrong.json()["error"]["message"]
        home = await client.get("/")
    assert home.text == "home"
    assert len(backend.calls) == 4
    await router.aclose()


@pytest.mark.parametrize("host", [Starlette, FastAPI])
async def test_install_shares_the_hosts_lifespan(host, caplog):
    """Both run, the router's around the host's; the host's state still reaches its requests."""
    router, _ = scripted_router()
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        seen.append(("start", router._in_lifespan))
        yield {"greeting": "hello"}
        seen.append(("stop", router._in_lifespan))

    async def greet(request):
        return PlainTextResponse(request.state.greeting)

    app = host(lifespan=lifespan)
    app.router.routes.append(Route("/greet", greet))
    install(app, "/llm", router)
    async with client_of(app) as client:
        greeting = await client.get("/greet")
        answer = await client.post("/llm" + CHAT, content=chat("model"))
    assert greeting.text == "hello"
    assert answer.status_code == 200
    assert seen == [("start", True), ("stop", True)]
    assert not router._in_lifespan
    assert WARNING not in caplog.text


async def test_two_routers_can_be_installed():
    one, _ = scripted_router(default="one")
    two, _ = scripted_router(default="two")
    app = FastAPI()
    install(app, "/one", one)
    install(app, "/two", two)
    async with client_of(app) as client:
        answers = [await client.post(f"/{name}{CHAT}", content=chat("model")) for name in ("one", "two")]
    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == ["one", "two"]


async def test_a_drained_router_takes_no_new_inference():
    """What is not inference still answers."""
    router, _ = scripted_router()
    async with client_of(router) as client:
        router.drain()
        refused = await client.post(CHAT, content=chat("model"))
        alive = await client.get("/healthz")
        ready = await client.get("/readyz")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "gateway_draining")
    assert refused.headers["retry-after"]
    assert (alive.status_code, ready.status_code) == (200, 503)


@pytest.mark.parametrize("prefix", ["", "/llm"])
async def test_other_methods_on_a_router(prefix):
    """HEAD goes where GET goes; OPTIONS and others are told what is right."""
    router, _ = scripted_router()
    app = router if not prefix else Starlette(routes=[Mount("/llm", router)])

    async def answer(method, path):
        return await drive(app, http_scope(method, prefix + path))

    head = await answer("HEAD", "/v1/models")
    assert (head.status, head.header("content-type")) == (200, "application/json")
    for method in ("GET", "OPTIONS", "PUT"):
        wrong = await answer(method, CHAT)
        assert (wrong.status, wrong.header("allow")) == (405, "POST")
        assert wrong.json()["error"]["code"] == "method_not_allowed"
    wrong = await answer("HEAD", CHAT)
    assert wrong.status == 405
    wrong = await answer("POST", "/v1/models")
    assert wrong.status == 405
    assert "GET" in wrong.header("allow")
    await router.aclose()


async def test_a_websocket_is_turned_away():
    """As Starlette does it: closed before it was accepted."""
    router, _ = scripted_router()
    scope = {**http_scope("GET", CHAT), "type": "websocket", "scheme": "ws", "subprotocols": []}
    call = await drive(router, scope, messages=[{"type": "websocket.connect"}])
    assert [message["type"] for message in call.sent] == ["websocket.close"]


@pytest.mark.parametrize("prefix", ["", "/v1x"])
async def test_layers_alone_inside_a_mount(prefix):
    """A stack without the router, below a path of its own."""
    stack = resolved(resilient(BackendDispatch(ScriptedBackend("b1"))))
    app = Starlette(routes=[Mount(prefix or "/llm", stack), Route("/", page("home"))])
    async with client_of(app) as client:
        answer = await client.post((prefix or "/llm") + CHAT, content=chat())
        missing = await client.post((prefix or "/llm") + CHAT, content=chat("nobody"))
        home = await client.get("/")
    assert answer.headers["x-smartrouter-model"] == "upstream"
    assert missing.status_code == 404
    assert home.text == "home"
    assert "x-request-id" not in home.headers


async def test_layers_added_as_middleware_of_a_host():
    """`add_middleware` takes a layer like any other; the host's own routes stay what they were."""
    from smartrouter_asgi import ErrorEnvelopeMiddleware, ResilienceMiddleware

    failing = [503, 200]

    async def flaky(request):
        return PlainTextResponse("answer", failing.pop(0))

    app = FastAPI()
    app.router.routes += [Route("/flaky", flaky), Route("/", page("home"))]
    app.add_middleware(ResilienceMiddleware)
    app.add_middleware(ErrorEnvelopeMiddleware)
    async with client_of(app) as client:
        answer = await client.get("/flaky")
        home = await client.get("/")
        missing = await client.get("/nothing")
    assert (answer.status_code, answer.text) == (200, "answer")
    assert home.text == "home"
    assert missing.json() == {"detail": "Not Found"}
    assert len(home.headers.get_list("x-request-id")) == 1


@asynccontextmanager
async def raw_client(url, body):
    """A client that can leave without a word."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("commit", [True, False], ids=["streaming", "before commit"])
@pytest.mark.parametrize("name", ["resolution", "resilience", "gate", "all"])
async def test_a_closed_socket_cancels_the_inner_app(name, commit, http):
    """The whole way from the TCP connection to the inner app, quickly."""
    inner = Witness(commit=commit)
    async with (
        serve(STACKS[name](inner), http=http, lifespan="off") as url,
        raw_client(url, chat("alpha")) as (_, writer),
    ):
        await soon(inner.entered)
        writer.close()
        async with asyncio.timeout(QUICKLY_S):
            await inner.over.wait()
    assert inner.cancelled


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mounted", [True, False])
async def test_a_closed_socket_stops_the_engine(stream, mounted):
    """Through router and mount, streamed or not."""
    router, backend = scripted_router(answers=[["Hel", asyncio.Event()] if stream else asyncio.Event()])
    app = Starlette(routes=[Mount("", router)]) if mounted else router
    async with serve(app) as url, raw_client(url, chat("model", stream=stream)) as (reader, writer):
        record = await backend.called()
        if stream:
            await reader.readuntil(b"Hel")
        writer.close()
        async with asyncio.timeout(QUICKLY_S):
            await record.closed.wait()
    assert backend.active == 0
    await router.aclose()


async def test_two_requests_share_a_connection():
    """An answer that is over leaves the connection usable: nothing of ours eats the next request."""
    inner = Inner()
    async with client_of(resilient(inner)) as client:
        for n in range(5):
            answer = await client.post("/", content=b"x" * n)
            assert answer.text == "inner"
    assert inner.bodies == [b"x" * n for n in range(5)]
