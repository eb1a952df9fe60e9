"""Who goes elsewhere when the GPU is busy, who waits, and in which order those who wait are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from smartrouter_asgi.testing.ollama import GIB, SimulatedOllama

from ..harness.answers import error_code
from ..harness.engines import answering, good
from ..harness.servers import RawServer
from ..harness.waiting import until
from .rigs import TIME_SCALE, Rig, model, rig_over, served_by


@asynccontextmanager
async def local_and_cloud(
    cloud: RawServer, *, answer_tokens: int = 400, **vram: Any
) -> AsyncIterator[tuple[SimulatedOllama, Rig]]:
    """`chat` is served by Ollama first and a cloud second; `busy`, `b` and `c` by Ollama alone. One of them fits.

    A stream of `busy` takes `answer_tokens` milliseconds.
    """
    models = [model("busy", 14, answer_tokens=answer_tokens), *(model(name, 14) for name in ("a", "b", "c"))]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=TIME_SCALE) as ollama:
        settings = {
            "backends": {
                "local": {"type": "ollama", "url": ollama.base_url},
                "cloud": {"type": "openai", "url": f"{cloud.base_url}/v1"},
            },
            "models": [
                {
                    "name": "chat",
                    "deployments": [
                        {"backend": "local", "model": "a", "vram": "14GiB", "order": 1},
                        {"backend": "cloud", "model": "engine-model", "order": 2},
                    ],
                },
                *(served_by("local", name, 14) for name in ("busy", "a", "b", "c")),
            ],
            "vram": {"max_total": "20GiB", "fair_after": "5s", "spill_after": "2s", **vram},
        }
        async with rig_over(settings) as rig:
            yield ollama, rig


async def where(rig: Rig, **fields: Any) -> str:
    answer = await rig.ask("chat", **fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-smartrouter-backend"]


async def test_a_long_wait_is_not_begun_where_another_deployment_is_left():
    """The GPU is in use and would be given up after five seconds: the cloud answers at once.

    The model is fetched meanwhile, as soon as there is room without a struggle: those who come after find it there.
    """
    async with RawServer(good) as cloud, local_and_cloud(cloud) as (ollama, rig):
        async with rig.streaming("busy") as lines:
            began = time.monotonic()
            assert await where(rig) == "cloud"
            assert time.monotonic() - began < 1.0
            assert await where(rig) == "cloud"
            assert rig.waiting() == 1  # the fetch, once, however many have gone elsewhere
            assert not rig.holding("local/busy:latest").closed
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        await until(lambda: rig.resident() == {"local/a:latest"})
        assert await where(rig) == "local"
        assert ollama.stats.loads == 2
        assert ollama.stats.aborted_generations == 0


async def test_a_short_wait_is_worth_it():
    """The projected wait is below `spill_after`: it queues, and the local model answers."""
    async with RawServer(good) as cloud, local_and_cloud(cloud, fair_after="100ms") as (_, rig):
        async with rig.streaming("busy") as lines:
            asked = asyncio.create_task(where(rig))
            await rig.until_waiting()
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await asked == "local"
        assert all(exchange.path.endswith("/models") for exchange in cloud.exchanges)


async def test_a_first_load_on_an_idle_gpu_does_not_spill():
    """By its size it would take 14 s, and `spill_after` is 2 s; nobody has measured that, and nothing is in its way."""
    async with RawServer(good) as cloud, local_and_cloud(cloud) as (ollama, rig):
        assert await where(rig) == "local"
        assert (await rig.ask("b")).status_code == 200
        assert await where(rig) == "local"  # and once it was measured to be short neither does the next one
        assert ollama.stats.loads == 3


async def test_with_a_short_deadline_it_spills_too():
    """The client waits for one second only, and the wait is projected longer than that, if not than `spill_after`."""
    async with RawServer(good) as cloud, local_and_cloud(cloud, spill_after="60s", fair_after="5s") as (_, rig):
        async with rig.streaming("busy"):
            patient = asyncio.create_task(where(rig))
            await rig.until_waiting()
            assert await where(rig, headers={"x-stainless-read-timeout": "1"}) == "cloud"
            assert not patient.done()
            patient.cancel()


async def test_when_the_cloud_fails_the_request_comes_back_and_queues():
    async with (
        RawServer(answering(500)) as cloud,
        local_and_cloud(cloud) as (_, rig),
    ):
        async with rig.streaming("busy") as lines:
            asked = asyncio.create_task(where(rig))
            await rig.until_waiting(2)  # the fetch, and the request
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await asked == "local"


async def test_with_nobody_else_left_it_queues_however_long_it_takes():
    async with RawServer(good) as cloud, local_and_cloud(cloud, spill_after="0s") as (_, rig):
        async with rig.streaming("busy") as lines:
            asked = asyncio.create_task(rig.ask("b"))
            await rig.until_waiting()
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert (await asked).status_code == 200


async def test_a_model_that_can_never_fit_goes_to_the_cloud_at_once():
    """Refused, not spilled: nothing is fetched for it."""
    async with RawServer(good) as cloud, local_and_cloud(cloud, max_total="10GiB") as (ollama, rig):
        assert await where(rig) == "cloud"
        assert ollama.stats.loads == 0
        await rig.router.gate.reconcile(force=True)
        assert rig.waiting() == 0


async def test_a_priority_decides_who_is_first():
    """Who waits for b came first; c is more urgent, and is loaded before it."""
    async with RawServer(good) as cloud, local_and_cloud(cloud) as (_, rig):
        async with rig.streaming("busy") as lines:
            later = asyncio.create_task(rig.ask("b"))
            await rig.until_waiting(1)
            sooner = asyncio.create_task(rig.ask("c", headers={"x-smartrouter-priority": "-1"}))
            await rig.until_waiting(2)
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert [answer.status_code for answer in await asyncio.gather(later, sooner)] == [200, 200]
        loads = [deployment for deployment, action in rig.decisions() if action == "load"]
        assert loads == ["local/busy:latest", "local/c:latest", "local/b:latest"]


async def test_equal_priorities_go_by_what_a_load_serves():
    """Three wait for c and one for b, who came first: c's load serves more of them."""
    async with RawServer(good) as cloud, local_and_cloud(cloud) as (_, rig):
        async with rig.streaming("busy") as lines:
            asks = [asyncio.create_task(rig.ask("b"))]
            await rig.until_waiting(1)
            asks += [asyncio.create_task(rig.ask("c")) for _ in range(3)]
            await rig.until_waiting(4)
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert [answer.status_code for answer in await asyncio.gather(*asks)] == [200] * 4
        loads = [deployment for deployment, action in rig.decisions() if action == "load"]
        assert loads == ["local/busy:latest", "local/c:latest", "local/b:latest"]


async def test_a_refusal_says_when_to_come_back():
    """The queue is full: Retry-After is the projected wait, and `retry-after-ms` says it finer."""
    async with RawServer(good) as cloud, local_and_cloud(cloud, max_queue=1) as (_, rig):
        async with rig.streaming("busy") as lines:
            waiting = asyncio.create_task(rig.ask("b"))
            await rig.until_waiting()
            refused = await rig.ask("c")
            assert error_code(refused) == (503, "queue_full")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert int(refused.headers["retry-after-ms"]) >= 1000
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert (await waiting).status_code == 200
