"""`type: auto` under the gate: what it is decides whether it is gated, before anything is loaded."""

from __future__ import annotations

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama

from .harness.routers import chat
from .harness.servers import serve


@pytest.mark.parametrize("discovery", [True, False])
async def test_the_first_request_already_is_gated(discovery: bool, monkeypatch: pytest.MonkeyPatch):
    """Two models that do not fit together never are in memory together, and the pinned one stays."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.1)
    models = [SimulatedModel(name, 14 * GIB, kv_bytes=0, overhead_bytes=0, load_s=1.0) for name in ("a", "b")]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.05) as engine:
        settings = Settings.model_validate(
            {
                "backends": {"local": {"type": "auto", "url": engine.base_url, "max_parallel": 1}},
                "models": [
                    {"name": n, "deployments": [{"backend": "local", "model": n, "vram": "14GiB", "max_parallel": 1}]}
                    for n in ("a", "b")
                ],
                "discovery": {"enabled": discovery},
                "vram": {"max_total": "20GiB"},
            }
        )
        router = SmartRouter(settings)
        async with serve(router, lifespan="off") as url, httpx.AsyncClient(timeout=30) as client:
            for name in ("a", "b", "a"):
                response = await client.post(f"{url}/v1/chat/completions", json=chat(name, max_tokens=3))
                assert response.status_code == 200, response.text
                assert response.headers["x-smartrouter-model"] == f"{name}:latest"
            residents = (await client.get(f"{url}/admin/vram")).json()["residents"]
        await router.aclose()
        assert engine.stats.peak_vram_bytes <= 20 * GIB
        assert [r["deployment"] for r in residents] == ["local/a:latest"]
