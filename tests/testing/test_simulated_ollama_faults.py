"""Faults of the simulated Ollama: each goes wrong in its own way, where and for whom it is set."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from smartrouter_asgi.testing.ollama import OOM_ON_LOAD, RUNNER_STOPPED, SERVER_BUSY, Fault, SimulatedOllama

from .simulated_engine import ask, lines, plain

STREAM = {"stream": True}


@pytest.fixture
async def running(start):
    return await start(plain("a", 2), plain("b", 2))


async def test_a_load_fails_with_its_text_and_the_next_one_may_succeed(running):
    engine, client = running
    engine.faults.once(Fault(load_error=OOM_ON_LOAD))
    failed = await client.post("/api/chat", json=ask("a", **STREAM))
    assert (failed.status_code, failed.json()) == (500, {"error": OOM_ON_LOAD})
    assert failed.headers["content-type"].startswith("application/json")
    assert engine.loaded == ()
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200


async def test_a_load_without_memory_costs_the_others_their_place(running):
    engine, client = running
    await client.post("/api/chat", json=ask("b"))
    engine.faults.set(Fault(load_error=OOM_ON_LOAD), model="a")
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 500
    assert engine.loaded == ()
    assert engine.stats.load_failures == 2, "it is tried once more after all others are gone"


async def test_a_load_that_makes_no_progress_ends_after_five_engine_minutes(start):
    engine, client = await start(plain("a", 2), time_scale=0.0005)
    engine.faults.set(Fault(load_stall=True))
    response = await client.post("/api/chat", json=ask("a"))
    assert response.status_code == 500
    assert response.json()["error"].startswith("timed out waiting for llama-server to start")


async def test_a_crash_amid_a_stream_is_an_error_line_under_200_without_done(running):
    engine, client = running
    engine.faults.set(Fault(crash="error", after_tokens=3))
    response = await client.post("/api/chat", json=ask("a", **STREAM))
    *tokens, last = lines(response.text)
    assert response.status_code == 200
    assert len(tokens) == 3
    assert not any(event["done"] for event in tokens)
    assert last == {"error": RUNNER_STOPPED}
    assert engine.stats.aborted_generations == 1


@pytest.mark.parametrize(("fields", "after_tokens"), [({"stream": True}, 0), ({}, 3)])
async def test_a_crash_before_anything_is_sent_has_its_real_status(running, fields, after_tokens):
    engine, client = running
    engine.faults.set(Fault(crash="error", after_tokens=after_tokens))
    response = await client.post("/api/chat", json=ask("a", **fields))
    assert (response.status_code, response.json()) == (500, {"error": RUNNER_STOPPED})


@pytest.mark.parametrize("after_tokens", [0, 2])
async def test_a_stream_may_end_cleanly_without_done(running, after_tokens):
    engine, client = running
    engine.faults.set(Fault(crash="eof", after_tokens=after_tokens))
    response = await client.post("/api/chat", json=ask("a", **STREAM))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [event["done"] for event in lines(response.text)] == [False] * after_tokens
    whole = (await client.post("/api/chat", json=ask("a"))).json()
    assert whole["done"] is False
    assert "done_reason" not in whole


@pytest.mark.parametrize(
    ("crash", "after_tokens", "error"),
    [
        ("close", 0, httpx.RemoteProtocolError),
        ("close", 3, httpx.RemoteProtocolError),
        ("reset", 0, httpx.ReadError),
        ("reset", 3, httpx.ReadError),
    ],
)
async def test_a_connection_may_break_before_and_amid_an_answer(running, crash, after_tokens, error):
    engine, client = running
    engine.faults.set(Fault(crash=crash, after_tokens=after_tokens))
    seen = []

    async def read() -> None:
        async with client.stream("POST", "/api/chat", json=ask("a", **STREAM)) as response:
            async for line in response.aiter_lines():
                seen.append(json.loads(line))

    with pytest.raises(error):
        await read()
    assert len(seen) == after_tokens
    await engine.wait_for(lambda e: e.log[-1].outcome == "dropped")


async def test_a_crash_may_take_the_runner_along(running):
    engine, client = running
    engine.faults.once(Fault(crash="error", kills_runner=True))
    await client.post("/api/chat", json=ask("a"))
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200
    assert engine.stats.loads == 2


async def test_running_out_of_memory_while_answering_unloads_every_model(running):
    engine, client = running
    await client.post("/api/chat", json=ask("b"))
    engine.faults.once(Fault(crash="error", after_tokens=1, crash_message="CUDA error: out of memory"), model="a")
    await client.post("/api/chat", json=ask("a"))
    assert engine.loaded == ()


async def test_a_stall_before_the_headers_comes_before_any_load(running):
    engine, client = running
    engine.faults.set(Fault(stall="headers"))
    waiting = asyncio.create_task(client.post("/api/chat", json=ask("a")))
    await engine.wait_for(lambda e: e.stats.requests == 1)
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/api/chat", json=ask("a"), timeout=0.05)
    assert engine.stats.loads_started == 0
    engine.faults.clear()
    assert (await waiting).status_code == 200


async def test_a_stall_before_the_first_token_has_sent_the_headers(running):
    engine, client = running
    engine.faults.set(Fault(stall="first_token"))
    async with client.stream("POST", "/api/chat", json=ask("a", **STREAM)) as response:
        assert response.status_code == 200
        assert engine.stats.tokens_generated == 0
        engine.faults.clear()
        assert [json.loads(line) async for line in response.aiter_lines()][-1]["done"] is True


async def test_a_stall_amid_a_stream_has_sent_so_many_tokens(running):
    engine, client = running
    engine.faults.set(Fault(stall="mid_stream", after_tokens=4))
    async with client.stream("POST", "/api/chat", json=ask("a", **STREAM)) as response:
        events = response.aiter_lines()
        for _ in range(4):
            assert json.loads(await anext(events))["done"] is False
        assert engine.stats.tokens_generated == 4
        engine.faults.clear()
        assert [json.loads(line) async for line in events][-1]["done"] is True


async def test_a_slow_first_token_and_slow_tokens_take_engine_time(running):
    engine, client = running
    await client.post("/api/chat", json=ask("a"))
    engine.faults.set(Fault(first_token_delay_s=3.0, token_delay_s=0.5))
    body = (await client.post("/api/chat", json=ask("a", options={"num_predict": 4}))).json()
    assert body["total_duration"] >= 5e9


async def test_busy_is_503_with_ollamas_text(running):
    engine, client = running
    engine.faults.set(Fault(busy=True))
    for path, body in (("/api/chat", ask("a")), ("/api/embed", {"model": "a", "input": "x"})):
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]) == (503, SERVER_BUSY)


async def test_any_status_body_and_headers_can_be_answered(running):
    engine, client = running
    engine.faults.once(
        Fault(status=429, body={"error": "slow down"}, headers=(("retry-after", "7"),)),
        Fault(status=502, body="<html>", content_type="text/html"),
    )
    first = await client.post("/api/chat", json=ask("a"))
    assert (first.status_code, first.json(), first.headers["retry-after"]) == (429, {"error": "slow down"}, "7")
    second = await client.post("/api/generate", json={"model": "a", "prompt": "x"})
    assert (second.status_code, second.text, second.headers["content-type"]) == (502, "<html>", "text/html")
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200


async def test_a_fault_for_a_model_beats_one_for_all(running):
    engine, client = running
    engine.faults.set(Fault(status=500))
    engine.faults.set(Fault(), model="b")
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 500
    assert (await client.post("/api/chat", json=ask("b"))).status_code == 200
    engine.faults.clear()
    assert (await client.post("/api/chat", json=ask("a"))).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/ps", "/api/tags", "/api/version"])
async def test_endpoints_that_only_tell_fail_when_their_path_is_named(running, path):
    engine, client = running
    engine.faults.set(Fault(busy=True))
    assert (await client.get(path)).status_code == 200
    engine.faults.set(Fault(status=500), path=path)
    assert (await client.get(path)).status_code == 500
    engine.faults.set(Fault(crash="error"), path=path)
    assert (await client.get(path)).json() == {"error": RUNNER_STOPPED}
    engine.faults.set(Fault(crash="reset"), path=path)
    with pytest.raises(httpx.ReadError):
        await client.get(path)


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_a_stream_may_be_split_anywhere_even_amid_a_character(running, size):
    engine, client = running
    engine.faults.set(Fault(split_bytes=size))
    text = "日本語日本語日本語日本語 🙂 ü"  # a run so long that no cut of seven bytes spares it
    async with client.stream("POST", "/api/chat", json=ask("a", text, **STREAM)) as response:
        parts = [part async for part in response.aiter_raw()]
    assert max(map(len, parts)) <= size
    broken = 0
    for part in parts:
        try:
            part.decode()
        except UnicodeDecodeError:
            broken += 1
    assert broken > 0
    answer = "".join(event["message"]["content"] for event in lines(b"".join(parts).decode()))
    assert text in answer


async def test_an_engine_that_went_down_refuses_connections_and_comes_back_on_its_port(running):
    engine, client = running
    await client.post("/api/chat", json=ask("a"))
    url = engine.base_url
    await engine.refuse_connections()
    with pytest.raises(httpx.ConnectError):
        await client.get("/api/version")
    assert engine.stats.open_connections == 0
    await engine.accept_connections()
    assert engine.base_url == url
    assert (await client.get("/api/version")).status_code == 200
    assert engine.loaded == ("a:latest",)


async def test_going_down_breaks_what_is_running(running):
    engine, client = running
    engine.faults.set(Fault(stall="mid_stream", after_tokens=1))
    talking = asyncio.create_task(client.post("/api/chat", json=ask("a", **STREAM)))
    await engine.wait_for(lambda e: e.stats.tokens_generated == 1)
    await engine.refuse_connections()
    with pytest.raises(httpx.RemoteProtocolError):
        await talking
    assert engine.stats.aborted_generations == 1


async def test_waiting_for_what_never_comes_times_out_and_a_broken_condition_raises(running):
    engine, client = running
    with pytest.raises(TimeoutError):
        await engine.wait_for(lambda e: False, timeout_s=0.01)
    waiting = asyncio.create_task(engine.wait_for(lambda e: 1 // (1 - e.stats.requests) > 1))
    await asyncio.sleep(0)
    await client.get("/")
    with pytest.raises(ZeroDivisionError):
        await waiting


def test_a_thread_can_run_the_engine_for_callers_without_a_loop():
    engine = SimulatedOllama([plain("a", 2)], time_scale=0.01)
    with engine.run_in_thread() as running, httpx.Client(base_url=running.base_url) as client:
        assert client.post("/api/chat", json=ask("a")).json()["done"] is True
        running.wait(lambda e: e.stats.generations == 1)
        running.call(running.refuse_connections())
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.base_url)


async def test_embeddings_meet_the_faults_too(running):
    engine, client = running
    body = {"model": "a", "input": "x"}
    engine.faults.once(Fault(crash="error", after_tokens=9), Fault(crash="close"), Fault(status=418, body="tea"))
    assert (await client.post("/api/embed", json=body)).json() == {"error": RUNNER_STOPPED}
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/api/embed", json=body)
    assert (await client.post("/api/embed", json=body)).status_code == 418
    assert engine.stats.aborted_generations == 2
