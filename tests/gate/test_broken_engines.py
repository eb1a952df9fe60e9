"""Engines that hang or are gone, and what an operator said of an engine that told later what it is."""

from __future__ import annotations

import pytest

from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama
from smartrouter_asgi.vram import engines

from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until
from .rigs import TIME_SCALE, model, rig_over, served_by


async def hang(exchange: Exchange) -> None:
    """Accept, and never answer."""
    await exchange.gone()


async def test_an_engine_that_never_answers_keeps_no_other_from_the_gpu(monkeypatch: pytest.MonkeyPatch):
    """It is asked for what it holds before every load, for longer than an answer of the others counts."""
    monkeypatch.setattr(engines, "ANSWER_TIMEOUT_S", 0.6)
    async with (
        SimulatedOllama([model("a", 14)], gpu_bytes=24 * GIB, time_scale=TIME_SCALE) as ollama,
        RawServer(hang) as silent,
    ):
        settings = {
            "backends": {
                "local": {"type": "ollama", "url": ollama.base_url},
                "silent": {"type": "ollama", "url": silent.base_url},
            },
            "models": [served_by("local", "a", 14)],
            "vram": {"max_total": "20GiB", "monitor_interval": "100ms"},
        }
        async with rig_over(settings) as rig:
            assert (await rig.ask("a")).status_code == 200


async def test_an_engine_that_was_stopped_holds_no_memory():
    """Its model is idle in the books, and nobody is there to unload it."""
    async with SimulatedOllama([model("b", 14)], gpu_bytes=24 * GIB, time_scale=TIME_SCALE) as other:
        stopped = SimulatedOllama([model("a", 14)], gpu_bytes=24 * GIB, time_scale=TIME_SCALE)
        async with stopped:
            settings = {
                "backends": {
                    "one": {"type": "ollama", "url": stopped.base_url},
                    "two": {"type": "ollama", "url": other.base_url},
                },
                "models": [served_by("one", "a", 14), served_by("two", "b", 14)],
                "vram": {"max_total": "20GiB", "monitor_interval": "100ms"},
            }
            rig_context = rig_over(settings)
            rig = await rig_context.__aenter__()
            assert (await rig.ask("a")).status_code == 200
        try:
            assert (await rig.ask("b")).status_code == 200
            assert rig.resident() == {"two/b:latest"}
        finally:
            await rig_context.__aexit__(None, None, None)


async def test_what_was_unpinned_by_hand_stays_so_when_an_engine_tells_its_models_again():
    async with SimulatedOllama([model("a", 4)], gpu_bytes=24 * GIB, time_scale=TIME_SCALE) as ollama:
        settings = {
            "backends": {"box": {"type": "auto", "url": ollama.base_url}},
            "vram": {"max_total": "20GiB", "pinned": ["a:latest"]},
        }
        async with rig_over(settings) as rig:
            await until(lambda: rig.resident() == {"box/a:latest"})
            assert rig.holding("box/a:latest").pinned
            assert (await rig.tell("a:latest", "unpin"))["unpinned"] is True
            assert (await rig.client.post(f"{rig.url}/admin/models/refresh")).status_code == 200
            assert not rig.holding("box/a:latest").pinned
