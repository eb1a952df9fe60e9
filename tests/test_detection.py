"""What a URL is, told by the shape of its answers: never by its port, for free, and without waking anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi.backends import auto, registry
from smartrouter_asgi.backends.auto import AutoBackend, detect, root_of, url_for
from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.cli import lookaround
from smartrouter_asgi.cli.lookaround import Found, look_around, with_found
from smartrouter_asgi.config import Settings
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.testing.contract import PATIENCE_S
from smartrouter_asgi.testing.ollama import SimulatedOllama, demo_models
from smartrouter_asgi.transport.httpx_transport import HttpxTransport
from smartrouter_asgi.types import Secret

from .contract.engines import (
    SCRIPTED,
    VLLM,
    Azure,
    Bedrock,
    Engine,
    LiteLLM,
    LlamaCpp,
    LlamaCppRouter,
    LlamaSwap,
    OllamaV1,
    Vertex,
    dump,
)
from .harness.servers import Exchange, RawServer
from .live.conftest import llama, tiny_model  # noqa: F401 - fixtures

MOST_REQUESTS = 9
LOCAL = [engine for engine in SCRIPTED if engine not in (Azure, Bedrock, Vertex)]
CLOUDS_WITHOUT_A_SIGN = {"openrouter": "openai", "together": "openai"}


@asynccontextmanager
async def asking(url: str, **fields: Any) -> AsyncIterator[tuple[BackendSpec, HttpxTransport]]:
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=20) as client:
        yield BackendSpec(name="box", type="auto", url=url, **fields), HttpxTransport(client)


async def kind_of(url: str, **fields: Any) -> str | None:
    async with asking(url, **fields) as (spec, transport):
        return await detect(spec, transport)


def keys_of(engine: Engine) -> tuple[Secret, ...]:
    return (Secret(engine.key),) if engine.key else ()


@pytest.mark.parametrize("given_version", [False, True], ids=["root", "v1"])
@pytest.mark.parametrize("engine", [e for e in LOCAL if e.type != "anthropic"], ids=lambda engine: engine.__name__)
async def test_each_shape_is_told(engine: type[Engine], given_version: bool):
    """With the address of its root or of its API; the same few questions, every one a GET that costs nothing."""
    script = engine()
    async with RawServer(script) as server:
        url = server.base_url + script.version.removesuffix("/v1") + ("/v1" if given_version else "")
        found = await kind_of(url, api_keys=keys_of(script))
    assert found == CLOUDS_WITHOUT_A_SIGN.get(script.type, script.type)
    assert len(script.requests) <= MOST_REQUESTS
    assert {method for method, _ in script.requests} == {"GET"}
    asked = [path for _, path in script.requests]
    assert len(asked) == len(set(asked)), "no question twice"
    assert not set(asked) & set(script.forbidden)


async def test_ollama_takes_one_question():
    """And nothing is loaded by it."""
    async with SimulatedOllama(demo_models(), time_scale=0.01) as engine:
        assert await kind_of(engine.base_url) == "ollama"
        assert await kind_of(engine.base_url + "/v1") == "ollama"
        assert engine.stats.requests == 2
        assert engine.stats.loads_started == 0


async def test_a_real_llama_server(llama: str):  # noqa: F811 - the fixture
    """llama.cpp's own server says that the models are its own."""
    assert await kind_of(llama) == "llama.cpp"


async def test_litellm_is_never_asked_for_its_health():
    """That would call every model behind it, for money; its liveliness is free."""
    script = LiteLLM()
    async with RawServer(script) as server:
        assert await kind_of(server.base_url, api_keys=keys_of(script)) == "litellm"
    assert ("GET", "/health/liveliness") in script.requests
    assert all(path != "/health" for _, path in script.requests)


async def test_whoever_it_is_no_health_is_asked():
    """Before it is known what something is, `/health` might be LiteLLM's."""
    script = OllamaV1()
    async with RawServer(script) as server:
        assert await kind_of(server.base_url) == "openai"
    assert all(path not in ("/health", "/health_generate", "/v1/chat/completions") for _, path in script.requests)


@pytest.mark.parametrize("engine", [LlamaCppRouter, LlamaSwap])
async def test_nothing_is_loaded(engine: type[Engine]):
    """Engines that load on demand are asked nothing that demands it."""
    script = engine()
    async with RawServer(script) as server:
        await kind_of(server.base_url, api_keys=keys_of(script))
    assert all("upstream" not in path and "load" not in path for _, path in script.requests)
    states = getattr(script, "running", None) or set(getattr(script, "states", {}).values())
    assert not states or states == {"unloaded"}


async def test_owners_that_differ_tell_nothing():
    """A gateway lists models of many engines: their owners are not what it is."""

    class Gateway(Engine):
        source = "a gateway in front of several engines"
        key = None

        def models(self) -> list[str]:
            return ["a", "b"]

        def listed(self, name: str) -> dict[str, Any]:
            return {**super().listed(name), "owned_by": "vllm" if name == "a" else "llamacpp"}

    async with RawServer(Gateway()) as server:
        assert await kind_of(server.base_url) == "openai"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/props", {"default_generation_settings": {}, "total_slots": 1}, "llama.cpp"),
        ("/props", {"role": "router", "max_instances": 4}, "llama.cpp"),
        ("/running", {"running": []}, "llama-swap"),
        ("/running", {"running": True}, None),
        ("/api/v1/models", {"models": [{"key": "m", "loaded_instances": []}]}, "lmstudio"),
        ("/api/v1/models", {"data": [{"id": "m"}]}, None),
        ("/api/v0/models", {"data": [{"id": "m", "state": "not-loaded"}]}, "lmstudio"),
        ("/api/v0/models", {"data": []}, None),
        ("/info", {"model_id": "m", "max_total_tokens": 4096}, "tgi"),
        ("/info", {"name": "some service"}, None),
        ("/health/liveliness", "I'm alive!", "litellm"),
        ("/health/liveliness", {"status": "ok"}, None),
        ("/system", {"backends": [], "loaded_models": []}, "localai"),
        ("/system", ["linux"], None),
        ("/v1/models", [], "openai"),
        ("/v1/models", {"data": []}, "openai"),
        ("/v1/models", {"data": [{"id": "m", "owned_by": None}]}, "openai"),
        ("/v1/models", {"data": ["m"]}, None),
        ("/v1/models", {"error": "Unexpected endpoint or method."}, None),
        ("/api/version", {"version": 3}, None),
    ],
)
async def test_each_sign_alone(path: str, body: Any, kind: str | None):
    """One answer of that shape is enough; one that is nearly so is not."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == path:
            await exchange.answer(200, dump(body))
        else:
            await exchange.answer(404, b"<html>not here</html>", "text/html")

    async with RawServer(script) as server:
        assert await kind_of(server.base_url) == kind
        assert len(server.exchanges) <= MOST_REQUESTS


async def test_a_web_server_is_nobody():
    """One that answers every path with a page is none of those known here."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, b"<html>Welcome</html>", "text/html")

    async with RawServer(script) as server:
        assert await kind_of(server.base_url) is None
        async with asking(server.base_url) as (spec, transport):
            with pytest.raises(AttemptError, match="like no engine known here: set its `type`"):
                await AutoBackend(spec, transport).ping()


async def test_a_wrong_key_is_said():
    """What it is cannot be told then, and guessing would hide the reason."""
    script = VLLM()
    async with RawServer(script) as server:
        with pytest.raises(AttemptError) as caught:
            await kind_of(server.base_url, api_keys=(Secret("another-key-0123456789"),))
    assert caught.value.kind is FailureKind.AUTH
    assert "another-key" not in caught.value.message
    assert len(script.requests) <= MOST_REQUESTS


async def test_an_engine_that_loads_is_asked_again_later():
    """llama.cpp says 503 to everything while it loads: no kind is settled upon by that."""
    script = LlamaCpp()
    loading = True

    async def either(exchange: Exchange) -> None:
        if loading:
            await exchange.answer(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
        else:
            await script(exchange)

    async with RawServer(either) as server, asking(server.base_url, api_keys=keys_of(script)) as (spec, transport):
        backend = AutoBackend(spec, transport)
        with pytest.raises(AttemptError) as caught:
            await backend.list_models()
        assert caught.value.status == 503
        assert len(server.exchanges) <= 2, "a server that can answer nothing now is not asked everything"
        assert not backend.is_settled
        loading = False
        assert [model.id for model in await backend.list_models()] == [LlamaCpp.model]
        assert backend.type == "llama.cpp"


async def test_nothing_listens():
    """One connection is tried, and the failure is one to connect."""
    async with RawServer(OllamaV1()) as server:
        url = server.base_url
    with pytest.raises(AttemptError) as caught:
        await kind_of(url)
    assert caught.value.kind is FailureKind.CONNECT


async def test_a_server_that_says_nothing_takes_no_longer_than_allowed(monkeypatch: pytest.MonkeyPatch):
    """However many questions there are: the bound is over all of them."""
    monkeypatch.setattr(auto, "PROBE_TIMEOUT_S", 0.05)

    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    async with RawServer(script) as server, asking(server.base_url) as (spec, transport):
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(AttemptError) as caught:
                await detect(spec, transport, within_s=0.02)
            assert caught.value.kind is FailureKind.FIRST_TOKEN_TIMEOUT
            with pytest.raises(AttemptError) as caught:
                await detect(spec, transport)
            assert caught.value.kind is FailureKind.FIRST_TOKEN_TIMEOUT
        assert len(server.exchanges) <= 3


async def test_a_list_is_enough_when_the_rest_hangs():
    """A server that lists models is served as OpenAI's kind, whatever its other paths do."""
    script = OllamaV1()

    async def slow(exchange: Exchange) -> None:
        if exchange.path in ("/api/version", "/v1/models"):
            await script(exchange)
        else:
            await exchange.gone()

    async with RawServer(slow) as server, asking(server.base_url) as (spec, transport):
        assert await detect(spec, transport, within_s=0.5) == "openai"


async def test_a_kind_that_nobody_provides_is_served_as_openai(monkeypatch: pytest.MonkeyPatch):
    """Its list and its chat are OpenAI's all the same."""
    monkeypatch.setattr(registry, "_BUILT_IN", {k: v for k, v in registry._BUILT_IN.items() if k != "vllm"})
    script = VLLM()
    async with RawServer(script) as server:
        assert await kind_of(server.base_url, api_keys=keys_of(script)) == "openai"


async def test_it_is_asked_once_however_many_ask():
    """And then it is that backend, with its address as that type wants it."""
    script = LlamaSwap()
    async with RawServer(script) as server, asking(server.base_url, api_keys=keys_of(script)) as (spec, transport):
        backend = AutoBackend(spec, transport)
        await asyncio.gather(*(backend.list_models() for _ in range(5)))
        assert backend.type == "llama-swap"
        assert backend.capabilities.can_load
        assert [path for _, path in script.requests].count("/api/version") == 1


def test_addresses():
    """Only OpenAI's kind has its version in its address."""
    assert root_of("http://box:1/v1/") == "http://box:1"
    assert url_for("openai", "http://box:1") == "http://box:1/v1"
    assert url_for("openai", "http://box:1/v1") == "http://box:1/v1"
    assert url_for("vllm", "http://box:1") == "http://box:1"


async def test_looking_around_tells_kinds_by_shape():
    """`serve` without a configuration: each open port by what it answers, and settings made of that."""
    scripts = [VLLM(), LlamaCppRouter(), OllamaV1()]
    for script in scripts:
        script.key = None
    async with RawServer(scripts[0]) as one, RawServer(scripts[1]) as two, RawServer(scripts[2]) as three:
        ports = [int(server.base_url.rpartition(":")[2]) for server in (one, two, three)]
        found = await look_around(ports, within_s=10)
    assert [engine.type for engine in found] == ["vllm", "llama.cpp", "openai"]
    assert [engine.url for engine in found] == [
        f"http://127.0.0.1:{ports[0]}",
        f"http://127.0.0.1:{ports[1]}",
        f"http://127.0.0.1:{ports[2]}/v1",
    ]
    settings = with_found(Settings(), found)
    assert {name: backend.type for name, backend in settings.backends.items()} == {
        "vllm": "vllm",
        "llama.cpp": "llama.cpp",
        "openai": "openai",
    }


async def test_looking_around_names_what_it_cannot_tell():
    """Something that hangs is there, and is said to be; what refuses connections is not."""

    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    async with RawServer(script) as server:
        port = int(server.base_url.rpartition(":")[2])
        assert await look_around([port], within_s=0.1) == (Found(port=port, type=None),)
    assert await look_around([port], within_s=0.5) == ()


def test_ports_are_where_to_look_and_nothing_more():
    """No port stands for a kind."""
    assert len(set(lookaround.PORTS)) == len(lookaround.PORTS)
    assert {11434, 8080, 8000, 1234, 30000, 4000} <= set(lookaround.PORTS)
