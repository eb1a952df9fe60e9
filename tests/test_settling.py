"""Engines of which it is not known at once what they can do: found out once, and never at a healthy one's cost."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from .harness.engines import good
from .harness.routers import chat
from .harness.servers import Exchange, RawServer, serve


async def hanging(exchange: Exchange) -> None:
    await exchange.gone()


@pytest.mark.parametrize("first", ["health", "monitor", "nobody"])
async def test_whoever_finds_out_the_deployments_are_gated(first: str, monkeypatch: pytest.MonkeyPatch):
    """`auto` settled by a health check or the monitor: the next request still sees that it is Ollama, and gated."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.1)
    models = [SimulatedModel("m", 4 * GIB, kv_bytes=0, overhead_bytes=0, load_s=1.0)]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.05) as engine:
        settings = Settings.model_validate(
            {
                "backends": {"local": {"type": "auto", "url": engine.base_url}},
                "models": [{"name": "m", "deployments": [{"backend": "local", "model": "m"}]}],
                "discovery": {"enabled": False},
                "vram": {"max_total": "20GiB", "monitor_interval": "50ms", "monitor_enabled": first == "monitor"},
            }
        )
        router = SmartRouter(settings)
        async with serve(router) as url, httpx.AsyncClient(timeout=20) as client:
            if first == "health":
                assert (await client.get(f"{url}/health")).status_code == 200
            elif first == "monitor":
                async with asyncio.timeout(5):
                    while not router.backends["local"].capabilities.can_load:
                        await asyncio.sleep(0.01)
            response = await client.post(f"{url}/v1/chat/completions", json=chat("m", max_tokens=2))
            assert response.headers["x-smartrouter-model"] == "m:latest"
            residents = (await client.get(f"{url}/admin/vram")).json()["residents"]
    assert [r["deployment"] for r in residents] == ["local/m:latest"]


async def test_a_dead_fallback_delays_nobody():
    """What a later candidate is need not be known before the first has answered."""
    async with RawServer(hanging) as dead, RawServer(good) as engine:
        settings = Settings.model_validate(
            {
                "backends": {
                    "main": {"type": "openai", "url": f"{engine.base_url}/v1"},
                    "spare": {"type": "auto", "url": dead.base_url},
                },
                "models": [
                    {
                        "name": "chat",
                        "deployments": [
                            {"backend": "main", "model": "engine-model", "order": 1},
                            {"backend": "spare", "model": "m", "order": 2},
                        ],
                    }
                ],
                "discovery": {"enabled": False},
                "vram": {"max_total": "20GiB"},
            }
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient(timeout=20) as client:
            started = time.monotonic()
            for _ in range(3):
                assert (await client.post(f"{url}/v1/chat/completions", json=chat())).status_code == 200
    assert time.monotonic() - started < 1.8


async def test_those_who_wait_for_one_look_share_what_it_saw():
    """Five requests to a server that hangs do not queue up behind five looks."""
    async with RawServer(hanging) as dead:
        settings = Settings.model_validate(
            {
                "backends": {"a": {"type": "auto", "url": dead.base_url}},
                "models": [{"name": "chat", "deployments": [{"backend": "a", "model": "m"}]}],
                "discovery": {"enabled": False},
                "resilience": {"retry": {"enabled": False}, "circuit_breaker": {"enabled": False}},
            }
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient(timeout=40) as client:
            started = time.monotonic()
            posts = [client.post(f"{url}/v1/chat/completions", json=chat()) for _ in range(5)]
            codes = {response.status_code for response in await asyncio.gather(*posts)}
    assert codes <= {502, 503, 504}
    assert time.monotonic() - started < 14
