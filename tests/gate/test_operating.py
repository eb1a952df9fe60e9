"""What the operator sets, sees and does: pins, preloads, `/admin/vram`, `/admin/models`, metrics, a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama

from ..harness.answers import error_code
from ..harness.cards import Card
from ..harness.engines import good
from ..harness.residents import SleepingVLLM
from ..harness.servers import RawServer
from ..harness.waiting import until
from .rigs import TIME_SCALE, Rig, model, rig_over, served_by

MODELS = [model("small", 4), model("medium", 8), model("large", 14, answer_tokens=300)]


@asynccontextmanager
async def ollama_rig(
    *, engine: dict[str, Any] | None = None, models: Any = MODELS, **vram: Any
) -> AsyncIterator[tuple[SimulatedOllama, Rig]]:
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=TIME_SCALE, **(engine or {})) as ollama:
        settings = {
            "backends": {"local": {"type": "ollama", "url": ollama.base_url}},
            "models": [served_by("local", m.name.removesuffix(":latest"), m.size_bytes / GIB) for m in models],
            "aliases": {"favourite": "medium"},
            "vram": {"max_total": "20GiB", **vram},
        }
        async with rig_over(settings) as rig:
            yield ollama, rig


async def test_what_is_pinned_is_loaded_at_the_start_and_never_evicted():
    """By an alias, too. What fits beside it comes and goes; what does not is told so at once."""
    async with ollama_rig(pinned=["favourite"]) as (ollama, rig):
        await until(lambda: rig.resident() == {"local/medium:latest"})
        assert rig.holding("local/medium:latest").pinned
        assert (await rig.ask("small")).status_code == 200
        assert error_code(await rig.ask("large")) == (503, "vram_exhausted")
        assert (await rig.tell("medium", "unpin"))["unpinned"] is True
        assert (await rig.ask("large")).status_code == 200
        assert "medium:latest" not in ollama.loaded


async def test_what_is_preloaded_is_there_before_it_is_asked_for_and_may_go():
    async with ollama_rig(preload=["medium"]) as (ollama, rig):
        await until(lambda: rig.resident() == {"local/medium:latest"})
        assert not rig.holding("local/medium:latest").pinned
        assert (await rig.ask("medium")).status_code == 200
        assert ollama.stats.loads == 1
        assert (await rig.ask("large")).status_code == 200


async def test_a_model_that_cannot_be_preloaded_keeps_nobody_from_starting():
    """One too large, one that nobody knows: a warning for each, and the third is loaded."""
    models = [*MODELS, model("huge", 40)]
    async with ollama_rig(models=models, preload=["huge", "nobody", "small"]) as (_, rig):
        await until(lambda: rig.resident() == {"local/small:latest"})
        assert (await rig.ask("medium")).status_code == 200


async def test_the_operator_loads_unloads_pins_and_unpins():
    async with ollama_rig() as (ollama, rig):
        assert await rig.tell("medium", "load") == {"deployment": "local/medium:latest", "loaded": True}
        assert ollama.loaded == ("medium:latest",)
        assert (await rig.tell("medium", "pin"))["pinned"] is True
        assert error_code(await rig.ask("large")) == (503, "vram_exhausted")
        assert (await rig.tell("medium", "unload"))["unloaded"] is True  # pinned or not: an operator's word
        assert ollama.loaded == ()
        again = await rig.tell("medium", "unload")
        assert (again["unloaded"], again["reason"]) == (False, "it was not in memory")
        assert (await rig.tell("medium", "unpin"))["unpinned"] is True
        assert (await rig.ask("large")).status_code == 200


async def test_a_model_in_use_is_not_unloaded_by_hand():
    async with ollama_rig() as (ollama, rig), rig.streaming("large") as lines:
        refused = await rig.client.post(f"{rig.url}/admin/models/large/unload")
        assert error_code(refused) == (503, "model_in_use")
        assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert ollama.stats.aborted_generations == 0


async def test_an_engine_that_cannot_unload_says_so():
    async with RawServer(good) as server:
        settings = {
            "backends": {"cloud": {"type": "openai", "url": f"{server.base_url}/v1"}},
            "models": [{"name": "far", "deployments": [{"backend": "cloud", "model": "engine-model"}]}],
        }
        async with rig_over(settings) as rig:
            for action, done in (("load", "loaded"), ("unload", "unloaded"), ("pin", "pinned")):
                told = await rig.tell("far", action)
                assert (told[done], told["reason"]) == (False, "its engine cannot load and unload models")


async def test_admin_vram_shows_devices_residents_reservations_queues_and_decisions():
    """While one model is in use, one loads elsewhere, and two requests wait."""
    card = Card(100 * GIB)
    engines = [SleepingVLLM(card, 14 * GIB, model=f"m{number}", name=f"v{number}") for number in range(3)]
    async with RawServer(engines[0]) as first, RawServer(engines[1]) as second, RawServer(engines[2]) as third:
        options = {"type": "vllm", "options": {"sleep_level": 1}}
        settings = {
            "backends": {
                "v0": {**options, "url": first.base_url, "devices": [0]},
                "v1": {**options, "url": second.base_url, "devices": [1]},
                "v2": {**options, "url": third.base_url, "devices": [0]},
            },
            "models": [served_by(f"v{number}", f"m{number}", 14) for number in range(3)],
            "vram": {"devices": {0: {"max": "20GiB"}, 1: {"max": "24GiB"}}},
        }
        async with rig_over(settings) as rig:
            engines[0].free.clear()
            engines[1].may_wake.clear()
            asks = [asyncio.create_task(rig.ask("m0"))]
            await until(lambda: engines[0].busy)
            asks.append(asyncio.create_task(rig.ask("m1")))
            await until(lambda: engines[1].waking)
            asks += [asyncio.create_task(rig.ask("m2")) for _ in range(2)]
            await rig.until_waiting(3)
            seen = await rig.vram()
            gauges = {
                (device, kind): await rig.metric(f'smartrouter_vram_bytes{{device="{device}",kind="{kind}"}}')
                for device in "01"
                for kind in ("budget", "used", "free", "outside")
            }
            depth = await rig.metric('smartrouter_queue_depth{model="m2"}')
            engines[0].free.set()
            engines[1].may_wake.set()
            assert [answer.status_code for answer in await asyncio.gather(*asks)] == [200] * 4
            swaps = [await rig.metric(f'smartrouter_vram_swaps_total{{model="m{n}"}}') for n in range(3)]
            evicted = await rig.metric('smartrouter_vram_evictions_total{model="m0"}')
            waits = await rig.metric("smartrouter_vram_wait_seconds_count")
            loads = await rig.metric("smartrouter_vram_load_seconds_count")
    assert seen["gated"] is True
    assert [
        (d["device"], d["limit_bytes"], d["used_bytes"], d["outside_bytes"], d["free_bytes"]) for d in seen["devices"]
    ] == [("0", 20 * GIB, 14 * GIB, 0, 6 * GIB), ("1", 24 * GIB, 14 * GIB, 0, 10 * GIB)]
    (resident,) = seen["residents"]
    assert (resident["deployment"], resident["size_bytes"], resident["leases"]) == ("v0/m0", 14 * GIB, 1)
    assert 0 <= resident["last_used_age_s"] < 10
    (reservation,) = seen["reservations"]
    assert (reservation["deployment"], reservation["placement"]) == ("v1/m1", {"1": 14 * GIB})
    queues = {queue["deployment"]: queue for queue in seen["queues"]}
    assert (queues["v2/m2"]["waiting"], queues["v1/m1"]["waiting"]) == (2, 1)
    assert queues["v2/m2"]["projected_wait_s"] > 1
    assert all(decision["reason"] for decision in seen["decisions"])
    assert [(d["deployment"], d["action"]) for d in seen["decisions"]] == [("v0/m0", "load"), ("v1/m1", "load")]
    assert gauges["0", "used"] == gauges["1", "used"] == 14 * GIB
    assert (gauges["0", "budget"], gauges["0", "free"], gauges["1", "outside"]) == (20 * GIB, 6 * GIB, 0)
    assert depth == 2
    assert (swaps, evicted, waits, loads) == ([1, 1, 1], 1, 4, 3)


async def test_a_model_that_runs_on_the_cpu_in_part_is_shown_and_not_taken_for_small():
    """Another program holds what the declared budget does not know of; Ollama offloads what does not fit."""
    async with ollama_rig() as (ollama, rig):
        ollama.faults.stolen_vram_bytes = 14 * GIB
        assert (await rig.ask("large")).status_code == 200
        await until(lambda: rig.holding("local/large:latest").offloaded_bytes)
        (seen,) = (await rig.vram())["residents"]
        assert 0 < seen["size_bytes"] < 10 * GIB
        assert seen["size_bytes"] + seen["offloaded_bytes"] == 14 * GIB
        assert seen["measured"] is True
        ollama.faults.stolen_vram_bytes = 0
        assert (await rig.tell("large", "unload"))["unloaded"] is True
        assert (await rig.ask("large")).status_code == 200
        await until(lambda: rig.holding("local/large:latest").size_bytes == 14 * GIB)


async def test_measured_footprints_survive_a_restart(tmp_path: Path):
    """Both models need more than their files tell: the first router takes 20 GiB for enough; the next one knows."""
    file = tmp_path / "footprints.json"
    models = [model(name, 5, overhead_bytes=6 * GIB) for name in ("a", "b")]
    async with SimulatedOllama(models, gpu_bytes=32 * GIB, time_scale=TIME_SCALE) as ollama:
        settings = {
            "backends": {"local": {"type": "ollama", "url": ollama.base_url}},
            "vram": {"max_total": "20GiB", "footprints": str(file)},
        }

        async def through_a_router() -> set[str]:
            async with rig_over({**settings}) as rig:
                for name in ("a:latest", "b:latest"):
                    assert (await rig.ask(name)).status_code == 200
                return rig.resident()

        assert await through_a_router() == {"local/a:latest", "local/b:latest"}
        assert {row["bytes"] for row in json.loads(file.read_text())["footprints"]} == {11 * GIB}
        async with httpx.AsyncClient() as other:
            for name in ("a", "b"):
                await other.post(f"{ollama.base_url}/api/generate", json={"model": name, "keep_alive": 0})
        await ollama.wait_for(lambda e: not e.loaded and e.gpu.used_bytes == 0)
        assert await through_a_router() == {"local/b:latest"}


async def test_a_router_that_is_stopped_sends_its_waiters_away():
    async with ollama_rig() as (_, rig), rig.streaming("large"):
        waiting = asyncio.create_task(rig.ask("medium"))
        await rig.until_waiting()
        await rig.router.gate.aclose()
        assert error_code(await waiting) == (503, "gateway_draining")
