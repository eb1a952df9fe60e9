"""Breakers under a crowd, over sockets: who is let through, who is told to come back, and what moves them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from ..harness.crowds import Crowd
from ..harness.engines import ANSWER, answering, good
from ..harness.gateways import Gateway, gateway_over
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer
from ..harness.waiting import until

CROWD = 1000
ONCE = {"retry": {"enabled": False}}
RESET_S = 0.2


def resetting(**breaker: Any) -> dict[str, Any]:
    """No retries, and a breaker that one failure opens for a moment."""
    return {**ONCE, "circuit_breaker": {"failure_threshold": 1, "reset_timeout": f"{RESET_S}s", **breaker}}


boom = answering(500)


class Holding:
    """An engine that keeps each request until it is told how to answer it."""

    def __init__(self) -> None:
        self.held: list[asyncio.Future[Any]] = []

    async def __call__(self, exchange: Exchange) -> None:
        answer = asyncio.get_running_loop().create_future()
        self.held.append(answer)
        leaves = asyncio.ensure_future(exchange.reader.read(1))
        await asyncio.wait({answer, leaves}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            leaves.cancel()
            await answer.result()(exchange)
        else:
            answer.cancel()


async def ready_again(gateway: Gateway) -> None:
    """Wait until the breaker would let somebody pass."""
    await until(lambda: gateway.router.breakers.get("b1", "chat").peek() is None)


async def test_row_29_a_crowd_before_an_open_breaker_is_sent_away_and_reaches_nobody():
    """1000 answers, each with the time to come back, and no upstream call."""
    async with RawServer(boom) as engine:
        async with gateway_over(engine, resilience=ONCE, serves_on=False) as gateway:
            assert (await gateway.ask()).status_code == 500
            began = time.monotonic()
            answers = await Crowd(gateway.url, chat(), CROWD).gone()
            assert time.monotonic() - began < 25  # 5 ms each, five times
            assert Counter((a.status, a.code) for a in answers) == {(503, "breaker_open"): CROWD}
            assert all(30 <= int(a.headers["retry-after"]) <= 60 for a in answers)
    assert len(engine.exchanges) == 1


async def test_row_30_a_crowd_at_the_moment_of_half_open_sends_exactly_three_through():
    """The others are told to come back; three good answers close the breaker."""
    holding = Holding()
    async with RawServer(boom) as engine:
        async with gateway_over(engine, resilience=resetting()) as gateway:
            assert (await gateway.ask()).status_code == 500
            engine.script = holding
            await ready_again(gateway)
            crowd = Crowd(gateway.url, chat(), CROWD)
            await crowd.answered(CROWD - 3)
            assert len(holding.held) == 3
            assert Counter((a.status, a.code) for a in crowd.answers) == {(503, "breaker_open"): CROWD - 3}
            for held in holding.held:
                held.set_result(good)
            assert Counter(answer.status for answer in await crowd.gone()) == {200: 3, 503: CROWD - 3}
            assert gateway.breaker("b1") == "closed"
            engine.script = good


async def test_row_31_what_began_before_a_breaker_moved_moves_it_no_more():
    """A late success closes nothing that is open, a late failure opens nothing that is half-open."""
    holding = Holding()
    async with RawServer(holding) as engine:
        async with gateway_over(engine, resilience=resetting(half_open_max_attempts=1)) as gateway:
            late_success = asyncio.create_task(gateway.ask())
            await engine.seen(1)
            late_failure = asyncio.create_task(gateway.ask())
            await engine.seen(2)
            engine.script = boom
            assert (await gateway.ask()).status_code == 500
            holding.held[0].set_result(good)
            assert (await late_success).json() == ANSWER
            assert gateway.breaker("b1") == "open"
            engine.script = holding
            await ready_again(gateway)
            probe = asyncio.create_task(gateway.ask())
            await engine.seen(4)
            assert gateway.breaker("b1") == "half-open"
            holding.held[1].set_result(boom)
            assert (await late_failure).status_code == 500
            assert gateway.breaker("b1") == "half-open"
            holding.held[2].set_result(good)
            assert (await probe).json() == ANSWER
            assert gateway.breaker("b1") == "closed"
            assert gateway.router.breakers.get("b1", "chat").stale == 2
            metrics = (await gateway.client.get(f"{gateway.url}/metrics")).text
            assert 'smartrouter_breaker_stale_outcomes{backend="b1",operation="chat"} 2.0' in metrics
            engine.script = good


async def test_row_32_a_probe_whose_client_leaves_gives_its_slot_to_the_next():
    """Nothing was learnt: the breaker stays half-open, and is not pinned there."""
    holding = Holding()
    async with RawServer(boom) as engine:
        async with gateway_over(engine, resilience=resetting(half_open_max_attempts=1)) as gateway:
            assert (await gateway.ask()).status_code == 500
            engine.script = holding
            await ready_again(gateway)
            probe = asyncio.create_task(gateway.ask())
            await engine.seen(2)
            assert (await gateway.ask()).json()["error"]["code"] == "breaker_open"
            probe.cancel()
            engine.script = good
            await ready_again(gateway)
            assert gateway.breaker("b1") == "half-open"
            assert (await gateway.ask()).json() == ANSWER
            assert gateway.breaker("b1") == "closed"
