"""What a model should need, from what its engine tells to what the gate reserves for it: over a simulated Ollama."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.deployment import Deployment, ModelInfo
from smartrouter_asgi.sizing import Sizing
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama
from smartrouter_asgi.vram.estimate import estimate_bytes, guess_bytes
from smartrouter_asgi.vram.metadata import read_shape

from .harness.routers import chat
from .harness.servers import serve

LLAMA = SimulatedModel("llama:8b", 5 * GIB, context_length=131_072, load_s=0.5)
"""A token takes 128 KiB of cache."""
INFO = ModelInfo(id=LLAMA.name, size_bytes=LLAMA.size_bytes, digest=LLAMA.digest, metadata=LLAMA.info(verbose=False))
CARDS = {16: 4096, 24: 32_768, 80: 131_072}
"""Which context Ollama gives LLAMA on a GPU of so many GiB; on the last it would give more, could LLAMA take it."""


def needs(num_ctx: int, parallel: int = 1, info: ModelInfo = INFO) -> int:
    """What the formula says."""
    assert info.metadata is not None
    assert info.size_bytes is not None
    shape = read_shape(info.metadata, size_bytes=info.size_bytes)
    assert shape is not None
    return estimate_bytes(shape, num_ctx=num_ctx, parallel=parallel)


def shared(gib: int) -> Sizing:
    """As with a GPU of so many GiB: nine tenths of it are shared out."""
    return Sizing(budget_bytes=gib * GIB * 9 // 10)


# -- which load is estimated


def test_the_operators_context_and_parallel_requests_count():
    assert shared(80).estimate_bytes(INFO, num_ctx=8192, parallel=4) == needs(8192, 4)


def test_the_context_of_the_modelfile_counts_where_nobody_asks_for_another():
    info = dataclasses.replace(INFO, num_ctx=2048)
    assert shared(80).estimate_bytes(info, num_ctx=None, parallel=None) == needs(2048)
    assert shared(80).estimate_bytes(info, num_ctx=8192, parallel=None) == needs(8192)


@pytest.mark.parametrize(("gib", "num_ctx"), CARDS.items())
def test_the_engines_own_context_depends_on_the_memory_there_is(gib: int, num_ctx: int):
    assert shared(gib).estimate_bytes(INFO, num_ctx=None, parallel=None) == needs(num_ctx)


def test_no_context_is_longer_than_the_model_was_trained_for():
    assert shared(80).estimate_bytes(INFO, num_ctx=10**6, parallel=1) == needs(131_072)


def test_what_is_only_assumed_keeps_no_model_out():
    """Parallel requests need not be slots, and Ollama gives less context of its own where it has to."""
    sizing = shared(24)
    assert sizing.estimate_bytes(INFO, num_ctx=8192, parallel=64) == needs(8192, 1)
    larger = dataclasses.replace(INFO, size_bytes=17 * GIB)
    assert sizing.estimate_bytes(larger, num_ctx=None, parallel=None) == needs(4096, 1, larger)


def test_what_the_operator_asks_for_keeps_a_model_out():
    """A context that was configured is given, however much it takes."""
    needed = shared(24).estimate_bytes(INFO, num_ctx=131_072, parallel=1)
    assert needed == needs(131_072) > 24 * GIB * 9 // 10


@pytest.mark.parametrize("metadata", [None, {}, {"general.architecture": "clip"}])
def test_without_metadata_the_size_on_disk_counts(metadata: Any):
    info = dataclasses.replace(INFO, metadata=metadata)
    assert shared(24).estimate_bytes(info, num_ctx=8192, parallel=4) == guess_bytes(5 * GIB)


def test_of_nothing_nothing_is_estimated():
    assert shared(24).estimate_bytes(ModelInfo(id="m"), num_ctx=8192, parallel=1) is None


# -- under which name it is remembered


def key(info: ModelInfo = INFO, gib: int = 24, num_ctx: int | None = None, parallel: int | None = None) -> Any:
    return shared(gib).footprint_key(info, engine="ollama", num_ctx=num_ctx, parallel=parallel)


def test_a_load_is_remembered_under_what_was_asked_for():
    """Whatever is learnt of the model later: its name stays."""
    told = key(num_ctx=8192, parallel=4)
    assert (told.engine, told.digest, told.num_ctx, told.parallel, told.kv_type) == (
        "ollama",
        LLAMA.digest,
        8192,
        4,
        "f16",
    )
    assert key(dataclasses.replace(INFO, metadata=None), num_ctx=8192, parallel=4) == told


def test_another_gpu_is_another_load_where_the_engine_chooses():
    """What was measured with its context would be wrong with this one's."""
    assert [key(gib=gib).num_ctx for gib in CARDS] == [4096, 32_768, 262_144]
    assert key(gib=16, num_ctx=8192) == key(gib=80, num_ctx=8192)
    assert key(dataclasses.replace(INFO, num_ctx=2048)).num_ctx == 2048


def test_a_model_without_a_digest_is_not_remembered():
    assert key(dataclasses.replace(INFO, digest=None)) is None


# -- from the engine to the deployment


@asynccontextmanager
async def routed(
    engine: SimulatedOllama, *, backend: dict[str, Any] | None = None, vram: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[SmartRouter]:
    """A router over an engine, whose models it has listed."""
    section = {"type": "ollama", "url": engine.base_url, **(backend or {})}
    settings = {"backends": {"local": section}, "vram": {"max_total": "20GiB", **(vram or {})}, **more}
    router = SmartRouter(Settings.model_validate(settings))
    try:
        await router.discovery.refresh()
        yield router
    finally:
        await router.aclose()


def deployed(router: SmartRouter, name: str = LLAMA.name) -> Deployment:
    return router.discovery.current().models[name].deployments[0]


def shows(engine: SimulatedOllama) -> list[Any]:
    return [request.body for request in engine.log if request.path == "/api/show"]


@pytest.mark.parametrize("engine_type", ["ollama", "auto"])
@pytest.mark.parametrize("num_parallel", [1, 2])
async def test_an_estimate_covers_what_the_engine_takes_and_not_much_more(engine_type: str, num_parallel: int):
    async with SimulatedOllama([LLAMA], num_parallel=num_parallel, gpu_bytes=80 * GIB, time_scale=0.01) as engine:
        backend = {"type": engine_type, "num_ctx": 16_384, "max_parallel": num_parallel}
        async with routed(engine, backend=backend, vram={"max_total": "72GiB"}) as router:
            deployment = deployed(router)
            assert deployment.estimate_bytes == needs(16_384, num_parallel)
            assert deployment.vram_bytes is None
            assert deployment.footprint_key is not None
            assert deployment.footprint_key.engine == "ollama"
            await router.backends["local"].load(LLAMA.name)
            (loaded,) = await router.backends["local"].running()
    assert loaded.vram_bytes is not None
    assert loaded.vram_bytes < deployment.estimate_bytes < loaded.vram_bytes + 2 * GIB


async def test_the_first_list_knows_and_asks_once():
    """Later lists ask for new models only."""
    async with SimulatedOllama([LLAMA, SimulatedModel("b", GIB)], time_scale=0.01) as engine:
        async with routed(engine) as router:
            assert deployed(router).estimate_bytes == needs(4096)
            assert deployed(router, "b:latest").estimate_bytes is not None
            await router.discovery.refresh(max_age_s=0)
        assert shows(engine) == [{"model": LLAMA.name}, {"model": "b:latest"}]


async def test_the_operators_word_is_above_the_estimate():
    """Only what is said of the model itself is the operator's word."""
    deployments = [{"backend": "local", "model": "llama:8b", "num_ctx": 2048, "max_parallel": 2}]
    said = [{"backend": "local", "model": "llama:8b", "vram": "7GiB"}]
    async with SimulatedOllama([LLAMA], time_scale=0.01) as engine:
        models = [{"name": "chat", "deployments": deployments}]
        async with routed(engine, models=models) as router:
            deployment = deployed(router, "chat")
            assert (deployment.vram_bytes, deployment.estimate_bytes) == (None, needs(2048, 2))
        models = [{"name": "chat", "deployments": said}]
        async with routed(engine, models=models) as router:
            deployment = deployed(router, "chat")
            assert (deployment.vram_bytes, deployment.estimate_bytes) == (7 * GIB, needs(4096))


async def test_nobody_is_asked_for_shapes_that_no_gate_needs():
    async with SimulatedOllama([LLAMA], time_scale=0.01) as engine:
        async with routed(engine, backend={"gated": False}) as router:
            assert deployed(router).estimate_bytes is None
            assert deployed(router).footprint_key is None
            backend = router.backends["local"]
            assert isinstance(backend, OllamaBackend)
            assert backend._looking is None
        assert shows(engine) == []


async def test_models_of_the_cloud_need_nothing_here():
    row: dict[str, Any] = {
        "name": "big:cloud",
        "model": "big:cloud",
        "size": 400,
        "digest": "ab" * 32,
        "remote_model": "big",
    }
    row["capabilities"] = ["completion"]
    async with SimulatedOllama([LLAMA], time_scale=0.01) as engine:
        engine.faults.set(Fault(status=200, body={"models": [row]}), path="/api/tags")
        async with routed(engine) as router:
            assert not deployed(router, "big:cloud").gated
        assert shows(engine) == []


async def test_what_differs_from_layer_to_layer_is_asked_for_verbosely():
    """A hybrid, of whose 32 layers 4 have a cache: assumed to be like the others it would need eight times as much."""
    heads = [0] * 28 + [8] * 4
    hybrid = SimulatedModel("hybrid", 5 * GIB, kv_bytes=16_384, metadata={"attention.head_count_kv": heads})
    told = dataclasses.replace(INFO, metadata={**(INFO.metadata or {}), "simulated.attention.head_count_kv": heads})
    async with SimulatedOllama([hybrid], time_scale=0.01) as engine:
        async with routed(engine, backend={"num_ctx": 8192}) as router:
            estimate = deployed(router, "hybrid:latest").estimate_bytes
        assert shows(engine) == [{"model": "hybrid:latest"}, {"model": "hybrid:latest", "verbose": True}]
    assert told.metadata is not None
    lengths = {f"simulated.attention.{name}_length": 512 // 32 for name in ("key", "value")}
    assert estimate == needs(8192, info=dataclasses.replace(told, metadata={**told.metadata, **lengths}))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404, body={"error": "model not found"}),
        Fault(status=500, body={"error": "unexpected"}),
        Fault(status=200, body=[]),
        Fault(status=200, body={"model_info": [], "parameters": 7, "capabilities": "all"}),
        Fault(status=200, body={"model_info": {"general.architecture": 7, "7.block_count": "many"}}),
    ],
)
async def test_without_an_answer_that_makes_sense_the_size_on_disk_counts(fault: Fault):
    async with SimulatedOllama([LLAMA], time_scale=0.01) as engine:
        engine.faults.set(fault, path="/api/show")
        async with routed(engine) as router:
            assert deployed(router).estimate_bytes == guess_bytes(5 * GIB)
            assert deployed(router).footprint_key is not None


async def test_a_list_waits_for_looks_for_a_moment_only(monkeypatch: pytest.MonkeyPatch):
    """An engine that does not answer them has its models listed all the same; a look that comes late is not lost."""
    monkeypatch.setattr("smartrouter_asgi.backends.ollama.SHOW_WAIT_S", 0.01)
    call_json, go_on = OllamaBackend.call_json, asyncio.Event()

    async def slow(backend: OllamaBackend, method: str, path: str, *args: Any, **settings: Any) -> Any:
        if path == "/api/show":
            await go_on.wait()
        return await call_json(backend, method, path, *args, **settings)

    monkeypatch.setattr(OllamaBackend, "call_json", slow)
    async with SimulatedOllama([LLAMA], time_scale=0.01) as engine, routed(engine) as router:
        assert deployed(router).estimate_bytes == guess_bytes(5 * GIB)
        go_on.set()
        await engine.wait_for(lambda e: bool(shows(e)))
        monkeypatch.setattr("smartrouter_asgi.backends.ollama.SHOW_WAIT_S", 10)
        await router.discovery.refresh(max_age_s=0)
        assert deployed(router).estimate_bytes == needs(4096)
        assert len(shows(engine)) == 1


# -- from the deployment to the gate


async def test_caches_are_reserved_for_before_the_first_load(monkeypatch: pytest.MonkeyPatch):
    """Two files of 4 GiB fit together, with caches of 8 GiB each they do not."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.1)
    models = [SimulatedModel(name, 4 * GIB, context_length=65_536, load_s=0.5) for name in ("a", "b")]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.05) as engine:
        section = {"type": "ollama", "url": engine.base_url, "num_ctx": 65_536}
        settings = {"backends": {"local": section}, "vram": {"max_total": "20GiB"}}
        router = SmartRouter(Settings.model_validate(settings))
        async with serve(router) as url, httpx.AsyncClient(timeout=30) as client:
            for name in ("a:latest", "b:latest"):
                body = chat(name, max_tokens=3)
                assert (await client.post(f"{url}/v1/chat/completions", json=body)).status_code == 200
        assert engine.stats.peak_vram_bytes <= 20 * GIB
        assert engine.stats.loads == 2
