"""The router in front of llama.cpp's own server: real engine, uvicorn, real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.events import RequestFinished

from ..harness.servers import serve
from .conftest import CTX_PER_SLOT, MODEL, SLOTS

pytestmark = pytest.mark.live

HELLO = [{"role": "user", "content": "hi"}]
IDLE_BOUND_S = 2.0  # the aim is 0.1 s; the machine may be busy with other tests
LONG_TOKENS = 8000  # takes the engine ten seconds and more: an end within the bound is a cancellation


def router_over_llama(url: str, *, type: str = "llama.cpp", **options: Any) -> SmartRouter:
    """A router that knows nothing but an address: the model's name comes from the engine."""
    return SmartRouter(Settings.model_validate({"backends": {"local": {"type": type, "url": url}}}), **options)


def body(**fields: Any) -> dict[str, Any]:
    """A small request whose answer is the same each time."""
    return {"model": MODEL, "messages": HELLO, "max_tokens": 16, "temperature": 0, "cache_prompt": False, **fields}


def long_body(**fields: Any) -> dict[str, Any]:
    return body(max_tokens=LONG_TOKENS, ignore_eos=True, **fields)


@asynccontextmanager
async def client_of(router: SmartRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(router) as url, httpx.AsyncClient(base_url=f"{url}/v1", timeout=30) as client:
        yield client


@asynccontextmanager
async def sdk_of(router: SmartRouter) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serve(router) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def poll(condition: Callable[[], Awaitable[bool]], *, within_s: float) -> float:
    """Ask a foreign engine until it says yes; return how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - started


class Engine:
    """The engine asked directly, past the router."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=30)

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def post(self, path: str, json: dict[str, Any]) -> httpx.Response:
        return await self._client.post(path, json=json)

    async def busy(self) -> bool:
        return any(slot["is_processing"] for slot in (await self._client.get("/slots")).json())

    async def idle(self) -> bool:
        return not await self.busy()

    async def decodes(self) -> str:
        """How often it has computed anything."""
        metrics = (await self._client.get("/metrics")).text
        found = re.search(r"^llamacpp:n_decode_total (\S+)$", metrics, re.MULTILINE)
        assert found is not None
        return found[1]


@pytest.fixture
async def engine(llama: str) -> AsyncIterator[Engine]:
    async with Engine(llama) as engine:
        yield engine


def without_volatile(data: bytes) -> bytes:
    """Blank out what differs between two equal answers: the id and every number outside the text (times, counts)."""
    data = re.sub(rb'"id":"chatcmpl-\w+"', b'"id":"X"', data)
    return re.sub(rb'(":)-?\d[\d.e+-]*', rb"\1N", data)


async def test_plain_answer_is_the_engines_own_bytes(llama: str, engine: Engine):
    """Fields no OpenAI schema knows arrive as they were, in their order."""
    async with client_of(router_over_llama(llama)) as client:
        response = await client.post("/chat/completions", json=body())
    direct = await engine.post("/v1/chat/completions", body())
    assert response.status_code == 200
    assert without_volatile(response.content) == without_volatile(direct.content)
    answer = response.json()
    assert answer["timings"]["predicted_n"] == answer["usage"]["completion_tokens"] > 0
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert response.headers["x-smartrouter-backend"] == "local"
    assert response.headers["x-smartrouter-model"] == MODEL


async def test_stream_is_the_engines_own_bytes(llama: str, engine: Engine):
    """Every event passes untouched, the usage chunk and `[DONE]` included."""
    request = body(stream=True, stream_options={"include_usage": True})
    async with client_of(router_over_llama(llama)) as client:
        response = await client.post("/chat/completions", json=request)
    direct = await engine.post("/v1/chat/completions", request)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert without_volatile(response.content) == without_volatile(direct.content)
    *chunks, usage, done = [line for line in response.text.split("\n\n") if line]
    assert done == "data: [DONE]"
    assert chunks
    last = json.loads(usage.removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert "timings" in last


@pytest.mark.parametrize("stream", [False, True])
async def test_legacy_completion_is_the_engines_own_bytes(llama: str, engine: Engine, stream: bool):
    """`/v1/completions` passes as chat does."""
    request = {"model": MODEL, "prompt": "hi", "max_tokens": 8, "temperature": 0, "stream": stream}
    async with client_of(router_over_llama(llama)) as client:
        response = await client.post("/completions", json=request)
    direct = await engine.post("/v1/completions", request)
    assert response.status_code == 200
    assert without_volatile(response.content) == without_volatile(direct.content)


async def test_json_schema_gives_valid_json(llama: str):
    """`response_format` reaches the engine and binds it, even one of random weights."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "level": {"enum": [1, 2, 3]}},
        "required": ["ok", "level"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "state", "schema": schema, "strict": True}}
    async with client_of(router_over_llama(llama)) as client:
        response = await client.post("/chat/completions", json=body(max_tokens=400, response_format=wanted))
    value = json.loads(response.json()["choices"][0]["message"]["content"])
    assert set(value) == {"ok", "level"}
    assert value["level"] in (1, 2, 3)


async def test_embeddings_are_served(llama_embeddings: str):
    """One vector for each input, equal inputs the same; the SDK asks for base64 and decodes it."""
    async with sdk_of(router_over_llama(llama_embeddings)) as client:
        answer = await client.embeddings.create(model=MODEL, input=["one", "two", "one"])
    first, second, third = (item.embedding for item in answer.data)
    assert len(first) == 64
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)


async def test_embeddings_the_engine_refuses_are_501(llama: str):
    """A server without `--embeddings` says so, and its words reach the client."""
    async with sdk_of(router_over_llama(llama)) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.embeddings.create(model=MODEL, input="one")
    assert caught.value.status_code == 501
    assert "--embeddings" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
async def test_context_overflow_is_a_bad_request_before_anything_is_sent(llama: str, stream: bool):
    """The engine's own type of error becomes the code OpenAI clients know, at `create`, not in the stream."""
    long = [{"role": "user", "content": "x" * (CTX_PER_SLOT + 100)}]
    async with sdk_of(router_over_llama(llama)) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=long, max_tokens=4, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "exceeds the available context size" in caught.value.message
    assert caught.value.request_id


async def test_engines_own_refusal_passes(llama: str):
    """More choices than slots: 400 with the engine's message."""
    async with sdk_of(router_over_llama(llama)) as client:
        with pytest.raises(openai.BadRequestError, match="Value must be between") as caught:
            await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, n=SLOTS + 3)
    assert caught.value.code == "invalid_request"


async def test_client_leaving_a_stream_frees_the_slot(llama: str, engine: Engine):
    """The engine stops working for nobody."""
    await poll(engine.idle, within_s=15)
    async with client_of(router_over_llama(llama)) as client:
        async with client.stream("POST", "/chat/completions", json=long_body(stream=True)) as response:
            lines = response.aiter_lines()  # kept: an iterator that is dropped closes its stream
            while not await anext(lines):
                pass
            await poll(engine.busy, within_s=5)
        await poll(engine.idle, within_s=IDLE_BOUND_S)


async def test_client_leaving_a_plain_request_is_let_go_at_once(llama: str, engine: Engine):
    """Nothing is in flight here any more, while `is_idle` goes on telling the truth about the engine.

    This build of llama.cpp does not stop for a plain request whose connection was closed (seen with bare sockets too,
    without a router): which is why a lease drains until `is_idle` says yes.
    """
    await poll(engine.idle, within_s=15)
    left = Left()
    router = router_over_llama(llama, observers=(left,))
    backend = router.backends["local"]

    async def seen_idle() -> bool:
        return bool(await backend.is_idle(MODEL))

    async with client_of(router) as client:
        request = asyncio.create_task(client.post("/chat/completions", json=body(max_tokens=2000, ignore_eos=True)))
        await poll(engine.busy, within_s=5)
        assert not await seen_idle()
        request.cancel()
        async with asyncio.timeout(0.5):  # the aim is 0.1 s
            await left.wait()
        assert 'smartrouter_inflight{backend="local"} 0.0' in (await client.get("../metrics")).text
        await poll(seen_idle, within_s=20)
        assert await engine.idle()


class Left(asyncio.Event):
    """An observer, set once a request has ended because its client left."""

    def on_event(self, event: object) -> None:
        if isinstance(event, RequestFinished) and event.outcome == "client_disconnected":
            self.set()


async def test_discovery_lists_the_engines_id(llama: str):
    """`/v1/models` names the model as the engine does, without any configuration of it."""
    async with sdk_of(router_over_llama(llama)) as client:
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == [MODEL]
        assert listed[0].owned_by == "llamacpp"
        assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_unknown_model_never_reaches_the_engine(llama: str, engine: Engine):
    """The engine would serve any name with its one model; the router does not let it."""
    await poll(engine.idle, within_s=15)
    before = await engine.decodes()
    async with sdk_of(router_over_llama(llama)) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="tiny-lama", messages=HELLO, max_tokens=4)
    assert caught.value.code == "model_not_found"
    assert f"did you mean '{MODEL}'" in caught.value.message
    assert await engine.decodes() == before


async def test_health_says_up(llama: str):
    """`/health` asks the engine."""
    async with client_of(router_over_llama(llama)) as client:
        response = await client.get("../health")
    assert response.status_code == 200
    assert response.json()["backends"]["local"] == {"state": "up", "type": "llama.cpp", "breaker": "closed"}


async def test_more_requests_than_slots_all_answer(llama: str):
    """The engine queues what it has no slot for; every request gets the same answer."""
    async with client_of(router_over_llama(llama)) as client:
        answers = await asyncio.gather(*(client.post("/chat/completions", json=body()) for _ in range(4 * SLOTS)))
    assert [answer.status_code for answer in answers] == [200] * 4 * SLOTS
    assert all(answer.json()["usage"]["completion_tokens"] == 16 for answer in answers)


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_auto_finds_out_that_it_is_llama_cpp(llama: str, suffix: str):
    """An address is enough, however it is written."""
    async with client_of(router_over_llama(llama + suffix, type="auto")) as client:
        response = await client.post("/chat/completions", json=body())
        health = (await client.get("../health")).json()
    assert response.status_code == 200
    assert health["backends"]["local"]["type"] == "llama.cpp"
