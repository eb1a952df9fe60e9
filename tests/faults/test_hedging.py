"""Row 72 and its kin: two engines asked for one stream, one answer, and the other one let go at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.events import AttemptFinished
from smartrouter_asgi.resilience import BudgetBoard

from ..harness.engines import DONE, ROLE, answering, chunk, good, silent
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve
from ..harness.waiting import until

MIN_DELAY_S = 0.05
HEDGE = {"hedge": {"enabled": True, "min_samples": 3, "min_delay": f"{MIN_DELAY_S}s"}}
BOUND_S = 5.0


def saying(word: str, *, after: asyncio.Event | None = None) -> Callable[[Exchange], Awaitable[None]]:
    """An engine that streams one word, its headers and its role at once and the word when it may."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(ROLE)
        if after is not None:
            await after.wait()
        for event in (chunk(word), chunk(word), chunk(finish="stop"), DONE):
            await exchange.chunk(event)
            await asyncio.sleep(0)
        await exchange.end_stream()

    return script


down = answering(503)


class Pair:
    """A router over two engines, the first of them with a usual first-token time."""

    def __init__(
        self,
        router: SmartRouter,
        client: httpx.AsyncClient,
        first: RawServer,
        second: RawServer,
        seen: list[AttemptFinished],
    ) -> None:
        self.router, self.client, self.first, self.second, self.seen = router, client, first, second, seen

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=chat(stream=True, **fields), timeout=BOUND_S * 2)

    async def hedge_is_past_due(self) -> None:
        """Wait well past the moment at which the first engine's silence would have brought a hedge."""
        usual_s = self.router._first_tokens.quantile_s("b1/engine-model", min_samples=1)
        assert usual_s is not None
        await asyncio.sleep(2 * max(usual_s, MIN_DELAY_S) + 0.1)

    def attempts(self) -> list[tuple[str, str]]:
        """Backend and outcome of the attempts since the pair was ready."""
        return [(event.backend, event.outcome) for event in self.seen]


class Watching:
    def __init__(self) -> None:
        self.events: list[AttemptFinished] = []

    def on_event(self, event: object) -> None:
        if isinstance(event, AttemptFinished):
            self.events.append(event)


def router_of(
    first: RawServer, other: RawServer, resilience: dict[str, Any], second: dict[str, Any], watching: Watching
) -> SmartRouter:
    urls = {"b1": first.base_url, "b2": other.base_url}
    places = [{"backend": name, "model": "engine-model", "order": order} for order, name in enumerate(urls, 1)]
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {
                    name: {"type": "openai", "url": f"{url}/v1", **(second if name == "b2" else {})}
                    for name, url in urls.items()
                },
                "models": [{"name": "chat", "deployments": places}, {"name": "only-b2", "deployments": places[1:]}],
                "discovery": {"enabled": False},
                "resilience": {"retry": {"base_delay": "10ms", "max_delay": "50ms"}, **resilience},
            }
        ),
        observers=(watching,),
    )


@asynccontextmanager
async def pair(
    *, resilience: dict[str, Any] | None = None, second: dict[str, Any] | None = None, samples: int = 3
) -> AsyncIterator[Pair]:
    async with RawServer(good) as first, RawServer(good) as other:
        watching = Watching()
        router = router_of(first, other, {**HEDGE, **(resilience or {})}, second or {}, watching)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            it = Pair(router, client, first, other, watching.events)
            for _ in range(samples):
                assert (await it.ask()).status_code == 200
            watching.events.clear()
            async with leaves_nothing(router, first, other):
                yield it


async def test_row_72_a_late_first_token_is_had_from_the_next_engine():
    """The second engine answers, the first one is let go at once, and neither breaker takes it ill."""
    async with pair() as it:
        it.first.script = silent
        it.second.script = saying("second")
        began = time.monotonic()
        response = await it.ask()
        assert time.monotonic() - began < BOUND_S
        await asyncio.wait_for(it.first.exchanges[-1].closed.wait(), BOUND_S)
        assert response.text.count('"second"') == 2
        assert response.text.endswith("data: [DONE]\n\n")
        assert response.headers["x-smartrouter-backend"] == "b2"
        assert response.headers["x-smartrouter-attempts"] == "2"
        assert it.attempts() == [("b1", "hedged"), ("b2", "ok")]
        assert {state for _, _, state in it.router.breakers.states()} == {"closed"}


async def test_a_first_token_in_time_asks_nobody_else():
    async with pair(resilience={"hedge": {**HEDGE["hedge"], "min_delay": "3s"}}) as it:
        it.first.script = saying("first")
        response = await it.ask()
        assert response.headers["x-smartrouter-backend"] == "b1"
        assert it.second.exchanges == []


async def test_row_72_the_first_engine_may_still_win():
    """It speaks first after all: the hedge is cancelled, and its engine let go."""
    async with pair() as it:
        may_speak = asyncio.Event()
        it.first.script = saying("first", after=may_speak)
        it.second.script = silent
        asking = asyncio.create_task(it.ask())
        hedge = await it.second.seen(1)
        may_speak.set()
        response = await asking
        await asyncio.wait_for(hedge.closed.wait(), BOUND_S)
        assert response.headers["x-smartrouter-backend"] == "b1"
        assert response.headers["x-smartrouter-attempts"] == "1"
        assert response.text.count('"first"') == 2
        assert sorted(it.attempts()) == [("b1", "ok"), ("b2", "hedged")]


async def test_row_72_both_speak_at_once_and_one_is_heard():
    """Whoever it is: one whole stream, never a token of the other."""
    async with pair() as it:
        for _ in range(10):
            may_speak = asyncio.Event()
            it.first.script = saying("first", after=may_speak)
            it.second.script = saying("second", after=may_speak)
            count = len(it.second.exchanges)
            asking = asyncio.create_task(it.ask())
            await it.second.seen(count + 1)
            may_speak.set()
            text = (await asking).text
            assert {text.count('"first"'), text.count('"second"')} == {0, 2}
            assert text.count("data: [DONE]") == 1


async def test_row_72_a_hedge_that_fails_leaves_the_first_alone():
    async with pair() as it:
        may_speak = asyncio.Event()
        it.first.script = saying("first", after=may_speak)
        it.second.script = down
        asking = asyncio.create_task(it.ask())
        await it.second.seen(1)
        await until(lambda: ("b2", "upstream_error") in it.attempts())
        may_speak.set()
        response = await asking
        assert response.text.count('"first"') == 2
        assert it.attempts() == [("b2", "upstream_error"), ("b1", "ok")]


async def test_a_first_engine_that_fails_leaves_the_hedge_alone():
    async with pair() as it:
        may_fail, may_speak = asyncio.Event(), asyncio.Event()

        async def fails_late(exchange: Exchange) -> None:
            await may_fail.wait()
            await down(exchange)

        it.first.script = fails_late
        it.second.script = saying("second", after=may_speak)
        asking = asyncio.create_task(it.ask())
        await it.second.seen(1)
        may_fail.set()
        await until(lambda: it.attempts() == [("b1", "upstream_error")])
        may_speak.set()
        response = await asking
        assert response.text.count('"second"') == 2
        assert it.attempts() == [("b1", "upstream_error"), ("b2", "ok")]


async def test_when_both_fail_the_loop_goes_on_and_lists_them():
    async with pair(resilience={"retry": {"max_retries": 1}}) as it:
        may_fail = asyncio.Event()

        async def fails_late(exchange: Exchange) -> None:
            await may_fail.wait()
            await down(exchange)

        it.first.script = it.second.script = fails_late
        asking = asyncio.create_task(it.ask())
        await it.second.seen(1)
        may_fail.set()
        response = await asking
        assert response.status_code == 503
        assert response.headers["x-should-retry"] == "false"
        attempts = response.json()["error"]["attempts"]
        assert sorted(a["deployment"] for a in attempts) == ["b1/engine-model", "b2/engine-model"]
        assert len(it.first.exchanges) == 4
        assert len(it.second.exchanges) == 1


async def test_a_client_that_leaves_ends_both():
    async with pair() as it:
        it.first.script = it.second.script = silent
        asking = asyncio.create_task(it.ask())
        hedge = await it.second.seen(1)
        asking.cancel()
        await asyncio.wait_for(it.first.exchanges[-1].closed.wait(), BOUND_S)
        await asyncio.wait_for(hedge.closed.wait(), BOUND_S)
        await until(lambda: len(it.seen) == 2)
        assert sorted(it.attempts()) == [("b1", "cancelled"), ("b2", "cancelled")]
        assert {state for _, _, state in it.router.breakers.states()} == {"closed"}


async def test_a_hedge_does_not_queue():
    """The second engine serves one request at a time and has one: it is not asked, nor waited for."""
    async with pair(second={"max_parallel": 1}) as it:
        may_end = asyncio.Event()
        it.second.script = saying("busy", after=may_end)
        occupied = asyncio.create_task(it.client.post("/v1/chat/completions", json=chat("only-b2", stream=True)))
        await it.second.seen(1)
        may_speak = asyncio.Event()
        it.first.script = saying("first", after=may_speak)
        asking = asyncio.create_task(it.ask())
        await it.first.seen(4)
        await it.hedge_is_past_due()
        assert len(it.second.exchanges) == 1
        may_speak.set()
        may_end.set()
        assert (await asking).headers["x-smartrouter-backend"] == "b1"
        await occupied


async def test_a_hedge_is_paid_from_the_retry_budget():
    """Nothing left in it: no hedge."""
    async with pair() as it:
        it.router._inference.app._loop.budgets = BudgetBoard(ratio=0.0, reserve=0.0, refill_per_s=0.0)
        may_speak = asyncio.Event()
        it.first.script = saying("first", after=may_speak)
        asking = asyncio.create_task(it.ask())
        await it.first.seen(4)
        await it.hedge_is_past_due()
        assert it.second.exchanges == []
        may_speak.set()
        assert (await asking).status_code == 200


async def test_nothing_is_hedged_before_it_is_known_what_is_usual():
    async with pair(samples=2) as it:
        may_speak = asyncio.Event()
        it.first.script = saying("first", after=may_speak)
        asking = asyncio.create_task(it.ask())
        await it.first.seen(3)
        await it.hedge_is_past_due()
        assert it.second.exchanges == []
        may_speak.set()
        assert (await asking).status_code == 200


async def test_row_72_a_stream_that_has_begun_gets_no_hedge():
    """Its first token was in time and the rest of it may take long: nobody else is asked, nor is anything mixed in."""
    goes_on = asyncio.Event()

    async def slow_to_end(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in (ROLE, chunk("first")):
            await exchange.chunk(event)
        await goes_on.wait()
        for event in (chunk(finish="stop"), DONE):
            await exchange.chunk(event)
        await exchange.end_stream()

    async with pair() as it:
        asked = len(it.second.exchanges)
        it.first.script = slow_to_end
        asking = asyncio.create_task(it.ask())
        await asyncio.sleep(0.5)  # ten times the delay of a hedge: what must not happen has no event
        goes_on.set()
        response = await asking
        assert response.text.count("data: ") == 4
        assert len(it.second.exchanges) == asked
        assert it.attempts() == [("b1", "ok")]


async def test_a_deployment_that_pauses_uses_up_no_hedge():
    """One extra attempt is allowed, and the first of three candidates, at rest, is not asked: so the hedge is due."""
    async with RawServer(answering(429, extra="retry-after: 100\r\n")) as pausing:
        async with RawServer(good) as first, RawServer(good) as second:
            retry = {"max_retries": 1, "base_delay": "10ms"}
            router = router_over(
                pausing.base_url, first.base_url, second.base_url, resilience={**HEDGE, "retry": retry}
            )
            async with serve(router) as url, leaves_nothing(router, pausing, first, second):
                async with httpx.AsyncClient(base_url=url, timeout=BOUND_S * 2) as client:

                    async def ask() -> httpx.Response:
                        return await client.post("/v1/chat/completions", json=chat(stream=True))

                    for _ in range(4):
                        assert (await ask()).headers["x-smartrouter-backend"] == "b2"
                    first.script = silent
                    assert (await ask()).headers["x-smartrouter-backend"] == "b3"
    assert len(pausing.exchanges) == 1
