"""How long a model is held, and for whom: swaps, theft, engines that go on, clients that are slow, or leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedOllama

from ..harness.answers import error_code
from ..harness.cards import Card, CardProbe
from ..harness.engines import good
from ..harness.residents import SleepingVLLM
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer
from ..harness.sockets import raw_request
from ..harness.transports import on_both_transports
from ..harness.waiting import until
from ..test_llama_cpp_backend import LlamaRouter, slots
from .rigs import TIME_SCALE, Rig, model, rig_over, served_by

ONE_AT_A_TIME = [model("a", 14, answer_tokens=20), model("b", 14, answer_tokens=20)]


@asynccontextmanager
async def ollama_rig(
    *, vram: dict[str, Any] | None = None, models: Any = ONE_AT_A_TIME, **engine: Any
) -> AsyncIterator[tuple[SimulatedOllama, Rig]]:
    """An Ollama with room for one of its models at a time."""
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=TIME_SCALE, **engine) as ollama:
        settings = {
            "backends": {"local": {"type": "ollama", "url": ollama.base_url}},
            "models": [served_by("local", m.name.removesuffix(":latest"), m.size_bytes / GIB) for m in models],
            "vram": {"max_total": "20GiB", **(vram or {})},
        }
        async with rig_over(settings) as rig:
            yield ollama, rig


async def test_row_40_requests_that_alternate_swap_in_turns_and_wait_for_a_bounded_time():
    """A, B, A, B, one every 20 ms, on room for one of them: a swap of 250 ms for each of them would take nine seconds.

    A request waits for at most `fair_after`, and then for one drain and load of each other model and one of its own.
    """
    waits: list[float] = []
    async with ollama_rig(num_parallel=8, vram={"fair_after": "400ms"}) as (ollama, rig):

        async def one(number: int) -> int:
            await asyncio.sleep(number * 0.02)  # the arrivals are the test's own, not a wait for anything
            began = time.monotonic()
            answer = await rig.ask("ab"[number % 2])
            waits.append(time.monotonic() - began)
            return answer.status_code

        statuses = await asyncio.gather(*(one(number) for number in range(36)))
        assert statuses == [200] * 36
        assert ollama.stats.loads <= 8
    assert max(waits) < 5 * (0.4 + 2 * (0.1 + 0.25))


@asynccontextmanager
async def stolen(*, cloud: bool) -> AsyncIterator[tuple[Card, SleepingVLLM, Rig]]:
    """A vLLM on a card that its driver tells of; with `cloud` its model is served elsewhere as well."""
    card = Card(24 * GIB)
    engine = SleepingVLLM(card, 14 * GIB)
    async with RawServer(engine) as server, RawServer(good) as other:
        deployments = [{"backend": "gpu", "model": "engine-model", "vram": "14GiB", "order": 1}]
        if cloud:
            deployments.append({"backend": "cloud", "model": "engine-model", "order": 2})
        settings = {
            "backends": {
                "gpu": {"type": "vllm", "url": server.base_url, "options": {"sleep_level": 1}},
                "cloud": {"type": "openai", "url": f"{other.base_url}/v1"},
            },
            "models": [{"name": "chat", "deployments": deployments}],
            "vram": {"monitor_interval": "10s"},
            "resilience": {"circuit_breaker": {"failure_threshold": 1}},
        }
        async with rig_over(settings, probe=CardProbe(card)) as rig:
            yield card, engine, rig


@on_both_transports
async def test_row_63_memory_stolen_between_check_and_load_is_503_and_measured_anew():
    """The driver was read at the start; then a game took the memory. The engine's own word is not held against it."""
    async with stolen(cloud=False) as (card, engine, rig):
        gate = rig.router.gate
        assert gate is not None
        await gate.reconcile()
        card.take("game", 16 * GIB)
        assert error_code(await rig.ask("chat")) == (503, "vram_exhausted")
        assert engine.log == ["wake"]
        assert {state for _, _, state in rig.router.breakers.states()} <= {"closed"}
        assert rig.resident() == set()
        asked = asyncio.create_task(rig.ask("chat"))
        await rig.until_waiting()
        await until(lambda: gate.snapshot().devices[0].outside_bytes == 16 * GIB)  # without a look by the monitor
        assert engine.log == ["wake"]
        card.give_back("game")
        await gate.reconcile(force=True)
        assert (await asked).status_code == 200
        assert engine.log == ["wake", "wake", "chat"]


@on_both_transports
async def test_row_63_a_load_that_finds_no_memory_falls_back_to_the_next_deployment():
    async with stolen(cloud=True) as (card, engine, rig):
        await rig.router.gate.reconcile()
        card.take("game", 16 * GIB)
        answer = await rig.ask("chat")
        assert (answer.status_code, answer.headers["x-smartrouter-backend"]) == (200, "cloud")
        assert answer.headers["x-smartrouter-attempts"] == "2"
        card.give_back("game")
        await rig.router.gate.reconcile(force=True)
        answer = await rig.ask("chat")
        assert answer.headers["x-smartrouter-backend"] == "gpu"
        assert engine.log == ["wake", "wake", "chat"]


@on_both_transports
async def test_row_63_memory_that_runs_out_at_work_is_503_and_the_engine_is_asked_what_is_left():
    """Ollama drops its runners then: the next request loads the model anew, and no breaker has opened."""
    async with ollama_rig(vram={"monitor_interval": "10s"}) as (ollama, rig):
        assert (await rig.ask("a")).status_code == 200
        oom = Fault(crash="error", crash_message="CUDA error: out of memory", kills_runner=True)
        ollama.faults.once(oom, model="a", path="/api/chat")
        assert error_code(await rig.ask("a")) == (503, "vram_exhausted")
        assert {state for _, _, state in rig.router.breakers.states()} <= {"closed"}
        assert (await rig.ask("b")).status_code == 200
        done = rig.decisions()
        assert ("local/a:latest", "vanished") in done  # the engine was asked before the next decision
        assert ("local/a:latest", "evict") not in done
        assert (await rig.ask("a")).status_code == 200


class BusyLlama(LlamaRouter):
    """A llama.cpp router that goes on generating when its client has gone: its slots tell."""

    def __init__(self) -> None:
        super().__init__("a", "b", polls=1)
        self.streams = 0

    async def __call__(self, exchange: Exchange) -> None:
        body = json.loads(exchange.body) if exchange.body else {}
        if not body.get("stream"):
            await super().__call__(exchange)
            return
        self.streams += 1
        self.slots = slots(True)
        await exchange.start_stream()
        await exchange.chunk(
            b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"a","choices":'
            b'[{"index":0,"delta":{"role":"assistant","content":"Hel"},"finish_reason":null}]}\n\n'
        )
        await exchange.gone()


@asynccontextmanager
async def llama_rig(engine: LlamaRouter, **vram: Any) -> AsyncIterator[Rig]:
    async with RawServer(engine) as server:
        settings = {
            "backends": {"local": {"type": "llama.cpp", "url": server.base_url}},
            "models": [served_by("local", name, 14) for name in "ab"],
            "vram": {"max_total": "20GiB", **vram},
            "resilience": {"retry": {"base_delay": "200ms", "max_delay": "200ms"}},
        }
        async with rig_over(settings) as rig:
            yield rig


async def leave_a_stream(engine: BusyLlama, rig: Rig) -> None:
    async with raw_request(rig.url, chat("a", stream=True)) as (reader, _):
        await reader.readuntil(b"data: ")
    await until(lambda: rig.holding("local/a").draining)


@on_both_transports
async def test_row_65_an_engine_that_goes_on_after_our_close_keeps_its_memory_until_it_shows_idle():
    """Nobody gets in over it; as soon as its slots are idle the next one does, long before the grace is over."""
    engine = BusyLlama()
    async with llama_rig(engine, release_grace="30s", fair_after="50ms") as rig:
        await leave_a_stream(engine, rig)
        next_one = asyncio.create_task(rig.ask("b"))
        await until(lambda: rig.holding("local/a").closed)
        assert "unload a" not in engine.log
        assert (await rig.tell("a", "unload"))["error"]["code"] == "model_in_use"
        engine.slots = slots(False)
        assert (await next_one).status_code == 200
        assert engine.log[-3:] == ["unload a", "load b", "chat b"]


@on_both_transports
async def test_row_65_an_engine_that_never_shows_idle_keeps_it_for_the_grace():
    engine = BusyLlama()
    async with llama_rig(engine, release_grace="500ms") as rig:
        began = time.monotonic()
        await leave_a_stream(engine, rig)
        assert (await rig.ask("b")).status_code == 200
        assert 0.5 <= time.monotonic() - began < 5
        assert engine.log[-3:] == ["unload a", "load b", "chat b"]


async def test_a_retry_at_the_same_candidate_keeps_the_lease():
    """The engine says 503 once; while the retry waits, b must not take a's place: the retry would load a again."""
    engine = LlamaRouter("a", "b", polls=1)
    async with llama_rig(engine, fair_after="0s") as rig:
        assert (await rig.ask("a")).status_code == 200
        engine.chat = [(503, b'{"error":{"code":503,"message":"busy","type":"unavailable_error"}}')]
        first = asyncio.create_task(rig.ask("a"))
        await until(lambda: not engine.chat)
        second = asyncio.create_task(rig.ask("b"))
        await until(lambda: rig.holding("local/a").closed)
        assert rig.holding("local/a").leases == 1  # between two attempts
        answer = await first
        assert (answer.status_code, answer.headers["x-smartrouter-attempts"]) == (200, "2")
        assert (await second).status_code == 200
        assert engine.log == ["load a", "chat a", "chat a", "unload a", "load b", "chat b"]


async def test_a_slow_reader_does_not_hold_the_gpu_once_the_engine_is_done():
    """The first client has read nothing of its answer yet when the other model is already served."""
    async with ollama_rig(models=[model("a", 14, answer_tokens=60), model("b", 14)]) as (ollama, rig):
        async with raw_request(rig.url, chat("a", stream=True)) as (reader, _):
            await ollama.wait_for(lambda e: e.stats.active_generations == 1)
            assert (await rig.ask("b")).status_code == 200
            assert ollama.loaded == ("b:latest",)
            answer = await reader.readuntil(b"[DONE]")
        assert answer.count(b"data: ") > 50
        assert ollama.stats.aborted_generations == 0


async def test_a_client_that_leaves_while_its_model_loads_leaves_the_load_to_the_next():
    async with ollama_rig() as (ollama, rig):
        async with raw_request(rig.url, chat("a")):
            await ollama.wait_for(lambda e: e.loading is not None)
        await until(lambda: rig.waiting() == 0)
        assert (await rig.ask("a")).status_code == 200
        assert (ollama.stats.loads_started, ollama.stats.loads) == (1, 1)


async def test_a_model_that_was_loaded_for_a_client_who_left_stays():
    """Nobody waits any more when it is there; it is idle, and the next one is served at once."""
    async with ollama_rig() as (ollama, rig):
        async with raw_request(rig.url, chat("a")):
            await ollama.wait_for(lambda e: e.loading is not None)
        await until(lambda: rig.resident() == {"local/a:latest"})
        assert (await rig.ask("a")).status_code == 200
        assert ollama.stats.loads == 1


async def test_clients_that_leave_the_queue_make_place_for_others_and_cause_no_load():
    """Five wait for b and leave; b is never loaded, and the queue is empty."""
    models = [model("a", 14, answer_tokens=120), model("b", 14)]
    async with ollama_rig(models=models, vram={"max_queue": 5}) as (ollama, rig):
        async with rig.streaming("a"):
            async with asyncio.TaskGroup() as group:
                asks = [group.create_task(leaving(rig, chat("b"), 5)) for _ in range(5)]
                await rig.until_waiting(5)
                assert error_code(await rig.ask("b")) == (503, "queue_full")
            assert all(ask.done() for ask in asks)
            await until(lambda: rig.waiting() == 0)
        assert ollama.stats.loads == 1


async def leaving(rig: Rig, body: dict[str, Any], together: int) -> None:
    """Ask, and leave once so many wait and one more has been refused."""
    async with raw_request(rig.url, body):
        await rig.until_waiting(together)
        await until(lambda: any(action == "reject" for _, action in rig.decisions()))


async def test_a_client_that_leaves_a_stream_lets_the_next_model_in():
    """The engine is told at once, and after the grace the memory is another model's."""
    models = [model("a", 14, answer_tokens=2000), model("b", 14)]
    async with ollama_rig(models=models, vram={"release_grace": "100ms"}) as (ollama, rig):
        async with raw_request(rig.url, chat("a", stream=True)) as (reader, _):
            await reader.readuntil(b"data: ")
            waiting = asyncio.create_task(rig.ask("b"))
            await rig.until_waiting()
        await ollama.wait_for(lambda e: e.stats.aborted_generations == 1)
        assert (await waiting).status_code == 200
        assert ollama.loaded == ("b:latest",)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_load_fails_holds_nothing(stream: bool):
    """All who waited for it are told, and the memory is another's, all of it: nothing of b ends up on the CPU."""
    async with ollama_rig() as (ollama, rig):
        ollama.faults.once(Fault(load_error="llama runner process has terminated: exit status 2"), model="a")
        answers = await asyncio.gather(*(rig.ask("a", stream=stream) for _ in range(3)))
        assert {error_code(answer) for answer in answers} == {(503, "model_load_failed")}
        assert rig.resident() == set()
        assert (await rig.ask("b")).status_code == 200
        assert (await rig.vram())["used_bytes"] == 14 * GIB
