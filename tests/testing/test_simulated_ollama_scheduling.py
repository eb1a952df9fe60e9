"""Loading, unloading, queueing and eviction of the simulated Ollama, over real sockets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from smartrouter_asgi.testing.ollama import GIB, SERVER_BUSY, Fault, SimulatedModel, SimulatedOllama

from .simulated_engine import ask, plain

HANG = Fault(stall="mid_stream", after_tokens=1)
"""Keeps a generation in its slot until the faults are cleared."""


def post(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/api/chat") -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post(path, json=body))


async def load(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    return await client.post("/api/generate", json={"model": model, **fields})


async def rows(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in (await client.get("/api/ps")).json()["models"]}


async def occupy(engine: SimulatedOllama, client: httpx.AsyncClient, model: str, **fields: Any) -> asyncio.Task:
    """Begin a generation that lasts until the faults are cleared."""
    before = engine.stats.tokens_generated
    engine.faults.once(HANG, model=model)
    task = post(client, ask(model, **fields))
    await engine.wait_for(lambda e: e.stats.tokens_generated == before + 1)
    return task


async def abandon(task: asyncio.Task) -> None:
    """Leave as a client does: the connection is closed."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def gone(engine: SimulatedOllama, model: str) -> None:
    await engine.wait_for(lambda e: f"{model}:latest" not in e.loaded)


# -- load and unload


@pytest.mark.parametrize(("path", "extra"), [("/api/generate", {}), ("/api/chat", {"messages": []})])
async def test_an_empty_prompt_loads_and_answers_when_loaded(start, path, extra):
    engine, client = await start(plain("a", 4))
    response = await client.post(path, json={"model": "a", **extra})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert (response.json()["done"], response.json()["done_reason"]) == (True, "load")
    assert engine.loaded == ("a:latest",)
    assert engine.stats.generations == 0
    assert engine.memory() == (24 * GIB, 20 * GIB)


async def test_a_model_that_is_loading_is_listed_and_its_memory_grows(start):
    engine, client = await start(plain("a", 8))
    engine.faults.set(Fault(load_stall=True))
    loading = post(client, {"model": "a"}, "/api/generate")
    await engine.wait_for(lambda e: e.loading == "a:latest")
    assert set(await rows(client)) == {"a:latest"}
    assert engine.loaded == ()
    assert engine.gpu.free_bytes == 24 * GIB
    grown = asyncio.create_task(engine.wait_for(lambda e: 0 < e.gpu.used_bytes < 8 * GIB))
    await asyncio.sleep(0)
    engine.faults.clear()
    await grown
    assert (await loading).json()["done_reason"] == "load"
    assert engine.gpu.used_bytes == 8 * GIB


async def test_unload_answers_at_once_and_the_runner_goes_when_its_last_request_ends(start):
    engine, client = await start(plain("a", 4), vram_release_s=(1.0, 1.0))
    busy = await occupy(engine, client, "a")
    response = await load(client, "a", keep_alive=0)
    assert (response.json()["done"], response.json()["done_reason"]) == (True, "unload")
    assert set(await rows(client)) == {"a:latest"}
    assert not busy.done()
    engine.faults.clear()
    assert (await busy).json()["done_reason"] == "stop"
    assert await rows(client) == {}
    assert engine.gpu.free_bytes == 20 * GIB, "the memory comes back later than the row goes"
    await engine.wait_for(lambda e: e.gpu.free_bytes == 24 * GIB)


async def test_unload_by_an_empty_chat_and_of_an_unloaded_model(start):
    engine, client = await start(plain("a", 4))
    for _ in range(2):
        response = await client.post("/api/chat", json={"model": "a", "messages": [], "keep_alive": "0s"})
        assert response.json()["done_reason"] == "unload"
    assert engine.stats.loads == 0
    assert (await load(client, "b", keep_alive=0)).status_code == 404


async def test_a_load_right_after_an_unload_finds_the_memory_still_taken(start):
    engine, client = await start(plain("a", 16), plain("b", 16), vram_release_s=(4.0, 4.0))
    await load(client, "a")
    await load(client, "a", keep_alive=0)
    await load(client, "b")
    row = (await rows(client))["b:latest"]
    assert row["size_vram"] < row["size"]
    assert engine.stats.peak_vram_bytes <= 24 * GIB


# -- reload


@pytest.mark.parametrize(
    ("first", "second", "reloads"),
    [
        ({}, {}, False),
        ({"num_ctx": 4096}, {"num_ctx": 4096}, False),
        ({}, {"temperature": 0.1, "seed": 3, "num_predict": 2}, False),
        ({"num_gpu": 20}, {"num_gpu": -1}, False),
        ({}, {"num_ctx": 2048}, True),
        ({"num_ctx": 2048}, {}, True),
        ({}, {"num_batch": 1024}, True),
        ({}, {"num_thread": 4}, True),
        ({}, {"use_mmap": False}, True),
        ({"num_ctx": 10**6}, {"num_ctx": 8192}, False),
    ],
)
async def test_another_load_time_option_reloads_the_runner(start, first, second, reloads):
    engine, client = await start(plain("a", 4))
    for options in (first, second):
        assert (await client.post("/api/chat", json=ask("a", options=options))).status_code == 200
    assert engine.stats.loads == 1 + reloads
    assert engine.stats.unloads == reloads


async def test_two_tags_of_one_digest_share_a_runner(start):
    blob = "ab" * 32
    engine, client = await start(plain("a", 4, digest=blob), plain("b", 4, digest=blob))
    await client.post("/api/chat", json=ask("a"))
    await client.post("/api/chat", json=ask("b"))
    assert engine.stats.loads == 1
    assert set(await rows(client)) == {"a:latest"}
    await client.post("/api/chat", json=ask("b", options={"num_ctx": 2048}))
    assert engine.stats.loads == 2
    assert set(await rows(client)) == {"b:latest"}


# -- queues


async def test_the_head_that_waits_for_an_eviction_holds_up_other_loads_but_not_residents(start):
    engine, client = await start(plain("a", 16), plain("b", 16), plain("c", 1), num_parallel=2)
    busy = await occupy(engine, client, "a")
    order: list[str] = []

    async def answered(model: str) -> None:
        assert (await client.post("/api/chat", json=ask(model))).status_code == 200
        order.append(model)

    head = asyncio.create_task(answered("b"))
    await engine.wait_for(lambda e: e.scheduler.head is not None)
    behind = asyncio.create_task(answered("c"))
    await engine.wait_for(lambda e: e.pending == 1)
    await answered("a")
    assert engine.stats.loads == 1, "c would fit, but waits behind b"
    engine.faults.clear()
    await asyncio.gather(busy, head, behind)
    assert order == ["a", "b", "c"]


async def test_requests_for_a_resident_model_wait_for_a_slot_without_bound(start):
    engine, client = await start(plain("a", 4), max_queue=1, num_parallel=1)
    busy = await occupy(engine, client, "a")
    waiting = [post(client, ask("a")) for _ in range(6)]
    await engine.wait_for(lambda e: e.waiting_for_slot == 6)
    engine.faults.clear()
    assert {(await task).status_code for task in [busy, *waiting]} == {200}
    assert engine.stats.peak_active_generations == 1


async def test_num_parallel_requests_run_together(start):
    engine, client = await start(plain("a", 4), num_parallel=3)
    busy = [await occupy(engine, client, "a") for _ in range(3)]
    last = post(client, ask("a"))
    await engine.wait_for(lambda e: e.waiting_for_slot == 1)
    assert engine.stats.active_generations == 3
    engine.faults.clear()
    await asyncio.gather(*busy, last)
    assert engine.stats.peak_active_generations == 3


async def test_an_embedding_model_has_one_slot_whatever_num_parallel(start):
    engine, client = await start(plain("e", 1, capabilities=("embedding",)), num_parallel=4)
    engine.faults.once(Fault(stall="mid_stream"))
    first = post(client, {"model": "e", "input": "x"}, "/api/embed")
    await engine.wait_for(lambda e: e.stats.active_generations == 1)
    second = post(client, {"model": "e", "input": "x"}, "/api/embed")
    await engine.wait_for(lambda e: e.waiting_for_slot == 1)
    engine.faults.clear()
    await asyncio.gather(first, second)


async def test_more_pending_loads_than_max_queue_are_refused(start):
    engine, client = await start(plain("a", 16), plain("b", 16), max_queue=1)
    busy = await occupy(engine, client, "a")
    head = post(client, ask("b"))
    await engine.wait_for(lambda e: e.scheduler.head is not None)
    queued = post(client, ask("b"))
    await engine.wait_for(lambda e: e.pending == 1)
    refused = await client.post("/api/chat", json=ask("b"))
    assert (refused.status_code, refused.json()) == (503, {"error": SERVER_BUSY})
    assert SERVER_BUSY == "server busy, please try again.  maximum pending requests exceeded"
    engine.faults.clear()
    assert {(await task).status_code for task in (busy, head, queued)} == {200}


# -- eviction


async def test_the_shortest_keep_alive_is_evicted_not_the_least_recently_used(start):
    engine, client = await start(plain("a", 8), plain("b", 8), plain("c", 8))
    await load(client, "a", keep_alive="10m")
    await load(client, "b", keep_alive="1m")
    await load(client, "c", keep_alive="5m")
    assert engine.loaded == ("a:latest", "c:latest")


async def test_keep_alive_forever_is_evicted_last_but_is_no_pin(start):
    engine, client = await start(plain("a", 8), plain("b", 8), plain("c", 8), plain("d", 20))
    await load(client, "a", keep_alive=-1)
    await load(client, "b", keep_alive="9999h")
    await load(client, "c")
    assert engine.loaded == ("a:latest", "c:latest")
    await load(client, "d")
    assert engine.loaded == ("d:latest",)


async def test_a_busy_runner_is_never_evicted_while_an_idle_one_is_there(start):
    engine, client = await start(plain("a", 8), plain("b", 8), plain("c", 8))
    await load(client, "a", keep_alive="10m")
    busy = await occupy(engine, client, "b", keep_alive="1m")
    await load(client, "c")
    assert engine.loaded == ("b:latest", "c:latest")
    assert not busy.done()
    engine.faults.clear()
    assert (await busy).json()["done_reason"] == "stop"


async def test_a_victim_that_is_busy_finishes_before_it_goes(start):
    engine, client = await start(plain("a", 16), plain("b", 16))
    busy = await occupy(engine, client, "a")
    waiting = post(client, ask("b"))
    await engine.wait_for(lambda e: e.scheduler.head is not None)
    assert engine.stats.unloads == 0
    engine.faults.clear()
    assert (await busy).status_code == (await waiting).status_code == 200
    assert engine.loaded == ("b:latest",)
    assert engine.stats.peak_vram_bytes == 16 * GIB, "b came only after a's memory was back"


async def test_the_count_of_loaded_models_is_capped(start):
    engine, client = await start(*(plain(name, 1) for name in "abcd"))
    for name in "abcd":
        await load(client, name)
    assert len(engine.loaded) == 3
    engine, client = await start(plain("a", 1), plain("b", 1), max_loaded_models=1)
    for name in "ab":
        await load(client, name)
    assert engine.loaded == ("b:latest",)


async def test_a_model_has_to_fit_into_80_percent_of_what_is_free(start):
    engine, client = await start(plain("a", 4), plain("b", 16.5))
    await load(client, "a")
    await load(client, "b")
    assert engine.loaded == ("b:latest",), "16.5 GiB are free, but more than 80 % of 20"


# -- keep-alive


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(None, 300), (60, 60), (1.5, 1.5), ("1h30m", 5400), ("90s", 90), ("1m0.5s", 60.5)]
)
async def test_a_loaded_model_expires_after_its_keep_alive(start, keep_alive, seconds):
    _, client = await start(plain("a", 1))
    await load(client, "a", keep_alive=keep_alive)
    expires_at = datetime.fromisoformat((await rows(client))["a:latest"]["expires_at"][:19] + "+00:00")
    assert abs((expires_at - datetime.now(UTC)).total_seconds() - seconds) < 5


@pytest.mark.parametrize("keep_alive", [-1, "-1m", "-1ns"])
async def test_a_negative_keep_alive_is_forever(start, keep_alive):
    _, client = await start(plain("a", 1))
    await load(client, "a", keep_alive=keep_alive)
    assert int((await rows(client))["a:latest"]["expires_at"][:4]) > 2200


async def test_an_idle_model_goes_when_its_keep_alive_has_passed(start):
    engine, client = await start(plain("a", 1), keep_alive_s=2)
    await client.post("/api/chat", json=ask("a"))
    await gone(engine, "a")
    assert engine.stats.unloads == 1


async def test_keep_alive_0_with_a_prompt_unloads_after_the_answer(start):
    engine, client = await start(plain("a", 1))
    body = (await client.post("/api/chat", json=ask("a", keep_alive=0))).json()
    assert body["done_reason"] == "stop"
    await gone(engine, "a")


async def test_a_request_without_keep_alive_leaves_the_runners_own(start):
    _, client = await start(plain("a", 1))
    await load(client, "a", keep_alive=-1)
    await client.post("/api/chat", json=ask("a"))
    assert int((await rows(client))["a:latest"]["expires_at"][:4]) > 2200
    await client.post("/api/chat", json=ask("a", keep_alive=60))
    assert int((await rows(client))["a:latest"]["expires_at"][:4]) < 2200


async def test_rows_are_sorted_by_what_remains(start):
    _, client = await start(plain("a", 1), plain("b", 1), plain("c", 1))
    for name, keep_alive in (("a", 60), ("b", -1), ("c", 600)):
        await load(client, name, keep_alive=keep_alive)
    assert list(await rows(client)) == ["b:latest", "c:latest", "a:latest"]


# -- memory


async def test_size_counts_weights_cache_and_buffers(start):
    model = SimulatedModel("a", 4 * GIB, load_s=1)
    _, client = await start(model, num_parallel=2)
    await load(client, "a", options={"num_ctx": 4096})
    row = (await rows(client))["a:latest"]
    assert row["size"] == row["size_vram"] == 4 * GIB + 4096 * 2 * 131072 + model.overhead_bytes
    assert row["context_length"] == 4096


@pytest.mark.parametrize(("gpu_gib", "num_ctx"), [(12, 4096), (24, 32768), (80, 262144)])
async def test_the_default_context_depends_on_the_gpu(start, gpu_gib, num_ctx):
    _, client = await start(plain("a", 1, context_length=10**6), gpu_bytes=gpu_gib * GIB)
    await load(client, "a")
    assert (await rows(client))["a:latest"]["context_length"] == num_ctx


async def test_a_lone_model_that_is_too_large_is_loaded_in_part(start):
    engine, client = await start(plain("a", 40, num_layers=40))
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200
    row = (await rows(client))["a:latest"]
    assert row["size"] == 40 * GIB
    assert row["size_vram"] == 23 * GIB, "whole layers, and a reserve stays free"
    assert engine.gpu.used_bytes == 23 * GIB


async def test_num_gpu_0_takes_no_gpu_memory(start):
    engine, client = await start(plain("a", 4))
    await load(client, "a", options={"num_gpu": 0})
    assert (await rows(client))["a:latest"]["size_vram"] == 0
    assert engine.memory() == (24 * GIB, 24 * GIB)


async def test_memory_stolen_by_another_process_forces_an_eviction(start):
    engine, client = await start(plain("a", 4), plain("b", 8))
    await load(client, "a")
    engine.faults.stolen_vram_bytes = 12 * GIB
    assert engine.memory() == (24 * GIB, 8 * GIB)
    await load(client, "b")
    assert engine.loaded == ("b:latest",)


async def test_memory_stolen_between_check_and_load_fails_the_load(start):
    engine, client = await start(plain("a", 16))
    engine.faults.set(Fault(load_stall=True))
    loading = post(client, ask("a"))
    await engine.wait_for(lambda e: e.loading is not None)
    engine.faults.stolen_vram_bytes = 20 * GIB
    engine.faults.clear()
    response = await loading
    assert response.status_code == 500
    assert "out of memory" in response.json()["error"]
    assert engine.loaded == ()
    assert engine.stats.load_failures == 1
    await engine.wait_for(lambda e: e.gpu.used_bytes == 0)


async def test_a_load_out_of_memory_evicts_all_others_and_is_tried_once_more(start):
    engine, client = await start(plain("a", 4), plain("b", 4), plain("c", 4))
    await load(client, "a")
    await load(client, "b")
    engine.faults.set(Fault(load_stall=True), model="c")
    loading = post(client, ask("c"))
    await engine.wait_for(lambda e: e.loading is not None)
    engine.faults.stolen_vram_bytes = 14 * GIB
    engine.faults.clear()
    assert (await loading).status_code == 200
    assert engine.loaded == ("c:latest",)
    assert engine.stats.load_failures == 1


# -- a client that leaves


async def test_leaving_while_loading_aborts_the_load(start):
    engine, client = await start(plain("a", 8))
    engine.faults.set(Fault(load_stall=True))
    loading = post(client, ask("a"))
    await engine.wait_for(lambda e: e.loading is not None)
    await abandon(loading)
    await engine.wait_for(lambda e: e.stats.aborted_loads == 1)
    assert (engine.loading, engine.loaded, engine.stats.loads) == (None, (), 0)
    assert engine.log[-1].outcome == "aborted"
    engine.faults.clear()
    await engine.wait_for(lambda e: e.gpu.used_bytes == 0)
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200


async def test_leaving_while_loading_lets_the_next_one_load_again(start):
    engine, client = await start(plain("a", 8))
    engine.faults.once(Fault(load_stall=True))
    loading = post(client, ask("a"))
    await engine.wait_for(lambda e: e.loading is not None)
    second = post(client, ask("a"))
    await engine.wait_for(lambda e: e.pending == 1)
    await abandon(loading)
    assert (await second).status_code == 200
    assert (engine.stats.loads_started, engine.stats.loads) == (2, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_generating_stops_at_the_next_token(start, stream):
    engine, client = await start(plain("a", 4, answer_tokens=100_000, tokens_per_s=1000))
    talking = post(client, ask("a", stream=stream))
    await engine.wait_for(lambda e: e.stats.tokens_generated > 5)
    await abandon(talking)
    await engine.wait_for(lambda e: e.stats.aborted_generations == 1)
    assert engine.stats.active_generations == 0
    assert engine.stats.generations == 0
    assert engine.stats.tokens_generated == engine.log[-1].tokens < 100_000
    assert engine.loaded == ("a:latest",)


async def test_leaving_while_queued_never_causes_a_load(start):
    engine, client = await start(plain("a", 16), plain("b", 16), plain("c", 16))
    busy = await occupy(engine, client, "a")
    head = post(client, ask("b"))
    await engine.wait_for(lambda e: e.scheduler.head is not None)
    queued = post(client, ask("c"))
    await engine.wait_for(lambda e: e.pending == 1)
    await abandon(queued)
    await engine.wait_for(lambda e: e.pending == 0)
    await abandon(head)
    await engine.wait_for(lambda e: e.scheduler.head.gone)
    engine.faults.clear()
    assert (await busy).status_code == 200
    await engine.wait_for(lambda e: e.stats.unloads == 1)
    assert engine.stats.loads_started == 1
    assert (await client.post("/api/chat", json=ask("c"))).status_code == 200


async def test_leaving_while_waiting_for_a_slot_gives_up_the_place(start):
    engine, client = await start(plain("a", 4))
    busy = await occupy(engine, client, "a")
    waiting = post(client, ask("a"))
    await engine.wait_for(lambda e: e.waiting_for_slot == 1)
    await abandon(waiting)
    await engine.wait_for(lambda e: e.waiting_for_slot == 0)
    engine.faults.clear()
    assert (await busy).status_code == 200
    assert engine.stats.generations == 1


async def test_an_eviction_waits_five_seconds_for_the_memory_and_no_longer(start):
    engine, client = await start(plain("a", 16), plain("b", 16), vram_release_s=(20.0, 20.0))
    await load(client, "a")
    await load(client, "b")
    row = (await rows(client))["b:latest"]
    assert row["size_vram"] < row["size"]
    await engine.wait_for(lambda e: e.gpu.used_bytes == row["size_vram"])


@pytest.mark.parametrize(("num_batch", "evicts"), [(512, False), (1024, True), (2048, True)])
async def test_a_large_batch_counts_in_the_fit(start, num_batch, evicts):
    engine, client = await start(plain("a", 4), plain("b", 15.5))
    await load(client, "a")
    await load(client, "b", options={"num_batch": num_batch})
    assert ("a:latest" not in engine.loaded) == evicts
