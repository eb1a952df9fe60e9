"""A drain while requests run: the short ones finish, the others have exactly one end each, and nobody new comes in."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from smartrouter_asgi import Settings, SmartRouter, install
from smartrouter_asgi.events import Event, RequestFinished, StreamFinished
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.testing.asgi import http_scope
from smartrouter_asgi.testing.backend import ScriptedBackend
from smartrouter_asgi.testing.ollama import GIB, SimulatedModel, SimulatedOllama
from smartrouter_asgi.types import Message

from ..harness.engines import ROLE, STREAM, chunk, good
from ..harness.gateways import Gateway, gateway_over
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer, serve
from ..harness.sockets import connected
from ..harness.waiting import until

SOON = {"timeout": "300ms"}
BOUND_S = 10.0


class Engine:
    """Does what the request's `user` says; a short answer ends once `finish` is set."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        wanted = json.loads(exchange.body or b"{}").get("user")
        if wanted == "long":
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
            await exchange.gone()
        elif wanted == "short":
            await exchange.start_stream()
            await exchange.chunk(ROLE + chunk("Hel"))
            await self.finish.wait()
            for event in STREAM[2:]:
                await exchange.chunk(event)
            await exchange.end_stream()
        elif wanted == "mute":
            await exchange.start_stream()
            await exchange.chunk(ROLE)
            await exchange.gone()
        elif wanted == "silent":
            await exchange.gone()
        elif wanted == "busy":
            await exchange.answer(503, b"{}")
        else:
            await good(exchange)


def events_of(body: bytes) -> list[Any]:
    """What the events of a stream hold; `[DONE]` as it is."""
    data = [event.removeprefix("data: ") for event in body.decode().strip().split("\n\n")]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


def ended_by_the_drain(body: bytes) -> bool:
    """The answer as far as it came, one error, no `[DONE]`."""
    *answer, last = events_of(body)
    errors = [event for event in answer if event == "[DONE]" or "error" in event]
    return bool(answer) and not errors and last["error"]["code"] == "gateway_draining"


class Stream:
    """A client that has had the beginning of its stream."""

    def __init__(self, gateway: Gateway, user: str) -> None:
        self.began = asyncio.Event()
        self.task = asyncio.create_task(self._read(gateway, user))

    async def _read(self, gateway: Gateway, user: str) -> bytes:
        body = b""
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.stream("POST", url, json=chat(stream=True, user=user)) as response:
            assert response.status_code == 200
            async for data in response.aiter_raw():
                body += data
                if b"Hel" in body:
                    self.began.set()
        return body


async def streams(gateway: Gateway, *users: str) -> list[asyncio.Task[bytes]]:
    """Begin streams, and return once all have begun."""
    begun = [Stream(gateway, user) for user in users]
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*(stream.began.wait() for stream in begun))
    return [stream.task for stream in begun]


async def running(router: SmartRouter, count: int) -> None:
    await until(lambda: router.running == count)


def refused(response: httpx.Response) -> bool:
    return (
        response.status_code == 503
        and response.json()["error"]["code"] == "gateway_draining"
        and int(response.headers["retry-after"]) >= 1
        and response.headers["connection"] == "close"
        and "x-should-retry" not in response.headers
    )


async def test_row_59_short_streams_finish_long_ones_are_told_and_nobody_new_comes_in():
    """By `/admin/drain`: the same router answers all the while."""
    script = Engine()
    async with (
        RawServer(script) as engine,
        gateway_over(engine, resilience={"drain": {"timeout": "2s"}}, serves_on=False) as gateway,
    ):
        tasks = await streams(gateway, *["short", "long"] * 10)
        told = await gateway.client.post(f"{gateway.url}/admin/drain")
        assert told.json() == {"draining": True, "running": 20}
        ready = await gateway.client.get(f"{gateway.url}/readyz")
        health = await gateway.client.get(f"{gateway.url}/health")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert (health.status_code, health.json()["status"]) == (200, "draining")
        assert refused(await gateway.ask())
        assert refused(await gateway.ask(stream=True))
        assert gateway.router.running == 20
        script.finish.set()
        bodies = await asyncio.wait_for(asyncio.gather(*tasks), BOUND_S)
        assert all(body == b"".join(STREAM) for body in bodies[::2])
        assert all(ended_by_the_drain(body) for body in bodies[1::2])
        assert gateway.router.running == 0
        assert gateway.breaker("b1", "stream") == "closed"
        assert gateway.breaker("b1", "chat") == "closed"


@pytest.mark.parametrize(
    ("fields", "settings", "asked"),
    [
        ({"user": "mute", "stream": True}, {}, 1),
        ({"user": "silent", "stream": True}, {}, 1),
        ({"user": "silent"}, {}, 1),
        ({"user": "busy"}, {"retry": {"base_delay": "60s", "max_delay": "60s"}}, 1),
    ],
    ids=["first token", "headers", "plain answer", "between two attempts"],
)
async def test_a_request_that_waits_is_refused_when_the_limit_passes(
    fields: dict[str, Any], settings: dict[str, Any], asked: int
):
    """Wherever it waits. No engine is blamed, nothing is left behind."""
    breaker = {"failure_threshold": 2}
    async with (
        RawServer(Engine()) as engine,
        gateway_over(
            engine, resilience={"drain": SOON, "circuit_breaker": breaker, **settings}, serves_on=False
        ) as gateway,
    ):
        waiting = asyncio.create_task(gateway.ask(**fields))
        await engine.seen(asked)
        await gateway.client.post(f"{gateway.url}/admin/drain")
        assert refused(await asyncio.wait_for(waiting, BOUND_S))
        assert len(engine.exchanges) == asked
        assert gateway.breaker("b1") == gateway.breaker("b1", "stream") == "closed"


async def test_no_other_engine_is_asked_after_the_limit():
    async with (
        RawServer(Engine()) as first,
        RawServer(good) as second,
        gateway_over(first, second, resilience={"drain": SOON}, serves_on=False) as gateway,
    ):
        waiting = asyncio.create_task(gateway.ask(user="mute", stream=True))
        await first.seen(1)
        gateway.router.drain()
        assert refused(await asyncio.wait_for(waiting, BOUND_S))
        assert second.exchanges == []


@pytest.mark.parametrize("user", ["long", "mute"])
async def test_two_attempts_side_by_side_have_one_end(user: str):
    """Whether the hedge has begun to answer, or neither has."""
    usual = {"enabled": True, "min_samples": 3, "min_delay": "20ms"}

    async def good_at_first(exchange: Exchange) -> None:
        if len(first.exchanges) <= 3:
            await good(exchange)
        else:
            await exchange.gone()

    async with (
        RawServer(good_at_first) as first,
        RawServer(Engine()) as second,
        gateway_over(first, second, resilience={"drain": SOON, "hedge": usual}, serves_on=False) as gateway,
    ):
        for _ in range(3):
            assert (await gateway.ask(stream=True)).status_code == 200
        asking = asyncio.create_task(gateway.ask(stream=True, user=user))
        await second.seen(1)
        gateway.router.drain()
        response = await asyncio.wait_for(asking, BOUND_S)
        assert ended_by_the_drain(response.content) if user == "long" else refused(response)


async def test_who_waits_for_a_slot_is_refused_when_the_limit_passes():
    async with RawServer(Engine()) as engine:
        settings = {
            "backends": {"b": {"type": "openai", "url": f"{engine.base_url}/v1", "max_parallel": 1}},
            "models": [{"name": "chat", "deployments": [{"backend": "b", "model": "m"}]}],
            "discovery": {"enabled": False},
            "resilience": {"drain": SOON},
        }
        router = SmartRouter(Settings.model_validate(settings))
        async with serve(router) as url, leaves_nothing(router, engine), httpx.AsyncClient(timeout=30) as client:
            gateway = Gateway(router, client, url)
            (holder,) = await streams(gateway, "long")
            waiting = asyncio.create_task(gateway.ask())
            await running(router, 2)
            router.drain()
            assert refused(await asyncio.wait_for(waiting, BOUND_S))
            assert ended_by_the_drain(await asyncio.wait_for(holder, BOUND_S))
            assert len(engine.exchanges) == 1


async def test_who_is_still_sending_its_request_is_refused_when_the_limit_passes():
    async with RawServer(good) as engine, gateway_over(engine, resilience={"drain": SOON}, serves_on=False) as gateway:
        async with connected(gateway.url) as (reader, writer):
            writer.write(b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"model"')
            await running(gateway.router, 1)
            gateway.router.drain()
            answer = await asyncio.wait_for(reader.read(), BOUND_S)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.count(b'"code":"gateway_draining"') == 1
        assert engine.exchanges == []


@asynccontextmanager
async def gated(*, drain: dict[str, Any]) -> AsyncIterator[tuple[SimulatedOllama, Gateway]]:
    """A GPU with room for one of two models, and engines that answer for long."""
    models = [
        SimulatedModel(name, 14 * GIB, kv_bytes=0, overhead_bytes=0, load_s=0.2, tokens_per_s=20.0, answer_tokens=2000)
        for name in "ab"
    ]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB) as engine:
        settings = {
            "backends": {"local": {"type": "ollama", "url": engine.base_url}},
            "models": [
                {"name": m.name, "deployments": [{"backend": "local", "model": m.name, "vram": m.size_bytes}]}
                for m in models
            ],
            "resilience": {"drain": drain},
            "vram": {"max_total": "20GiB", "release_grace": "400ms"},
        }
        router = SmartRouter(Settings.model_validate(settings))
        async with serve(router) as url, leaves_nothing(router), httpx.AsyncClient(timeout=30) as client:
            yield engine, Gateway(router, client, url)


async def test_who_waits_for_memory_is_refused_and_the_lease_of_a_stream_that_was_ended_drains():
    """The engine may not have stopped yet, so its memory is not free yet."""
    async with gated(drain=SOON) as (engine, gateway):
        gate = gateway.router.gate
        assert gate is not None
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.stream("POST", url, json=chat("a", stream=True)) as response:
            chunks = response.aiter_raw()
            body = await anext(chunks)
            waiting = asyncio.create_task(gateway.client.post(url, json=chat("b")))
            await until(gate.queue_depths)
            gateway.router.drain()
            body += b"".join([data async for data in chunks])
            assert any(resident.draining for resident in gate.snapshot().residents)
        assert ended_by_the_drain(body)
        assert refused(await asyncio.wait_for(waiting, BOUND_S))
        assert engine.stats.loads == 1


class Observed:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


def scripted(answer: list[Any]) -> tuple[SmartRouter, ScriptedBackend, Observed]:
    backend, observed = ScriptedBackend("mine", models=["chat"], answers=[answer]), Observed()
    return SmartRouter(Settings(), backends={"mine": backend}, observers=(observed,)), backend, observed


async def test_a_plain_answer_that_is_being_sent_is_whole():
    """However slowly it is taken."""
    router, _, _ = scripted(["Hello"])
    taken, sent = asyncio.Event(), list[Message]()
    body = {"type": "http.request", "body": json.dumps(chat()).encode(), "more_body": False}
    messages = iter([body])

    async def receive() -> Message:
        for message in messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        await taken.wait()

    task = asyncio.create_task(router(http_scope("POST", "/v1/chat/completions"), receive, send))
    async with asyncio.timeout(BOUND_S):
        while not sent:
            await asyncio.sleep(0.002)
        router.drain(0.0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert router.running == 1
        taken.set()
        await task
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert json.loads(sent[1]["body"])["choices"][0]["message"]["content"] == "Hello"
    await router.aclose()


async def test_observers_hear_how_it_ended_and_breakers_do_not(monkeypatch: pytest.MonkeyPatch):
    """It is our doing: neither a failure of the engine nor a success."""
    told: list[bool] = []
    monkeypatch.setattr(Attempt, "stream_ended", lambda self, *, failed: told.append(failed))
    router, _, observed = scripted(["Hel", asyncio.Event()])
    async with serve(router) as url, httpx.AsyncClient(timeout=30) as client:
        (task,) = await streams(Gateway(router, client, url), "any")
        router.drain(0.0)
        assert ended_by_the_drain(await asyncio.wait_for(task, BOUND_S))
    assert told == []
    assert [e.outcome for e in observed.events if isinstance(e, StreamFinished)] == ["gateway_draining"]
    assert [e.outcome for e in observed.events if isinstance(e, RequestFinished) and e.endpoint == "chat"] == [
        "gateway_draining"
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_comes_in_the_very_moment_of_the_limit_is_not_begun(stream: bool):
    """Cancelled and committed at once, it would be cut without a word."""
    said = asyncio.Event()
    router, backend, _ = scripted([said, "Hel", asyncio.Event()] if stream else [said, "Hello"])
    async with serve(router) as url, httpx.AsyncClient(timeout=30) as client:
        asking = asyncio.create_task(Gateway(router, client, url).ask(stream=stream))
        await backend.called()
        for _ in range(3):
            await asyncio.sleep(0)
        said.set()
        router._drain._end_all()
        router._drain.begin(60.0)
        assert refused(await asyncio.wait_for(asking, BOUND_S))


async def test_row_71_a_stream_goes_on_when_its_model_is_gone_from_the_list():
    """Running requests keep the plan they have; a refresh is what changes under them."""
    finish = asyncio.Event()
    router, backend, _ = scripted(["Hel", finish, "lo"])
    async with serve(router) as url, httpx.AsyncClient(timeout=30) as client:
        gateway = Gateway(router, client, url)
        (task,) = await streams(gateway, "any")
        backend.models = ["another"]
        refresh = await client.post(f"{url}/admin/models/refresh")
        assert refresh.json() == {"models": ["another"]}
        assert (await gateway.ask()).status_code == 404
        finish.set()
        events = events_of(await asyncio.wait_for(task, BOUND_S))
    assert events[-1] == "[DONE]"
    assert not [event for event in events[:-1] if "error" in event]


async def test_a_host_keeps_its_own_signals():
    """Mounted, before, during and after: whatever the host has decided stays."""
    router, _, _ = scripted(["Hello"])
    app = Starlette()
    install(app, "/llm", router)
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    async with serve(app, lifespan="on") as url, httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"{url}/llm/v1/chat/completions", json=chat())
        assert answer.status_code == 200
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
        assert refused_after_drain(router, await drained(client, f"{url}/llm"))
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert not router.draining


async def drained(client: httpx.AsyncClient, url: str) -> httpx.Response:
    await client.post(f"{url}/admin/drain")
    return await client.post(f"{url}/v1/chat/completions", json=chat())


def refused_after_drain(router: SmartRouter, response: httpx.Response) -> bool:
    return router.draining and refused(response)
