"""Two GPUs are not one large one: who may use which of them, what is split over both, what loads beside what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from smartrouter_asgi import CallbackLifecycle, Deployment
from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama

from ..harness.answers import error_code
from ..harness.cards import Card, CardProbe
from ..harness.residents import SleepingVLLM
from ..harness.servers import RawServer
from ..harness.waiting import until
from .rigs import TIME_SCALE, Rig, model, rig_over, served_by

TWO = {"devices": {0: {"max": "24GiB"}, 1: {"max": "24GiB"}}}


@asynccontextmanager
async def ollama_on_two(*, fair_after: str = "15s", **backend: Any) -> AsyncIterator[tuple[SimulatedOllama, Rig]]:
    """An Ollama that sees two cards of 24 GiB, declared."""
    models = [model("large", 40), model("a", 14, answer_tokens=300), model("b", 14), model("c", 14)]
    async with SimulatedOllama(models, gpu_bytes=48 * GIB, time_scale=TIME_SCALE) as ollama:
        settings = {
            "backends": {"local": {"type": "ollama", "url": ollama.base_url, **backend}},
            "models": [served_by("local", "large", 40), *(served_by("local", name, 14) for name in "abc")],
            "vram": {**TWO, "fair_after": fair_after},
        }
        async with rig_over(settings) as rig:
            yield ollama, rig


@asynccontextmanager
async def vllms(*devices: list[int] | None, gib: float = 14, **vram: Any) -> AsyncIterator[tuple[list[Any], Rig]]:
    """A vLLM of one model for each entry: m0, m1, ..., bound to the devices listed there; None: to no one."""
    card = Card(100 * GIB)  # of how much there is the gate's books shall tell, not the engines
    engines = [
        SleepingVLLM(card, int(gib * GIB), model=f"m{number}", name=f"v{number}") for number in range(len(devices))
    ]
    servers = [RawServer(engine) for engine in engines]
    for server in servers:
        await server.__aenter__()
    try:
        backends: dict[str, Any] = {}
        for number, (bound, server) in enumerate(zip(devices, servers, strict=True)):
            backends[f"v{number}"] = {"type": "vllm", "url": server.base_url, "options": {"sleep_level": 1}}
            if bound is not None:
                backends[f"v{number}"]["devices"] = bound
        settings = {
            "backends": backends,
            "models": [served_by(f"v{number}", f"m{number}", gib) for number in range(len(devices))],
            "vram": {**TWO, **vram},
        }
        async with rig_over(settings) as rig:
            yield engines, rig
            assert [engine.wrong for engine in engines] == [[] for _ in engines]
    finally:
        for server in servers:
            await server.__aexit__(None, None, None)


async def test_forty_gib_do_not_fit_on_two_cards_of_24_where_the_engine_does_not_split():
    """503 at once, and what would fit on one of them is served."""
    async with ollama_on_two(split=False) as (ollama, rig):
        assert error_code(await rig.ask("large")) == (503, "vram_exhausted")
        assert ollama.stats.loads == 0
        assert (await rig.ask("a")).status_code == 200


async def test_forty_gib_are_spread_where_the_engine_splits():
    """Its bytes are held on both, and given back on both when it goes."""
    async with ollama_on_two() as (ollama, rig):
        assert (await rig.ask("large")).status_code == 200
        placement = rig.holding("local/large:latest").placement
        assert set(placement) == {"0", "1"}
        assert sum(placement.values()) == 40 * GIB
        assert max(placement.values()) <= 24 * GIB
        assert (await rig.ask("a")).status_code == 200
        assert ollama.loaded == ("a:latest",)
        seen = await rig.vram()
        assert sorted(device["used_bytes"] for device in seen["devices"]) == [0, 14 * GIB]


async def test_what_fits_on_one_card_is_not_spread_and_the_next_goes_to_the_other():
    """Three models of 14 GiB: 48 GiB in all would do for them, two cards of 24 do not."""
    async with ollama_on_two(split=False) as (ollama, rig):
        for name in ("a", "b"):
            assert (await rig.ask(name)).status_code == 200
        placements = [rig.holding(f"local/{name}:latest").placement for name in "ab"]
        assert sorted(list(one) for one in placements) == [["0"], ["1"]]
        assert (await rig.ask("c")).status_code == 200
        assert ollama.loaded == ("b:latest", "c:latest")


async def test_two_models_load_side_by_side_on_two_devices():
    async with vllms(None, None) as (engines, rig):
        for engine in engines:
            engine.may_wake.clear()
        asks = [asyncio.create_task(rig.ask(name)) for name in ("m0", "m1")]
        await until(lambda: all(engine.waking for engine in engines))
        for engine in engines:
            engine.may_wake.set()
        assert [answer.status_code for answer in await asyncio.gather(*asks)] == [200, 200]


async def test_one_model_at_a_time_loads_on_one_device():
    """There is room for both, and the second one waits for the first all the same."""
    async with vllms([0], [0], gib=8) as (engines, rig):
        first, second = engines
        first.may_wake.clear()
        asks = [asyncio.create_task(rig.ask("m0"))]
        await until(lambda: first.waking)
        asks.append(asyncio.create_task(rig.ask("m1")))
        await rig.until_waiting(2)
        await rig.router.gate.reconcile(force=True)  # a whole look at everything later
        assert not second.log
        first.may_wake.set()
        assert [answer.status_code for answer in await asyncio.gather(*asks)] == [200, 200]
        assert rig.resident() == {"v0/m0", "v1/m1"}


async def test_backends_use_the_devices_they_are_bound_to():
    """m0 and m1 share card 0 and swap there, whatever room card 1 has; m2 on card 1 is none of their business."""
    async with vllms([0], [0], [1]) as (engines, rig):
        for name in ("m2", "m0", "m1", "m0", "m2"):
            assert (await rig.ask(name)).status_code == 200
        assert [engine.log.count("sleep") for engine in engines] == [1, 1, 0]
        assert rig.resident() == {"v0/m0", "v2/m2"}
        assert list(rig.holding("v0/m0").placement) == ["0"]
        assert list(rig.holding("v2/m2").placement) == ["1"]


async def test_a_busy_card_holds_up_nobody_on_the_other_one():
    """m1 waits for m0 on card 0, and has waited long enough to close it; m2 loads on card 1 meanwhile."""
    async with vllms([0], [0], [1], fair_after="50ms") as (engines, rig):
        engines[0].free.clear()
        busy = asyncio.create_task(rig.ask("m0"))
        await until(lambda: engines[0].busy)
        waiting = asyncio.create_task(rig.ask("m1"))
        await until(lambda: rig.holding("v0/m0").closed)
        assert (await rig.ask("m2")).status_code == 200
        assert not waiting.done()
        engines[0].free.set()
        assert [answer.status_code for answer in await asyncio.gather(busy, waiting)] == [200, 200]


async def test_a_limit_over_both_devices_holds_beside_theirs():
    """20 GiB of 48 may be used: one model of 14 at a time, wherever it is."""
    async with vllms(None, None, max_total="20GiB") as (engines, rig):
        for name in ("m0", "m1"):
            assert (await rig.ask(name)).status_code == 200
        assert rig.resident() == {"v1/m1"}
        assert engines[0].log[-1] == "sleep"


async def test_a_split_model_waits_for_both_devices_and_takes_them_before_younger_ones():
    """Once it is old, a younger request that would fit on the card that is free goes after it."""
    async with ollama_on_two(fair_after="100ms") as (ollama, rig):
        async with rig.streaming("a") as lines:
            large = asyncio.create_task(rig.ask("large"))
            await until(lambda: rig.holding("local/a:latest").closed)
            younger = asyncio.create_task(rig.ask("b"))
            await rig.until_waiting(2)
            assert [line async for line in lines if line][-1] == "data: [DONE]"
            assert ollama.stats.loads_started == 1
        assert (await large).status_code == 200
        assert (await younger).status_code == 200
        loads = [deployment for deployment, action in rig.decisions() if action == "load"]
        assert loads == ["local/a:latest", "local/large:latest", "local/b:latest"]


@pytest.mark.parametrize("went_to", [0, 1])
async def test_the_books_follow_an_engine_that_chose_another_device(went_to: int):
    """An engine takes what card it likes; what the drivers tell after a load says which."""
    cards = [Card(24 * GIB, index=number, uuid=f"GPU-{number}") for number in range(2)]

    async def load(model: str) -> None:
        cards[went_to].take(model, 14 * GIB)

    async def unload(model: str) -> None:
        cards[went_to].give_back(model)

    settings = {"backends": {"local": {"type": "ollama", "url": "http://127.0.0.1:9"}}}
    lifecycles = {"service": CallbackLifecycle(load=load, unload=unload)}
    async with rig_over(settings, probe=CardProbe(*cards), lifecycles=lifecycles) as rig:
        gate = rig.router.gate
        assert gate is not None
        wanted = Deployment(backend="service", model="m", vram_bytes=14 * GIB, gated=True)
        with await gate.admit(wanted):
            await until(lambda: list(rig.holding("service/m").placement) == [f"GPU-{went_to}"])
        seen = {device["device"]: device for device in (await rig.vram())["devices"]}
        assert seen[f"GPU-{went_to}"]["used_bytes"] == 14 * GIB
        assert seen[f"GPU-{1 - went_to}"]["used_bytes"] == 0
        assert [device["outside_bytes"] for device in seen.values()] == [0, 0]
