"""Row 58: whenever a request is cancelled or left, at every turn of the loop, nothing of it stays behind.

A request lives for 20 to 40 turns, for 70 and more where a model is loaded. Kinds of requests that share most of their
turns with another take every n-th only, each blow beginning at another one; `EVERY_TURN=1` in the environment takes
them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.backends.ollama import OllamaBackend
from smartrouter_asgi.resilience.breaker import CircuitBreaker, Permit
from smartrouter_asgi.testing import drive
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama

from ..harness.engines import STREAM, good
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, in_line, router_over
from ..harness.servers import Exchange, RawServer, Script
from ..harness.stepping import Blow, StruckCall, run_counted

BLOWS = typing.get_args(Blow)


GATED = chat("a", stream=True, max_tokens=3)


async def nothing() -> None:
    """Have nothing to put in order."""


@dataclass(kw_only=True)
class Rig:
    """A router in the situation to test, and what has to happen around the request."""

    router: SmartRouter
    body: dict[str, Any]
    engines: Sequence[RawServer] = ()
    breaker: CircuitBreaker | None = None
    """A half-open one."""
    afterwards: Callable[[], Awaitable[None]] = nothing
    """Looks at the neighbours of the request once it is over."""


Scenario = Callable[[StruckCall], AbstractAsyncContextManager[Rig]]


def answering(call: StruckCall, *failures: int) -> Script:
    """An engine that fails with these statuses and then answers, as long as somebody waits for it.

    From the blow on it says no more and waits for its connection to close, as an engine that generates for nobody.
    """
    left = list(failures)

    async def say(exchange: Exchange, data: bytes) -> None:
        await asyncio.sleep(0)
        if call.struck and not call.complete:
            await exchange.gone()
            raise ConnectionResetError
        await exchange.write(data)

    async def script(exchange: Exchange) -> None:
        if left:
            await say(exchange, b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % left.pop())
        elif not json.loads(exchange.body).get("stream"):
            await say(exchange, b"")
            await good(exchange)
        else:
            await say(exchange, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            await say(exchange, b"transfer-encoding: chunked\r\n\r\n")
            for event in STREAM:
                await say(exchange, b"%x\r\n%b\r\n" % (len(event), event))
            await say(exchange, b"0\r\n\r\n")

    return script


@asynccontextmanager
async def plain(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call)) as engine:
        yield Rig(router=router_over(engine.base_url), body=chat(), engines=[engine])


@asynccontextmanager
async def streamed(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call)) as engine:
        yield Rig(router=router_over(engine.base_url), body=chat(stream=True), engines=[engine])


@asynccontextmanager
async def half_open(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call)) as engine:
        router = router_over(engine.base_url)
        breaker = router.breakers.get("b1", "stream")
        breaker.half_open()
        yield Rig(router=router, body=chat(stream=True), engines=[engine], breaker=breaker)


def limited(url: str) -> SmartRouter:
    """A router over one engine that serves one request at a time."""
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {"b1": {"type": "openai", "url": f"{url}/v1"}},
                "models": [
                    {
                        "name": "chat",
                        "deployments": [{"backend": "b1", "model": "engine-model", "max_parallel": 1}],
                    }
                ],
                "discovery": {"enabled": False},
            }
        )
    )


@asynccontextmanager
async def holds_the_only_slot(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call)) as engine:
        yield Rig(router=limited(engine.base_url), body=chat(stream=True), engines=[engine])


@asynccontextmanager
async def queued(call: StruckCall) -> AsyncIterator[Rig]:
    """Another request holds the slot, and gives it up three turns after this one has queued."""
    script = answering(call)
    release = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await release.wait()
        await good(exchange)

    async with RawServer(held) as engine:
        router = limited(engine.base_url)
        async with drive(router, body=_encode(chat())) as first:
            await engine.seen(1)
            engine.script = script
            waited = 0

            def on_turn() -> None:
                nonlocal waited
                if in_line(router) and not release.is_set():
                    waited += 1
                    asyncio.get_running_loop().call_soon(release.set if waited > 3 else lambda: None)  # turn on

            async def afterwards() -> None:
                assert in_line(router) == 0
                release.set()
                assert (await first.ended()).status == 200

            call.on_turn = on_turn
            yield Rig(router=router, body=chat(), engines=[engine], afterwards=afterwards)


@asynccontextmanager
async def backing_off(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call, 503)) as engine:
        yield Rig(router=router_over(engine.base_url), body=chat(), engines=[engine])


@asynccontextmanager
async def falling_back(call: StruckCall) -> AsyncIterator[Rig]:
    async with RawServer(answering(call, 503)) as bad, RawServer(answering(call)) as engine:
        yield Rig(router=router_over(bad.base_url, engine.base_url), body=chat(stream=True), engines=[bad, engine])


@asynccontextmanager
async def hedged(call: StruckCall) -> AsyncIterator[Rig]:
    """The first engine is late, so the second is asked beside it, and answers."""

    async def late(exchange: Exchange) -> None:
        await exchange.gone()

    async with RawServer(good) as first, RawServer(answering(call)) as second:
        hedge = {"enabled": True, "min_samples": 1, "min_delay": "3ms"}
        router = router_over(first.base_url, second.base_url, resilience={"hedge": hedge})
        assert (await drive(router, body=_encode(chat(stream=True)))).status == 200  # its usual time is known now
        first.script = late
        yield Rig(router=router, body=chat(stream=True), engines=[first, second])


@asynccontextmanager
async def gated(call: StruckCall) -> AsyncIterator[Rig]:
    async with gated_router() as (_, router):
        yield Rig(router=router, body=GATED, afterwards=partial(left_the_gate, router))


@asynccontextmanager
async def evicting(call: StruckCall) -> AsyncIterator[Rig]:
    """Another model has to leave the memory first."""
    async with gated_router() as (engine, router):
        await warm_up(router, "b")
        assert engine.loaded == ("b:latest",)
        yield Rig(router=router, body=GATED, afterwards=partial(left_the_gate, router))


@asynccontextmanager
async def gated_backing_off(call: StruckCall) -> AsyncIterator[Rig]:
    """The model is there, and the lease is kept between two attempts."""
    async with gated_router() as (engine, router):
        await warm_up(router, "a")
        engine.faults.once(Fault(status=500, body={"error": "boom"}))
        yield Rig(router=router, body=GATED, afterwards=partial(left_the_gate, router))


async def warm_up(router: SmartRouter, model: str) -> None:
    assert (await drive(router, body=_encode(chat(model, max_tokens=1)))).status == 200


async def left_the_gate(router: SmartRouter) -> None:
    """Nobody waits any more once the request is over, however long the load still takes."""
    assert router.gate is not None
    assert router.gate.queue_depths() == {}


@asynccontextmanager
async def gated_router() -> AsyncIterator[tuple[SimulatedOllama, SmartRouter]]:
    models = [
        SimulatedModel(name, 14 * GIB, kv_bytes=0, overhead_bytes=0, load_s=3.0, tokens_per_s=50.0) for name in "ab"
    ]
    async with SimulatedOllama(models, gpu_bytes=24 * GIB, time_scale=0.0005) as engine:
        router = SmartRouter(
            Settings.model_validate(
                {
                    "backends": {"b1": {"type": "ollama", "url": engine.base_url}},
                    "models": [
                        {
                            "name": m.name,
                            "deployments": [{"backend": "b1", "model": m.name, "vram": m.size_bytes}],
                        }
                        for m in models
                    ],
                    "discovery": {"enabled": False},
                    "resilience": {"retry": {"base_delay": "10ms", "max_delay": "20ms"}},
                    "vram": {"max_total": "20GiB", "release_grace": "10ms"},
                }
            )
        )
        yield engine, router


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture
def permits(monkeypatch: pytest.MonkeyPatch) -> list[Permit]:
    """Every permit that was given."""
    given: list[Permit] = []
    acquire = CircuitBreaker.acquire

    def noted(breaker: CircuitBreaker) -> Permit:
        given.append(permit := acquire(breaker))
        return permit

    monkeypatch.setattr(CircuitBreaker, "acquire", noted)
    return given


async def strike(scenario: Scenario, blow: Blow, at: int | None, permits: list[Permit]) -> StruckCall:
    """Let one request be struck and see what it leaves behind."""
    call = StruckCall(blow, at)
    async with scenario(call) as rig:
        router = rig.router
        try:
            permits.clear()
            async with leaves_nothing(router, *rig.engines):
                await call.run(router, rig.body)
                await rig.afterwards()
            assert all(permit._settled for permit in permits), f"a permit is lost after {call}"
            if call.complete:
                assert call.status == 200, f"{call.body!r} was sent after {call}"
                assert call.body.endswith(b"data: [DONE]\n\n" if rig.body.get("stream") else b"}"), call.body
            if rig.breaker is not None:
                assert not rig.breaker._circuit._probes, f"a probe's slot is lost after {call}"
                assert rig.breaker.state_name in ("half-open", "closed")
            for engine in rig.engines:
                engine.script = good
            fresh = await drive(router, body=_encode(rig.body))
            assert fresh.status == 200, f"{fresh.body!r} came after {call}"
        finally:
            await router.aclose()
    return call


async def strike_everywhere(scenario: Scenario, blow: Blow, every: int, permits: list[Permit]) -> None:
    """Strike at every n-th turn of a request's whole life, and beyond its end."""
    undisturbed = await strike(scenario, blow, None, permits)
    assert undisturbed.complete
    for at in range(BLOWS.index(blow) % every, undisturbed.turns + 3, every):
        await strike(scenario, blow, at, permits)


@pytest.mark.parametrize("blow", BLOWS)
@pytest.mark.parametrize(
    ("scenario", "every"),
    [
        (plain, 1),
        (streamed, 1),
        (half_open, 3),
        (holds_the_only_slot, 3),
        (queued, 1),
        (backing_off, 2),
        (falling_back, 3),
        (hedged, 2),
        (gated, 5),
        (evicting, 5),
        (gated_backing_off, 4),
    ],
)
def test_row_58_whatever_ends_a_request_at_any_turn_leaves_nothing_behind(
    scenario: Scenario,
    every: int,
    blow: Blow,
    permits: list[Permit],
    monkeypatch: pytest.MonkeyPatch,
):
    """No task, exchange, connection, lease, slot, place in line or permit; and the next request is served."""
    monkeypatch.setattr(OllamaBackend, "unload_settle_s", 0.001)
    every = 1 if os.environ.get("EVERY_TURN") else every
    run_counted(strike_everywhere(scenario, blow, every, permits))
