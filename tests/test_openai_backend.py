"""OpenAI-compatible servers behind the router, over real sockets; vLLM's sleep and wake, alone and under the gate.

What is particular to each preset is in `test_presets.py`. Shapes of vLLM: `facts/backends.md`, 4.1.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.base import Backend, BackendSpec
from smartrouter_asgi.backends.registry import create_backend
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.choice import choose_transport

from .harness.engines import ANSWER, STREAM, chunk, good
from .harness.routers import MESSAGES, chat
from .harness.servers import Exchange, RawServer, Script, serve

KEY = "secret-key-1"


@asynccontextmanager
async def routed(settings: dict[str, Any], *, lifespan: str = "off") -> AsyncIterator[httpx.AsyncClient]:
    """A client of a router with these settings; without a lifespan the engine sees only what the test asks."""
    settings = {"resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms"}}, **settings}
    router = SmartRouter(Settings.model_validate(settings))
    async with aclosing(router), serve(router, lifespan=lifespan) as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            yield client


def one_backend(type: str, url: str, **section: Any) -> dict[str, Any]:
    return {
        "backends": {"b": {"type": type, "url": url, "api_key": KEY, **section}},
        "models": [{"name": "chat", "deployments": [{"backend": "b", "model": "org/upstream"}]}],
    }


# -- pass-through


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("chat/completions", {"messages": MESSAGES, "x_vendor": {"deep": [1.50, "\u2028"]}, "n": 1}),
        ("completions", {"prompt": "hi", "suffix": "x"}),
        ("embeddings", {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 3}),
    ],
)
@pytest.mark.parametrize("type", ["openai", "vllm", "together"])
async def test_a_request_arrives_with_every_value_and_the_upstreams_model(
    type: str, operation: str, body: dict[str, Any]
):
    """Alias and name never go up; what is unknown here is the engine's to judge; the client's key stays here."""
    async with RawServer(good) as engine:
        settings = {**one_backend(type, f"{engine.base_url}/v1"), "aliases": {"alias": "chat"}}
        async with routed(settings) as client:
            response = await client.post(
                f"/v1/{operation}", json={"model": "alias", **body}, headers={"authorization": "Bearer client-key"}
            )
    assert response.status_code == 200
    assert response.content == json.dumps(ANSWER).encode()
    assert response.headers["x-smartrouter-model"] == "org/upstream"
    sent = [e for e in engine.exchanges if e.head.startswith(b"POST")]
    assert [e.path for e in sent] == [f"/v1/{operation}"]
    assert json.loads(sent[0].body) == {"model": "org/upstream", **body}
    assert sent[0].header("authorization") == f"Bearer {KEY}"


async def test_a_stream_passes_byte_for_byte():
    """Fields nobody here knows stay in their chunks."""
    events = [*STREAM[:2], chunk("lo", x_vendor={"a": 1.50}), *STREAM[3:]]

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(script) as engine, routed(one_backend("openai", f"{engine.base_url}/v1")) as client:
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
    assert response.content == b"".join(events)


async def test_a_prefix_is_put_on_once_and_taken_off_the_list():
    """D41: a prefix is the gateway's; the engine's id goes up, the clients see it without."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await exchange.answer(200, json.dumps({"data": [{"id": "openai/gpt-4o"}, {"id": "other"}]}).encode())
        else:
            await good(exchange)

    async with RawServer(script) as engine:
        settings = {"backends": {"b": {"type": "openai", "url": f"{engine.base_url}/v1", "model_prefix": "openai/"}}}
        async with routed(settings) as client:
            names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
            await client.post("/v1/chat/completions", json=chat("gpt-4o"))
    assert sorted(names) == ["gpt-4o", "other"]
    assert json.loads(engine.exchanges[-1].body)["model"] == "openai/gpt-4o"


async def test_the_engines_rejection_reaches_the_client_in_the_one_envelope():
    """The older flat error of vLLM, with its context overflow named."""
    overflow = {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }

    async def script(exchange: Exchange) -> None:
        await exchange.answer(400, json.dumps(overflow).encode())

    async with RawServer(script) as engine, routed(one_backend("vllm", engine.base_url)) as client:
        response = await client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_a_field_that_anthropic_would_drop_goes_to_who_honours_it():
    """Left out in resolution: the other candidate serves it at the first attempt; alone, the refusal is the answer."""
    async with RawServer(good) as first, RawServer(good) as second:
        settings = {
            "backends": {
                "a": {"type": "anthropic", "url": first.base_url},
                "b": {"type": "openai", "url": f"{second.base_url}/v1"},
            },
            "models": [
                {
                    "name": "chat",
                    "deployments": [
                        {"backend": "a", "model": "c", "order": 1},
                        {"backend": "b", "model": "g", "order": 2},
                    ],
                },
                {"name": "only", "deployments": [{"backend": "a", "model": "c"}]},
            ],
        }
        async with routed(settings) as client:
            asked = chat(response_format={"type": "json_object"}, user="u")
            served = await client.post("/v1/chat/completions", json=asked)
            refused = await client.post("/v1/chat/completions", json={**asked, "model": "only"})
            listed = await client.post("/v1/chat/completions", json=chat("only", user="u"))
    assert (served.headers["x-smartrouter-backend"], served.headers["x-smartrouter-attempts"]) == ("b", "1")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    assert listed.headers["x-smartrouter-ignored"] == "user"


# -- vLLM asleep and awake


class VLLM:
    """A vLLM with sleep mode (4.1): development routes at the root and without a key; asleep it serves nothing."""

    def __init__(self, model: str, *, key: str | None = KEY, dev_mode: bool = True) -> None:
        self.model = model
        self.key = key
        self.dev_mode = dev_mode
        self.asleep = False
        self.in_flight = 0
        self.slept_while_busy = False
        self.log: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.path
        if path.startswith("/v1/"):
            if self.key is not None and exchange.header("authorization") != f"Bearer {self.key}":
                await exchange.answer(401, b'{"error":"Unauthorized"}')
            elif path == "/v1/models":
                row = {"id": self.model, "object": "model", "owned_by": "vllm", "root": self.model, "parent": None}
                await exchange.answer(200, json.dumps({"object": "list", "data": [row]}).encode())
            else:
                await self._infer(exchange)
        elif path == "/health":
            await exchange.answer(200, b"")
        elif not self.dev_mode:
            await exchange.answer(404, b'{"detail":"Not Found"}')
        elif path == "/is_sleeping":
            await exchange.answer(200, json.dumps({"is_sleeping": self.asleep}).encode())
        else:
            self.log.append(path)
            if path.startswith("/sleep"):
                self.slept_while_busy = self.slept_while_busy or self.in_flight > 0
                self.asleep = True
            elif path.startswith("/wake_up"):
                self.asleep = False
            await exchange.answer(200, b"")

    async def _infer(self, exchange: Exchange) -> None:
        if self.asleep:
            await exchange.answer(500, b'{"error":{"message":"asleep","type":"InternalServerError","code":500}}')
            return
        self.in_flight += 1
        try:
            await self.may_answer.wait()
            await good(exchange)
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def vllm_at(script: Script, **options: Any) -> AsyncIterator[Backend]:
    async with RawServer(script) as server:
        transport = choose_transport("auto", connect_timeout_s=5.0)
        yield create_backend(
            BackendSpec(name="b", type="vllm", url=f"{server.base_url}/v1", options=options), transport
        )
        await transport.aclose()


async def test_vllm_sleeps_and_wakes():
    """Unload is sleep, load is wake; both know what is so already."""
    engine = VLLM("m", key=None)
    async with vllm_at(engine) as backend:
        assert not backend.capabilities.can_load  # not known yet
        (model,) = await backend.list_models()
        assert backend.capabilities.can_load
        assert backend.capabilities.can_report_loaded
        assert [(m.id, m.digest) for m in await backend.running()] == [("m", model.digest)]
        await backend.load("m")
        assert engine.log == []
        await backend.unload("m")
        await backend.unload("m")
        assert await backend.running() == ()
        await backend.load("m")
        assert not engine.asleep
    assert engine.log == ["/sleep?level=1&mode=wait", "/wake_up"]


async def test_vllm_with_its_weights_discarded_reads_them_anew():
    """Level 2 needs reload_weights, between the weights and the cache."""
    engine = VLLM("m", key=None)
    async with vllm_at(engine, sleep_level=2) as backend:
        assert backend.capabilities.can_load  # the operator says so
        await backend.unload("m")
        await backend.load("m")
    assert engine.log == [
        "/sleep?level=2&mode=wait",
        "/wake_up?tags=weights",
        "/collective_rpc",
        "/wake_up?tags=kv_cache",
    ]


async def test_vllm_without_sleep_mode_is_never_gated():
    """`/is_sleeping` is not there: it can neither load nor unload, whatever the configuration says."""
    engine = VLLM("m", key=None, dev_mode=False)
    async with vllm_at(engine, sleep_level=1) as backend:
        assert [m.id for m in await backend.list_models()] == ["m"]
        assert not backend.capabilities.can_load
        assert await backend.running() == ()
        await backend.load("m")


async def test_vllm_that_cannot_be_asked_is_no_empty_answer():
    """The gate must not take a dead server for free memory."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(503, b"")

    async with vllm_at(script) as backend:
        with pytest.raises(AttemptError) as caught:
            await backend.running()
    assert caught.value.kind is FailureKind.SERVER


@asynccontextmanager
async def two_vllms(**options: Any) -> AsyncIterator[tuple[VLLM, VLLM, httpx.AsyncClient]]:
    """Two servers on one GPU with room for one of them; B sleeps at first."""
    a, b = VLLM("a"), VLLM("b")
    b.asleep = True
    async with AsyncExitStack() as stack:
        urls = {engine.model: (await stack.enter_async_context(RawServer(engine))).base_url for engine in (a, b)}
        settings = {
            "backends": {
                name: {"type": "vllm", "url": url, "api_key": KEY, "options": options} for name, url in urls.items()
            },
            "models": [{"name": n, "deployments": [{"backend": n, "model": n, "vram": "14GiB"}]} for n in urls],
            "vram": {"max_total": "20GiB", "monitor_interval": "50ms"},
        }
        yield a, b, await stack.enter_async_context(routed(settings))


@pytest.mark.parametrize("options", [{}, {"sleep_level": 1}], ids=["found out", "declared"])
async def test_the_gate_wakes_one_vllm_and_puts_the_idle_one_to_sleep(options: dict[str, Any]):
    """A, then B, then A again, on a GPU with room for one; that they can sleep need not be said."""
    async with two_vllms(**options) as (a, b, client):
        for name in ("a", "b", "b", "a"):
            response = await client.post("/v1/chat/completions", json=chat(name))
            assert response.status_code == 200, response.text
            assert (a.asleep, b.asleep) == (name != "a", name != "b")
    assert a.log == ["/sleep?level=1&mode=wait", "/wake_up"]
    assert b.log == ["/wake_up", "/sleep?level=1&mode=wait"]


async def test_a_vllm_at_work_is_drained_before_it_sleeps():
    """A sleep aborts what is under way: B waits until A's answer is out."""
    async with two_vllms() as (a, b, client):
        a.may_answer.clear()
        first = asyncio.create_task(client.post("/v1/chat/completions", json=chat("a")))
        async with asyncio.timeout(5):
            while not a.in_flight:
                await asyncio.sleep(0.005)
        second = asyncio.create_task(client.post("/v1/chat/completions", json=chat("b")))
        await asyncio.wait({second}, timeout=0.3)
        assert (a.asleep, second.done()) == (False, False)
        a.may_answer.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
    assert (a.asleep, b.asleep, a.slept_while_busy) == (True, False, False)
