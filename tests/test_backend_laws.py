"""Laws of the backends that no single engine's tests show."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import EntryPoint, EntryPoints

import httpx
import pytest

from smartrouter_asgi import BackendSpec, Deployment, Settings, SmartRouter
from smartrouter_asgi.backends import registry
from smartrouter_asgi.backends.credentials import judge
from smartrouter_asgi.backends.http_exchange import HTTPUpstream
from smartrouter_asgi.backends.openai_compat import OpenAICompatBackend
from smartrouter_asgi.exceptions import ConfigurationError, FailureKind
from smartrouter_asgi.testing.asgi import drive, http_scope
from smartrouter_asgi.transport.direct.transport import DirectTransport
from smartrouter_asgi.wire.call import Call
from smartrouter_asgi.wire.upstream_errors import MAX_MESSAGE_LENGTH, classify_answer

from .harness.engines import good
from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve


def router_of(backend: dict, **resilience: object) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"b": backend},
                "models": [{"name": "chat", "deployments": [{"backend": "b", "model": "engine-model"}]}],
                "discovery": {"enabled": False},
                "resilience": resilience,
            }
        )
    )


@pytest.mark.parametrize("key", ["Zq9abcdefghijklmnopqrstuvwxyz012345", "Zq9abc/one/two/three+REST_OF_KEY=="])
async def test_no_part_of_a_key_is_left_by_the_cut_or_by_the_hiding_of_paths(key: str):
    """A key is hidden before the text around it is shortened or changed."""

    async def quoting(exchange: Exchange) -> None:
        message = "x" * (MAX_MESSAGE_LENGTH - 20) + f" key={key}"
        await exchange.answer(400, json.dumps({"error": {"message": message}}).encode())

    async with RawServer(quoting) as engine:
        router = router_of({"type": "openai", "url": f"{engine.base_url}/v1", "api_keys": [key]})
        async with serve(router) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.status_code == 400
    assert "Zq9abc" not in response.text
    assert "REST_OF_KEY" not in response.text


def test_a_403_about_a_model_says_nothing_of_the_key():
    """Another model may be allowed to it."""
    body = b'{"error": {"message": "no access", "code": "model_not_found"}}'
    error = classify_answer("b", 403, body)
    assert (error.kind, error.status) == (FailureKind.MODEL_MISSING, 404)
    assert judge(403, error, body) is None


def test_an_entry_point_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch):
    """A configuration error, not a traceback out of somebody's package."""
    broken = EntryPoint(name="broken", value="no_such_package_here:Backend", group=registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([broken]))
    with pytest.raises(ConfigurationError, match=r"'broken' .*no_such_package_here:Backend.*ModuleNotFoundError"):
        registry.find_factory("broken")


async def test_a_model_that_thinks_long_before_the_call_it_must_make_is_not_a_silent_one():
    """What is kept back on purpose still shows that the engine is at work."""

    async def thinking(exchange: Exchange) -> None:
        await exchange.start_stream("application/x-ndjson")
        base = {"model": "engine-model:latest", "created_at": "2026-01-01T00:00:00Z"}
        for _ in range(8):
            message = {"role": "assistant", "content": "", "thinking": "hm"}
            await exchange.chunk(json.dumps({**base, "message": message, "done": False}).encode() + b"\n")
            await asyncio.sleep(0.4)
        call = {"function": {"name": "f", "arguments": {}}}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        await exchange.chunk(json.dumps({**base, "message": message, "done": True, "done_reason": "stop"}).encode())
        await exchange.end_stream()

    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with RawServer(thinking) as engine:
        router = router_of(
            {"type": "ollama", "url": engine.base_url},
            timeouts={"first_token": "1500ms", "first_token_cold": "1500ms", "idle": "1500ms"},
        )
        async with serve(router) as url, httpx.AsyncClient(timeout=20) as client:
            body = chat(stream=True, tools=tools, tool_choice="required")
            response = await client.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert '"tool_calls"' in response.text
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("status", [403, 500])
async def test_a_vllm_behind_a_proxy_that_hides_its_sleep_still_lists_its_models(status: int):
    """What `/is_sleeping` says is no reason to lose a good list."""

    async def script(exchange: Exchange) -> None:
        if exchange.path == "/is_sleeping":
            await exchange.answer(status, b"<html>no</html>", "text/html")
        else:
            await good(exchange)

    async with RawServer(script) as engine:
        settings = Settings.model_validate({"backends": {"v": {"type": "vllm", "url": engine.base_url}}})
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient() as client:
            listed = await client.get(f"{url}/v1/models")
            response = await client.post(f"{url}/v1/chat/completions", json=chat("engine-model"))
    assert [model["id"] for model in listed.json()["data"]] == ["engine-model"]
    assert response.status_code == 200


class Outside(OpenAICompatBackend):
    """A backend from outside the package, which asks somebody something before each call."""

    def __init__(self) -> None:
        super().__init__(BackendSpec(name="outside", type="openai", url="http://127.0.0.1:9/v1"), DirectTransport())
        self.asking = asyncio.Event()
        self.ended_by = ""

    async def open(self, call: Call, deployment: Deployment) -> HTTPUpstream:
        self.asking.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            self.ended_by = str(exc)
            raise
        return await super().open(call, deployment)


async def test_what_a_backend_from_outside_waits_for_is_ended_by_a_scope_of_anyio_s():
    """Also where it inherits all else: over httpx a native cancellation would lose a connection."""
    backend = Outside()
    settings = Settings.model_validate(
        {
            "backends": {"outside": {"type": "openai", "url": backend.spec.url}},
            "models": [{"name": "chat", "deployments": [{"backend": "outside", "model": "engine-model"}]}],
            "discovery": {"enabled": False},
        }
    )
    router = SmartRouter(settings, backends={"outside": backend})
    async with drive(router, http_scope("POST", "/v1/chat/completions"), body=json.dumps(chat()).encode()) as call:
        await backend.asking.wait()
        call.disconnect()
        await call.ended()
    assert "cancel scope" in backend.ended_by
    await router.aclose()
