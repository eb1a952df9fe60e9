"""What others do with the GPU, and what drivers tell of it or do not: fault-matrix rows 61 and 62."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

import smartrouter_asgi.memory as memory_module
from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama
from smartrouter_asgi.vram.probes import MemoryWatch

from ..harness.answers import error_code
from ..harness.cards import Card, CardProbe
from ..harness.residents import SleepingVLLM
from ..harness.servers import RawServer
from ..harness.waiting import until
from .rigs import Rig, model, rig_over, served_by

TTL_S = 0.2
"""How long a driver's last word is believed here."""
PROBE_TIMEOUT_S = 0.2


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = partial(MemoryWatch, ttl_s=TTL_S, timeout_s=PROBE_TIMEOUT_S)
    monkeypatch.setattr(memory_module, "MemoryWatch", watch)


@asynccontextmanager
async def one_card(**vram: Any) -> AsyncIterator[tuple[Card, CardProbe, SimulatedOllama, Rig]]:
    """An Ollama on a card of 24 GiB that its driver tells of."""
    card = Card(24 * GIB)
    models = [model("a", 14), model("small", 8), model("tiny", 2)]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.02, faults=card.faults) as ollama:
        card.ollama = ollama
        probe = CardProbe(card)
        settings = {
            "backends": {"local": {"type": "ollama", "url": ollama.base_url}},
            "models": [served_by("local", "a", 14), served_by("local", "small", 8), served_by("local", "tiny", 2)],
            "vram": vram,
        }
        async with rig_over(settings, probe=probe) as rig:
            yield card, probe, ollama, rig


async def device(rig: Rig, number: int = 0) -> dict[str, Any]:
    return dict((await rig.vram())["devices"][number])


async def test_a_load_waits_while_another_program_holds_the_memory_and_goes_on_when_it_lets_go():
    async with one_card() as (card, _, ollama, rig):
        card.take("game", 12 * GIB)
        await until(lambda: rig.router.gate.snapshot().devices[0].outside_bytes == 12 * GIB)
        asked = asyncio.create_task(rig.ask("a"))
        await rig.until_waiting()
        assert (await rig.ask("small")).status_code == 200  # what fits beside it is served
        seen = await device(rig)
        assert (seen["total_bytes"], seen["used_bytes"], seen["outside_bytes"]) == (
            24 * GIB,
            8 * GIB,
            12 * GIB,
        )
        assert seen["free_bytes"] == seen["total_bytes"] - 24 * GIB // 50 - 20 * GIB  # a margin is left alone
        assert await rig.metric('smartrouter_vram_bytes{device="GPU-0",kind="outside"}') == 12 * GIB
        assert not asked.done()
        assert ollama.loaded == ("small:latest",)
        card.give_back("game")
        assert (await asked).status_code == 200
        assert await rig.metric('smartrouter_vram_bytes{device="GPU-0",kind="outside"}') == 0


async def test_idle_models_make_room_for_a_load_that_another_programs_memory_leaves_no_room_for():
    """8 GiB of ours and 6 of a game's leave too little for 14: ours go, the game's are not ours to free."""
    async with one_card() as (card, _, ollama, rig):
        assert (await rig.ask("small")).status_code == 200
        card.take("game", 6 * GIB)
        assert (await rig.ask("a")).status_code == 200
        assert ollama.loaded == ("a:latest",)
        assert ("local/small:latest", "evict") in rig.decisions()
        assert card.held == {"game": 6 * GIB}


async def test_a_resident_model_is_served_whatever_others_take():
    async with one_card() as (card, _, ollama, rig):
        assert (await rig.ask("a")).status_code == 200
        card.take("game", 9 * GIB)
        await until(lambda: rig.router.gate.snapshot().devices[0].outside_bytes == 9 * GIB)
        assert (await rig.ask("a")).status_code == 200
        assert ollama.stats.loads == 1


async def test_what_our_own_models_hold_is_not_taken_for_somebody_elses():
    """Through loads and unloads of ours, nobody else holds anything."""
    seen: set[int] = set()
    async with one_card() as (_, _, _, rig):
        for name in ("small", "a", "tiny", "small"):
            assert (await rig.ask(name)).status_code == 200
            await rig.router.gate.reconcile(force=True)
            seen.add(rig.router.gate.snapshot().devices[0].outside_bytes)
    assert seen == {0}


async def test_row_61_a_driver_that_falls_silent_is_believed_for_a_while():
    """Within the ttl its last word counts: what did not fit then does not fit now. The gauge says when it is over."""
    async with one_card(unknown="open") as (card, probe, ollama, rig):
        card.take("game", 12 * GIB)
        await until(lambda: rig.router.gate.snapshot().devices[0].outside_bytes == 12 * GIB)
        gauge = 'smartrouter_vram_unknown{device="GPU-0"}'
        assert await rig.metric(gauge) == 0
        probe.silent = {"GPU-0"}
        asked = asyncio.create_task(rig.ask("a"))
        await rig.until_waiting()
        assert ollama.loaded == ()
        await until(lambda: not rig.router.gate.snapshot().devices[0].known)
        assert await rig.metric(gauge) == 1
        assert not asked.done()  # what was last seen is the best guess of what others hold
        assert (await rig.ask("tiny")).status_code == 200
        probe.silent = set()
        card.give_back("game")
        assert (await asked).status_code == 200
        assert await rig.metric(gauge) == 0


async def break_silently(probe: CardProbe) -> None:
    probe.silent = {"GPU-0"}


async def break_loudly(probe: CardProbe) -> None:
    probe.error = RuntimeError("NVML_ERROR_GPU_IS_LOST")


async def hang(probe: CardProbe) -> None:
    probe.answering.clear()


WAYS = [break_silently, break_loudly, hang]


@pytest.mark.parametrize("fail", WAYS)
async def test_row_61_open_loads_go_on_by_the_books_while_nothing_can_be_read(fail: Any):
    async with one_card(unknown="open") as (_, probe, ollama, rig):
        await fail(probe)
        await until(lambda: not rig.router.gate.snapshot().devices[0].known)
        for name in ("a", "small"):
            assert (await rig.ask(name)).status_code == 200
        assert ollama.stats.peak_vram_bytes <= 22 * GIB
        probe.answering.set()


@pytest.mark.parametrize("fail", WAYS)
async def test_row_61_closed_nothing_is_loaded_while_nothing_can_be_read(fail: Any):
    """What is in memory is served; a load waits for a reading, and is told in the end that it has waited too long."""
    async with one_card(unknown="closed", max_wait="400ms") as (_, probe, ollama, rig):
        assert (await rig.ask("small")).status_code == 200
        await fail(probe)
        await until(lambda: not rig.router.gate.snapshot().devices[0].known)
        assert error_code(await rig.ask("a")) == (503, "vram_queue_timeout")
        assert (await rig.ask("small")).status_code == 200
        assert ollama.stats.loads == 1
        waiting = asyncio.create_task(rig.ask("a"))
        await rig.until_waiting()
        probe.silent, probe.error = set(), None
        probe.answering.set()
        assert (await waiting).status_code == 200


async def test_row_61_a_driver_that_hangs_delays_nobody():
    """Neither a model that is there nor the operator; a load waits for the probe's time and no longer."""
    async with one_card() as (_, probe, _, rig):
        assert (await rig.ask("small")).status_code == 200
        probe.answering.clear()
        reads = probe.reads
        await until(lambda: probe.reads > reads)  # a read hangs
        longest = 0.0
        for number in range(20):
            began = time.monotonic()
            if number % 5 == 4:
                await rig.vram()
            else:
                assert (await rig.ask("small")).status_code == 200
            longest = max(longest, time.monotonic() - began)
        assert longest < 1.0
        began = time.monotonic()
        assert (await rig.ask("a")).status_code == 200
        assert time.monotonic() - began < 5.0
        assert probe.reads <= reads + 1  # one read at a time, however long it takes
        probe.answering.set()


async def test_row_61_a_driver_that_hangs_at_the_start_keeps_nobody_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(memory_module, "FIRST_READ_S", 0.05)
    probe = CardProbe(Card())
    probe.answering.clear()
    async with SimulatedOllama([model("a", 14)], time_scale=0.02) as ollama:
        settings = {"backends": {"local": {"type": "ollama", "url": ollama.base_url}}}
        async with rig_over(settings, probe=probe) as rig:
            assert (await rig.ask("a")).status_code == 200
            assert (await rig.vram())["gated"] is False
    probe.answering.set()
    assert "could not be read" in caplog.text


@asynccontextmanager
async def two_cards(**vram: Any) -> AsyncIterator[tuple[list[Card], CardProbe, list[SleepingVLLM], Rig]]:
    """Two cards; a vLLM bound to each by UUID, m0 and m1, and one that may use both, m2. Each model has 14 GiB."""
    cards = [Card(24 * GIB, index=number, uuid=f"GPU-{number}") for number in range(2)]
    engines = [
        SleepingVLLM(cards[min(number, 1)], 14 * GIB, model=f"m{number}", name=f"v{number}") for number in range(3)
    ]
    probe = CardProbe(*cards)
    async with RawServer(engines[0]) as first, RawServer(engines[1]) as second, RawServer(engines[2]) as third:
        options = {"type": "vllm", "options": {"sleep_level": 1}}
        settings = {
            "backends": {
                "v0": {**options, "url": first.base_url, "devices": ["GPU-0"]},
                "v1": {**options, "url": second.base_url, "devices": ["GPU-1"]},
                "v2": {**options, "url": third.base_url},
            },
            "models": [served_by(f"v{number}", f"m{number}", 14) for number in range(3)],
            "vram": vram,
        }
        async with rig_over(settings, probe=probe) as rig:
            yield cards, probe, engines, rig


async def test_row_62_a_card_that_vanishes_takes_no_new_models_and_the_other_goes_on():
    async with two_cards(max_wait="500ms") as (_, probe, engines, rig):
        probe.gone = {"GPU-0"}
        await until(lambda: rig.router.gate.snapshot().devices[0].lost)
        seen = await device(rig)
        assert (seen["device"], seen["lost"], seen["free_bytes"]) == ("GPU-0", True, 0)
        assert await rig.metric('smartrouter_vram_unknown{device="GPU-0"}') == 1
        assert await rig.metric('smartrouter_vram_unknown{device="GPU-1"}') == 0
        assert (await rig.ask("m1")).status_code == 200
        refused = await rig.ask("m0")
        assert error_code(refused) == (503, "vram_queue_timeout")
        assert engines[0].log == []
        probe.gone = set()
        assert (await rig.ask("m0")).status_code == 200
        assert list(rig.holding("v0/m0").placement) == ["GPU-0"]


async def test_row_62_a_card_that_vanishes_is_not_made_room_on():
    """m0 on the card that is gone is idle, and putting it to sleep would help nobody: m1 goes for m2."""
    async with two_cards() as (_, probe, engines, rig):
        for name in ("m0", "m1"):
            assert (await rig.ask(name)).status_code == 200
        probe.gone = {"GPU-0"}
        await until(lambda: rig.router.gate.snapshot().devices[0].lost)
        assert (await rig.ask("m2")).status_code == 200
        assert list(rig.holding("v2/m2").placement) == ["GPU-1"]
        assert [engine.log.count("sleep") for engine in engines] == [0, 1, 0]


async def test_row_62_cards_that_change_places_stay_who_they_are():
    """After a restart of the driver the indices are the other way round: bytes are counted by UUID."""
    async with two_cards() as (cards, probe, _, rig):
        assert (await rig.ask("m0")).status_code == 200
        cards[0].index, cards[1].index = 1, 0
        probe.cards = cards[::-1]
        cards[1].take("game", 20 * GIB)
        await until(lambda: rig.router.gate.snapshot().devices[1].outside_bytes)
        first, second = (await rig.vram())["devices"]
        assert (first["device"], first["used_bytes"], first["outside_bytes"]) == ("GPU-0", 14 * GIB, 0)
        assert (second["device"], second["used_bytes"], second["outside_bytes"]) == ("GPU-1", 0, 20 * GIB)
