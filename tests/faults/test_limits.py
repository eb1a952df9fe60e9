"""Limits on parallel requests, and the clocks that run while somebody waits."""

from __future__ import annotations

import asyncio
import json
import math
import time

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.resilience.concurrency import ConcurrencyLimits

from ..harness.engines import chunk, good
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve
from ..harness.sockets import raw_request
from ..harness.waiting import until

BOUND_S = 0.5  # five times the aim: what a client leaves behind is gone within 100 ms


class Counting:
    """An engine that takes its time and counts how many requests it serves at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0
        self.most = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.seconds)
            await good(exchange)
        finally:
            self.now -= 1


def limited(*deployments: dict, url: str, backend: dict | None = None, **resilience: object) -> SmartRouter:
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"b": {"type": "openai", "url": f"{url}/v1", **(backend or {})}},
                "models": [
                    {"name": name, "deployments": [{"backend": "b", "model": name, **deployment}]}
                    for name, deployment in zip("xyz", deployments, strict=False)
                ],
                "discovery": {"enabled": False},
                "resilience": resilience,
            }
        )
    )


async def test_both_limits_hold():
    """A deployment's own limit and its backend's: three models with a slot each share the backend's one."""
    script = Counting(0.05)
    async with RawServer(script) as engine:
        one = {"max_parallel": 1}
        router = limited(one, one, one, url=engine.base_url, backend={"max_parallel": 1})
        async with serve(router) as url, httpx.AsyncClient() as client:
            posts = [client.post(f"{url}/v1/chat/completions", json=chat("xyz"[n % 3])) for n in range(9)]
            assert {r.status_code for r in await asyncio.gather(*posts)} == {200}
    assert script.most == 1


async def test_the_deadline_runs_while_a_request_waits_for_its_turn():
    """The client's patience ends in time, and nobody's breaker learns of it."""
    script = Counting(1.5)
    async with RawServer(script) as engine:
        router = limited({"max_parallel": 1}, url=engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            first = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=chat("x")))
            await engine.seen(1)
            started = time.monotonic()
            second = await client.post(
                f"{url}/v1/chat/completions", json=chat("x"), headers={"x-stainless-read-timeout": "0.2"}
            )
            waited = time.monotonic() - started
            assert (await first).status_code == 200
    assert (second.status_code, second.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert waited < 1.2
    assert len(engine.exchanges) == 1


async def test_waiting_for_a_turn_opens_no_breaker():
    """The engine was busy, not broken."""
    script = Counting(2.0)
    async with RawServer(script) as engine:
        router = limited({"max_parallel": 1}, url=engine.base_url, timeouts={"total": "600ms"})
        async with serve(router) as url, httpx.AsyncClient() as client:
            posts = [client.post(f"{url}/v1/chat/completions", json=chat("x")) for _ in range(8)]
            answers = await asyncio.gather(*posts)
    assert {r.json()["error"]["code"] for r in answers} == {"deadline_exceeded"}
    assert {state for _, _, state in router.breakers.states()} == {"closed"}


@pytest.fixture
def short_line(monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimits:
    """The limits of the routers made from here on: one at a time at backend `b`, one in line."""
    limits = ConcurrencyLimits({"b": 1}, max_queue=1)
    monkeypatch.setattr("smartrouter_asgi.policies.concurrency_limits", lambda settings: limits)
    return limits


async def depth(limits: ConcurrencyLimits, count: int) -> None:
    """Wait until so many stand in line."""
    await until(lambda: limits.depths()["b"] == count)


@pytest.mark.parametrize("service_s", [0.15, 1.2])
async def test_a_full_queue_answers_503_and_says_when_by_the_service_time_it_has_seen(
    short_line: ConcurrencyLimits, service_s: float
):
    """One is being served and one waits: a third would wait for two turns."""
    release = asyncio.Event()

    async def engine_of_known_pace(exchange: Exchange) -> None:
        if exchange is engine.exchanges[0]:
            await asyncio.sleep(service_s)
        else:
            await release.wait()
        await good(exchange)

    async with RawServer(engine_of_known_pace) as engine:
        router = limited({}, url=engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:

            def post() -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=chat("x")))

            assert (await post()).status_code == 200
            served = post()
            await engine.seen(2)
            waits = post()
            await depth(short_line, 1)
            refused = await post()
            release.set()
            assert {(await served).status_code, (await waits).status_code} == {200}
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    wait_s = int(refused.headers["retry-after-ms"]) / 1000
    assert 2 * service_s <= wait_s < 5 * 2 * service_s
    assert int(refused.headers["retry-after"]) == math.ceil(wait_s)
    assert len(engine.exchanges) == 3, "who was refused never reached the engine"


async def test_row_43_a_client_that_leaves_the_queue_frees_its_place_at_once(short_line: ConcurrencyLimits):
    """The next one gets the place, and the engine never hears of the one that left."""
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await good(exchange)

    async with RawServer(held) as engine:
        router = limited({}, url=engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:

            def post(who: str) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=chat("x", user=who)))

            first = post("first")
            await engine.seen(1)
            leaves = post("leaves")
            await depth(short_line, 1)
            assert (await post("refused")).status_code == 503
            leaves.cancel()
            left_at = time.monotonic()
            await depth(short_line, 0)
            assert time.monotonic() - left_at < BOUND_S
            stays = post("stays")
            await depth(short_line, 1)
            release.set()
            assert {(await first).status_code, (await stays).status_code} == {200}
    assert [json.loads(exchange.body)["user"] for exchange in engine.exchanges] == ["first", "stays"]
    assert {state for _, _, state in router.breakers.states()} == {"closed"}


async def test_an_untried_candidate_is_asked_at_once():
    """Whether the silent one is idle again is only asked when nobody else is left."""

    async def silent(exchange: Exchange) -> None:
        if exchange.path == "/slots":
            await asyncio.sleep(5)
        exchange.reset()

    async with RawServer(silent) as bad, RawServer(good) as other:
        settings = Settings.model_validate(
            {
                "backends": {
                    "a": {"type": "llama.cpp", "url": bad.base_url},
                    "b": {"type": "openai", "url": f"{other.base_url}/v1"},
                },
                "models": [
                    {
                        "name": "chat",
                        "deployments": [{"backend": n, "model": "m", "order": o} for o, n in enumerate("ab", 1)],
                    }
                ],
                "discovery": {"enabled": False},
            }
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.headers["x-smartrouter-backend"] == "b"
    assert "/slots" not in bad.paths


@pytest.mark.parametrize("clock", ["client_stall", "total"])
async def test_row_46_a_reader_that_stalls_is_cut_off(clock: str):
    """It holds an engine: after `client_stall`, or at the deadline, it holds it no longer.

    Meanwhile the engine gets rid of no more than the sockets on the way take, and its breaker hears of nothing.
    """
    closed, sent_bytes = asyncio.Event(), 0

    async def firehose(exchange: Exchange) -> None:
        nonlocal sent_bytes
        await exchange.start_stream()
        event = chunk("x" * 4000) * 8
        try:
            while not exchange.writer.is_closing():
                await exchange.chunk(event)
                sent_bytes += len(event)
        except ConnectionError:
            pass
        closed.set()

    async with RawServer(firehose) as engine:
        router = router_over(engine.base_url, resilience={"timeouts": {clock: "500ms"}})
        async with serve(router) as url, leaves_nothing(router, engine):
            started = time.monotonic()
            async with raw_request(url, chat(stream=True)):
                await asyncio.wait_for(closed.wait(), 10)
                assert time.monotonic() - started >= 0.4
    assert sent_bytes < 32_000_000
    assert {state for _, _, state in router.breakers.states()} == {"closed"}
