"""One GPU, many engines, one gate: Ollama, vLLM, a llama.cpp router and an in-house service share a card."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from smartrouter_asgi import CallbackLifecycle, Deployment, VRAMGateMiddleware
from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama

from ..harness.cards import Card
from ..harness.engines import good
from ..harness.residents import Service, SleepingVLLM
from ..harness.servers import RawServer, serve
from ..harness.waiting import until
from ..test_llama_cpp_backend import LlamaRouter
from .rigs import TIME_SCALE, Rig, model, rig_over, served_by


class LlamaOnCard(LlamaRouter):
    """A llama.cpp router whose children hold the card's memory, 10 GiB each."""

    def __init__(self, card: Card, *models: str) -> None:
        super().__init__(*models, polls=1)
        self.card = card

    def _change(self, verb: str, model: str) -> tuple[int, bytes]:
        answer = super()._change(verb, model)
        if answer[0] == 200 and verb == "load":
            self.card.take(f"llama {model}", 10 * GIB)
        return answer

    def _finish(self, model: str) -> None:
        super()._finish(model)
        if self.status[model] == "unloaded":
            self.card.give_back(f"llama {model}")


@dataclass
class Box:
    """A card of 24 GiB, of which 22 are to be shared out, and everybody on it."""

    card: Card
    ollama: SimulatedOllama
    vllm: SleepingVLLM
    llama: LlamaOnCard
    service: Service
    cloud: RawServer
    rig: Rig
    service_url: str

    async def run_service(self, name: str) -> int:
        return (await self.rig.client.post(f"{self.service_url}/run/{name}")).status_code

    def check(self) -> None:
        """Nobody was hurt, and the card never held more than was to be shared."""
        assert self.vllm.wrong == []
        assert self.ollama.stats.aborted_generations == 0
        assert self.card.peak_bytes <= 22 * GIB


@asynccontextmanager
async def box(**vram: Any) -> AsyncIterator[Box]:
    card = Card(24 * GIB)
    vllm, llama = SleepingVLLM(card, 16 * GIB), LlamaOnCard(card, "gguf", "other-gguf")
    service = Service(card, {"voice": 12 * GIB})
    models = [model("chat-a", 14, answer_tokens=60), model("small", 4)]
    async with (
        SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=TIME_SCALE, faults=card.faults) as ollama,
        RawServer(vllm) as vllm_server,
        RawServer(llama) as llama_server,
        RawServer(good) as cloud,
    ):
        card.ollama = ollama
        settings = {
            "backends": {
                "ollama": {"type": "ollama", "url": ollama.base_url},
                "vllm": {"type": "vllm", "url": vllm_server.base_url},
                "llama": {"type": "llama.cpp", "url": llama_server.base_url},
                "cloud": {"type": "openai", "url": f"{cloud.base_url}/v1"},
            },
            "models": [
                served_by("ollama", "chat-a", 14),
                served_by("ollama", "small", 4),
                served_by("vllm", "engine-model", 16),
                served_by("llama", "gguf", 10),
                served_by("llama", "other-gguf", 10),
                {"name": "far", "deployments": [{"backend": "cloud", "model": "engine-model"}]},
            ],
            "vram": {"max_total": "22GiB", "fair_after": "200ms", **vram},
        }
        lifecycles = {"service": CallbackLifecycle(load=service.load, unload=service.unload)}
        async with rig_over(settings, lifecycles=lifecycles) as rig:
            assert rig.router.gate is not None
            gated = VRAMGateMiddleware(
                service,
                gate=rig.router.gate,
                model_of=lambda scope: Deployment(
                    backend="service",
                    model=scope["path"].rpartition("/")[2],
                    vram_bytes=12 * GIB,
                ),
            )
            async with serve(gated, lifespan="off") as service_url:
                made = Box(card, ollama, vllm, llama, service, cloud, rig, service_url)
                yield made
                made.check()


async def ok(response: Any) -> None:
    answer = await response
    assert answer.status_code == 200, answer.text


async def test_engines_make_room_for_each_other():
    """Each of them in turn: whoever is idle goes, by its own way of going, for whoever comes."""
    async with box() as it:
        rig = it.rig
        await ok(rig.ask("chat-a"))
        assert it.ollama.loaded == ("chat-a:latest",)
        await ok(rig.ask("engine-model"))
        assert it.ollama.loaded == ()
        assert it.vllm.log == ["wake", "chat"]
        await ok(rig.ask("chat-a"))
        assert it.vllm.log == ["wake", "chat", "sleep"]
        await ok(rig.ask("gguf"))
        assert it.ollama.loaded == ()
        assert await it.run_service("voice") == 200  # beside it: 10 and 12 GiB
        assert rig.resident() == {"llama/gguf", "service/voice"}
        await ok(rig.ask("other-gguf"))
        assert it.llama.log == ["load gguf", "chat gguf", "unload gguf", "load other-gguf", "chat other-gguf"]
        await ok(rig.ask("engine-model"))
        assert it.service.log == ["load voice", "unload voice"]
        assert rig.resident() == {"vllm/engine-model"}
        assert await it.run_service("voice") == 200
        assert it.vllm.log[-1] == "sleep"


async def test_an_engine_at_work_is_never_asked_to_make_room():
    """A vLLM waits for a stream of Ollama's, and Ollama for an answer of the vLLM; then each gets its turn."""
    async with box() as it:
        rig = it.rig
        async with rig.streaming("chat-a") as lines:
            second = asyncio.create_task(rig.ask("engine-model"))
            await rig.until_waiting()
            assert it.vllm.log == []
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        await ok(second)
        it.vllm.free.clear()
        third = asyncio.create_task(rig.ask("engine-model"))
        await until(lambda: it.vllm.busy)
        fourth = asyncio.create_task(rig.ask("chat-a"))
        await rig.until_waiting()
        await until(lambda: rig.holding("vllm/engine-model").closed)  # long enough to be owed the memory
        assert it.vllm.log.count("sleep") == 0
        it.vllm.free.set()
        await ok(third)
        await ok(fourth)
        assert it.vllm.log[-1] == "sleep"


async def test_a_crowd_over_all_engines_is_served_and_nobody_is_hurt():
    """Forty requests for five models of four engines at once; the card never holds too much."""
    async with box(max_wait="20s") as it:
        names = ["chat-a", "small", "engine-model", "gguf", "other-gguf"]
        asks = [it.rig.ask(names[number % 5]) for number in range(35)]
        answers, services = await asyncio.gather(
            asyncio.gather(*asks), asyncio.gather(*(it.run_service("voice") for _ in range(5)))
        )
        assert [answer.status_code for answer in answers] == [200] * 35
        assert services == [200] * 5
        assert it.ollama.stats.loads + len(it.vllm.log) + len(it.llama.log) < 35 + 20


async def test_what_needs_no_memory_here_is_let_through_while_all_memory_is_wanted():
    """A cloud's model has no lease and no wait, whatever happens to the GPU."""
    async with box() as it:
        async with it.rig.streaming("chat-a") as lines:
            waiting = asyncio.create_task(it.rig.ask("engine-model"))
            await it.rig.until_waiting()
            await ok(it.rig.ask("far"))
            assert it.rig.waiting() == 1
            assert it.rig.resident() == {"ollama/chat-a:latest"}
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        await ok(waiting)


async def test_an_engine_that_will_not_let_go_is_left_alone_and_said_to():
    """A vLLM refuses to sleep: its model stays in the books, the request waits, and gets in when it lets go."""
    async with box(max_wait="500ms") as it:
        await ok(it.rig.ask("engine-model"))
        it.vllm.refuses_to_sleep = True
        answer = await it.rig.ask("chat-a")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "vram_queue_timeout")
        assert ("vllm/engine-model", "unload_failed") in it.rig.decisions()
        assert it.rig.resident() == {"vllm/engine-model"}
        await ok(it.rig.ask("engine-model"))


async def single_llama(exchange: Any) -> None:
    """A llama-server of one model, which it holds for as long as it runs."""
    if exchange.path.endswith("/models"):
        listed = b'{"object":"list","data":[{"id":"engine-model","object":"model","meta":{"n_ctx_train":4096}}]}'
        await exchange.answer(200, listed)
    elif exchange.path.startswith(("/health", "/props")):
        await exchange.answer(200, b'{"status":"ok"}')
    else:
        await good(exchange)


async def test_what_an_engine_holds_for_good_is_respected():
    """A llama-server of one model, declared: 12 of 22 GiB are its own, so 14 fit never and 4 at once."""
    async with (
        SimulatedOllama([model("a", 14), model("small", 4)], gpu_bytes=24 * GIB, time_scale=TIME_SCALE) as ollama,
        RawServer(single_llama) as server,
    ):
        settings = {
            "backends": {
                "ollama": {"type": "ollama", "url": ollama.base_url},
                "single": {"type": "llama.cpp", "url": server.base_url},
            },
            "models": [
                served_by("ollama", "a", 14),
                served_by("ollama", "small", 4),
                served_by("single", "engine-model", 12),
            ],
            "vram": {"max_total": "22GiB"},
        }
        async with rig_over(settings) as rig:
            await ok(rig.ask("engine-model"))
            refused = await rig.ask("a")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "vram_exhausted")
            await ok(rig.ask("small"))
            seen = await rig.vram()
            assert {(r["deployment"], r["size_bytes"], r["fixed"]) for r in seen["residents"]} == {
                ("single/engine-model", 12 * GIB, True),
                ("ollama/small:latest", 4 * GIB, False),
            }
            told = await rig.tell("engine-model", "unload")
            assert (told["unloaded"], "cannot" in told["reason"]) == (False, True)
            await ok(rig.ask("engine-model"))


async def test_two_servers_of_one_kind_make_room_for_each_other():
    """Two vLLM servers, each with its model: one of them sleeps while the other one works."""
    card = Card(24 * GIB)
    first = SleepingVLLM(card, 16 * GIB, model="m1", name="first")
    second = SleepingVLLM(card, 16 * GIB, model="m2", name="second")
    async with RawServer(first) as one, RawServer(second) as two:
        settings = {
            "backends": {
                "first": {"type": "vllm", "url": one.base_url, "options": {"sleep_level": 1}},
                "second": {"type": "vllm", "url": two.base_url, "options": {"sleep_level": 1}},
            },
            "models": [served_by("first", "m1", 16), served_by("second", "m2", 16)],
            "vram": {"max_total": "22GiB"},
        }
        async with rig_over(settings) as rig:
            for name in ("m1", "m2", "m1"):
                await ok(rig.ask(name))
    assert (first.log, second.log) == (["wake", "chat", "sleep", "wake", "chat"], ["wake", "chat", "sleep"])
    assert first.wrong == second.wrong == []
    assert card.peak_bytes == 16 * GIB
