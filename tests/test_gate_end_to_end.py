"""One GPU, more models than fit: a client, the router with its gate, a simulated Ollama, all over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama

from .harness.engines import good
from .harness.routers import chat
from .harness.servers import RawServer, serve
from .harness.sockets import raw_request
from .harness.transports import on_both_transports


def model(name: str, gib: int, **fields: Any) -> SimulatedModel:
    """A model whose footprint is exactly its size."""
    fields = {"kv_bytes": 0, "overhead_bytes": 0, "load_s": 3.0, "tokens_per_s": 50.0, **fields}
    return SimulatedModel(name, gib * GIB, **fields)


MODELS = [model("small", 4), model("medium", 8), model("large", 14), model("huge", 40)]


@asynccontextmanager
async def rig(
    *, vram: dict[str, Any] | None = None, models: list[SimulatedModel] = MODELS, **engine: Any
) -> AsyncIterator[tuple[SimulatedOllama, SmartRouter, str, httpx.AsyncClient]]:
    """An engine, a gated router over it, the router's URL, a client."""
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.05, **engine) as ollama:
        settings = Settings.model_validate(
            {
                "backends": {"local": {"type": "ollama", "url": ollama.base_url}},
                "models": [
                    {"name": m.name, "deployments": [{"backend": "local", "model": m.name, "vram": m.size_bytes}]}
                    for m in models
                ],
                "resilience": {"retry": {"base_delay": "10ms"}},
                "vram": {"max_total": "20GiB", "release_grace": "300ms", "monitor_interval": "100ms", **(vram or {})},
            }
        )
        router = SmartRouter(settings)
        async with serve(router) as url, httpx.AsyncClient(timeout=30) as client:
            yield ollama, router, url, client


@pytest.fixture(autouse=True)
def _scaled_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated memory comes back twenty times as fast as a real GPU's."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.1)


async def ask(client: httpx.AsyncClient, url: str, name: str, **fields: Any) -> httpx.Response:
    return await client.post(f"{url}/v1/chat/completions", json=chat(name, max_tokens=5, **fields))


def loaded(engine: SimulatedOllama) -> set[str]:
    return {name.removesuffix(":latest") for name in engine.loaded}


async def test_a_model_is_loaded_by_the_gate_once_for_all_its_waiters():
    """Single flight: ten requests, one load, ten answers."""
    async with rig(num_parallel=4) as (engine, _, url, client):
        answers = await asyncio.gather(*(ask(client, url, "small") for _ in range(10)))
        assert [a.status_code for a in answers] == [200] * 10
        assert engine.stats.loads == 1


async def test_what_fits_together_stays_together():
    """No swap between models that fit."""
    async with rig() as (engine, _, url, client):
        for name in ("small", "medium", "small", "medium"):
            assert (await ask(client, url, name)).status_code == 200
        assert loaded(engine) == {"small", "medium"}
        assert engine.stats.loads == 2
        assert engine.stats.unloads == 0


async def test_the_longest_unused_model_makes_room():
    """LRU: 'medium' was used after 'small'; 'large' needs more than 'small' leaves, so both go."""
    async with rig() as (engine, _, url, client):
        for name in ("small", "medium"):
            await ask(client, url, name)
        assert (await ask(client, url, "large")).status_code == 200
        assert loaded(engine) == {"small", "large"} or loaded(engine) == {"large"}
        assert "large" in loaded(engine)
        assert engine.stats.peak_vram_bytes <= 20 * GIB


async def test_a_model_in_use_is_never_evicted():
    """The second model waits until the first stream has ended, then gets its turn."""
    async with rig(models=[model("a", 14, answer_tokens=60), model("b", 14)]) as (engine, _router, url, client):
        async with client.stream("POST", f"{url}/v1/chat/completions", json=chat("a", stream=True)) as first:
            lines = first.aiter_lines()
            await anext(lines)
            second = asyncio.create_task(ask(client, url, "b"))
            await engine.wait_for(lambda e: e.stats.active_generations == 1)
            rest = [line async for line in lines]
            assert rest[-2] == "data: [DONE]" or "data: [DONE]" in rest
        assert (await second).status_code == 200
        assert loaded(engine) == {"b"}
        assert engine.stats.aborted_generations == 0


async def test_a_wait_ends_with_vram_queue_timeout():
    """503 with Retry-After after `max_wait`; the running stream is not disturbed."""
    async with rig(models=[model("a", 14, answer_tokens=200), model("b", 14)], vram={"max_wait": "300ms"}) as (
        _engine,
        _router,
        url,
        client,
    ):
        async with client.stream("POST", f"{url}/v1/chat/completions", json=chat("a", stream=True)) as first:
            lines = first.aiter_lines()  # kept: an iterator that is dropped closes its stream
            await anext(lines)
            response = await ask(client, url, "b")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "vram_queue_timeout")
    assert int(response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in response.headers


async def test_a_model_larger_than_the_budget_is_refused_at_once():
    """503 vram_exhausted; the engine is not asked."""
    async with rig() as (engine, _, url, client):
        started = time.monotonic()
        response = await ask(client, url, "huge")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "vram_exhausted")
        assert time.monotonic() - started < 5
        assert engine.stats.loads == 0


async def test_a_client_that_leaves_the_queue_causes_no_load():
    """The waiter is gone at once."""
    async with rig(models=[model("a", 14, answer_tokens=200), model("b", 14)]) as (engine, router, url, client):
        assert router.gate is not None
        async with client.stream("POST", f"{url}/v1/chat/completions", json=chat("a", stream=True)) as first:
            lines = first.aiter_lines()  # kept: an iterator that is dropped closes its stream
            await anext(lines)
            async with raw_request(url, chat("b")):
                async with asyncio.timeout(5):
                    while not router.gate.queue_depths():
                        await asyncio.sleep(0.01)
            async with asyncio.timeout(0.5):
                while router.gate.queue_depths():
                    await asyncio.sleep(0.01)
        assert loaded(engine) == {"a"}


@on_both_transports
async def test_row_65_the_lease_of_a_client_that_left_drains_for_the_grace():
    """Ollama cannot say that it is idle: the lease is held until `release_grace`, then memory may be used."""
    async with rig(models=[model("a", 14, answer_tokens=500), model("b", 14)], vram={"release_grace": "600ms"}) as (
        engine,
        router,
        url,
        client,
    ):
        assert router.gate is not None
        async with raw_request(url, chat("a", stream=True)) as (reader, _):
            await reader.readuntil(b"data: ")
        left_at = time.monotonic()
        await engine.wait_for(lambda e: e.stats.active_generations == 0)
        async with asyncio.timeout(2):
            while not any(r.draining for r in router.gate.snapshot().residents):
                await asyncio.sleep(0.005)
        assert (await ask(client, url, "b")).status_code == 200
        assert time.monotonic() - left_at >= 0.6


@on_both_transports
async def test_row_63_out_of_memory_at_load_is_503_and_leaves_the_breaker_alone():
    """The engine's own words become `vram_exhausted`; the next request tries again."""
    async with rig() as (engine, router, url, client):
        engine.faults.set(Fault(load_error="cudaMalloc failed: out of memory"), model="small")
        response = await ask(client, url, "small")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "vram_exhausted")
        assert {state for _, _, state in router.breakers.states()} <= {"closed"}
        engine.faults.clear()
        assert (await ask(client, url, "small")).status_code == 200


async def test_row_40_alternating_models_swap_in_turns_and_nobody_is_lost():
    """A,B,A,B on a GPU with room for one: everybody is served, waiters of a model together."""
    async with rig(models=[model("a", 14), model("b", 14)], num_parallel=8) as (engine, _, url, client):
        answers = await asyncio.gather(*(ask(client, url, "ab"[number % 2]) for number in range(12)))
        assert [a.status_code for a in answers] == [200] * 12
        assert engine.stats.loads <= 4
        assert engine.stats.peak_vram_bytes <= 20 * GIB


async def test_a_model_loaded_behind_our_back_is_noticed():
    """`/api/ps` is believed: what is in memory already is served without a load of ours, at its measured size."""
    async with rig() as (engine, _router, url, client):
        async with httpx.AsyncClient() as other:
            await other.post(f"{engine.base_url}/api/generate", json={"model": "medium", "keep_alive": -1})
        loads = engine.stats.loads
        assert (await ask(client, url, "medium")).status_code == 200
        assert engine.stats.loads == loads
        vram = (await client.get(f"{url}/admin/vram")).json()
        assert [(r["deployment"], r["measured"]) for r in vram["residents"]] == [("local/medium:latest", True)]


async def test_pinned_models_stay():
    """A pinned model is never evicted, and what cannot fit beside it is refused."""
    async with rig(vram={"pinned": ["medium"], "preload": ["medium"]}) as (engine, _, url, client):
        assert loaded(engine) == {"medium"}
        response = await ask(client, url, "large")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "vram_exhausted")
        assert loaded(engine) == {"medium"}


async def test_the_operator_loads_pins_and_unloads():
    """`/admin/models/{name}/...` does what it says and says what it did."""
    async with rig() as (engine, _, url, client):
        assert (await client.post(f"{url}/admin/models/small/load")).json()["loaded"] is True
        assert loaded(engine) == {"small"}
        assert (await client.post(f"{url}/admin/models/small/pin")).json()["pinned"] is True
        vram = (await client.get(f"{url}/admin/vram")).json()
        assert vram["residents"][0]["pinned"] is True
        assert vram["budget_bytes"] == 20 * GIB
        assert (await client.post(f"{url}/admin/models/small/unpin")).json()["unpinned"] is True
        assert (await client.post(f"{url}/admin/models/small/unload")).json()["unloaded"] is True
        assert loaded(engine) == set()
        assert (await client.post(f"{url}/admin/models/small/unload")).json()["unloaded"] is False
        assert (await client.post(f"{url}/admin/models/nope/load")).status_code == 404
        assert (await client.post(f"{url}/admin/models/small/dance")).status_code == 404


async def test_num_ctx_and_keep_alive_are_the_same_in_load_and_request():
    """Otherwise Ollama would load the model a second time."""
    async with rig() as (engine, _, url, client):
        await ask(client, url, "small")
        sent = [r.body for r in engine.log if r.path in ("/api/generate", "/api/chat") and isinstance(r.body, dict)]
        assert len(sent) == 2
        assert {json.dumps(body.get("keep_alive")) for body in sent} == {"-1"} or {
            body.get("keep_alive") for body in sent
        } == {-1.0}
        assert engine.stats.loads == 1


async def test_discovered_models_are_gated_by_their_size_on_disk():
    """Without configuration a listed size is the estimate, until it is measured."""
    async with SimulatedOllama([model("a", 12), model("b", 12)], gpu_bytes=24 * GIB, time_scale=0.05) as engine:
        settings = Settings.model_validate(
            {"backends": {"local": {"type": "ollama", "url": engine.base_url}}, "vram": {"max_total": "20GiB"}}
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient(timeout=30) as client:
            for name in ("a", "b:latest", "a:latest"):
                assert (await ask(client, url, name)).status_code == 200
        assert engine.stats.peak_vram_bytes <= 20 * GIB
        assert engine.stats.loads == 3


async def test_a_request_that_is_refused_moves_no_model():
    """A 400 comes before the gate: nothing is evicted or loaded for it."""
    async with rig() as (engine, _, url, client):
        await ask(client, url, "medium")
        response = await ask(client, url, "large", logit_bias={"1": 5})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")
        assert loaded(engine) == {"medium"}
        assert engine.stats.loads == 1


async def test_a_candidate_that_cannot_honour_a_request_is_left_out():
    """The other one serves it, at the first attempt; with none left the refusal is the answer."""
    async with (
        SimulatedOllama([model("a", 4)], gpu_bytes=24 * GIB, time_scale=0.05) as ollama,
        RawServer(good) as other,
    ):
        settings = Settings.model_validate(
            {
                "backends": {
                    "local": {"type": "ollama", "url": ollama.base_url},
                    "cloud": {"type": "openai", "url": f"{other.base_url}/v1"},
                },
                "models": [
                    {
                        "name": "chat",
                        "deployments": [
                            {"backend": "local", "model": "a", "order": 1},
                            {"backend": "cloud", "model": "engine-model", "order": 2},
                        ],
                    }
                ],
                "vram": {"max_total": "20GiB"},
            }
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient(timeout=30) as client:
            response = await ask(client, url, "chat", logit_bias={"1": 5})
            assert response.status_code == 200
            assert response.headers["x-smartrouter-backend"] == "cloud"
            assert response.headers["x-smartrouter-attempts"] == "1"
            response = await ask(client, url, "chat")
            assert response.headers["x-smartrouter-backend"] == "local"
