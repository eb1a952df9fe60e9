"""What one answering model, or one busy provider, means for the requests that follow; and what the deadline answers."""

from __future__ import annotations

import asyncio
import time

import httpx

from smartrouter_asgi import SmartRouter

from ..harness.engines import ANSWER, answering, good, silent
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, Script, serve
from ..harness.waiting import until


def telling(status: int, message: str, extra: str = "") -> Script:
    return answering(status, b'{"error": {"message": "%s"}}' % message.encode(), extra)


UNLOADABLE = telling(500, "model name=x failed to load")


async def ask(client: httpx.AsyncClient, text: str = "hi") -> httpx.Response:
    body = chat(messages=[{"role": "user", "content": text}])
    return await client.post("/v1/chat/completions", json=body, timeout=30)


def closed(router: SmartRouter) -> bool:
    return {state for _, _, state in router.breakers.states()} == {"closed"}


async def test_a_model_that_does_not_load_is_passed_over_by_the_next_requests():
    """Its backend's breaker stays closed, and the engine is not asked to load it again and again."""
    async with RawServer(UNLOADABLE) as bad, RawServer(good) as engine:
        router = router_over(bad.base_url, engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            async with leaves_nothing(router, bad, engine):
                for _ in range(6):
                    assert (await ask(client)).json() == ANSWER
        assert len(bad.exchanges) == 1
        assert closed(router)


async def test_a_model_that_does_not_load_and_has_nobody_beside_it_is_asked_once_more_and_then_rests():
    """Once may have been bad luck; then clients are told when to come back, and the engine is left alone."""
    async with RawServer(UNLOADABLE) as bad:
        router = router_over(bad.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            for _ in range(2):
                response = await ask(client)
                assert (response.status_code, response.json()["error"]["code"]) == (503, "model_load_failed")
            response = await ask(client)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_load_failed")
        assert 1 <= int(response.headers["retry-after"]) <= 10
        assert len(bad.exchanges) == 2
        assert closed(router)


async def test_the_next_good_answer_ends_the_rest():
    """Fail, fix, succeed: nothing is remembered."""
    async with RawServer(UNLOADABLE) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await ask(client)).status_code == 503
            engine.script = good
            assert (await ask(client)).json() == ANSWER
            engine.script = UNLOADABLE
            assert (await ask(client)).status_code == 503
            engine.script = good
            assert (await ask(client)).json() == ANSWER
        assert len(engine.exchanges) == 4


async def test_one_client_s_odd_request_takes_the_model_from_nobody():
    """The same prompt breaks a template again and again; everybody else is served."""
    async with RawServer(good) as engine:
        router = router_over(engine.base_url)

        async def breaks_on_odd(exchange: Exchange) -> None:
            if b"odd" in exchange.body:
                await telling(500, "requires more system memory (9 GiB) than is available (8 GiB)")(exchange)
            else:
                await good(exchange)

        engine.script = breaks_on_odd
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            for _ in range(10):
                assert (await ask(client, "odd")).status_code == 503
            assert (await ask(client)).json() == ANSWER
        assert closed(router)


async def test_row_26_a_pause_that_one_request_was_asked_for_holds_for_the_next_one():
    """Retry-After is of the deployment, not of the request that happened to hear it."""
    limited = telling(429, "slow down", "retry-after: 1\r\n")
    async with RawServer(limited) as busy, RawServer(good) as engine:
        router = router_over(busy.base_url, engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await ask(client)).json() == ANSWER
            asked_at = time.monotonic()
            assert (await ask(client)).json() == ANSWER
            assert len(busy.exchanges) == 1
            busy.script = good
            async with asyncio.timeout(10):
                while len(busy.exchanges) == 1:
                    assert (await ask(client)).json() == ANSWER
            assert time.monotonic() - asked_at >= 0.9
        assert closed(router)


async def test_row_26_with_nobody_else_the_next_request_waits_for_the_pause_to_end():
    limited = telling(429, "slow down", "retry-after: 1\r\n")
    async with RawServer(limited) as engine:
        router = router_over(engine.base_url, resilience={"retry": {"max_retries": 1}})
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            first = asyncio.create_task(ask(client))
            await engine.seen(1)
            began = time.monotonic()
            engine.script = good
            await until(lambda: router.rests.states(time.monotonic()))
            second = await ask(client)
            assert second.json() == ANSWER
            assert time.monotonic() - began >= 0.9
            assert (await first).json() == ANSWER


async def test_a_pause_too_long_to_wait_for_is_told_to_the_client():
    limited = telling(429, "slow down", "retry-after: 200\r\n")
    async with RawServer(limited) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await ask(client)).status_code == 429
            response = await ask(client)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
        assert 190 <= int(response.headers["retry-after"]) <= 200
        assert len(engine.exchanges) == 1


async def test_a_spent_deadline_tells_the_client_not_to_retry_and_lists_what_was_tried():
    """504 deadline_exceeded: an SDK would retry a 504 by itself, on a route that has had all its time."""
    async with RawServer(telling(503, "down")) as bad, RawServer(silent) as engine:
        router = router_over(bad.base_url, engine.base_url, resilience={"timeouts": {"total": "300ms"}})
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            async with leaves_nothing(router, bad, engine):
                response = await ask(client)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (504, "deadline_exceeded")
    assert response.headers["x-should-retry"] == "false"
    assert [(a["deployment"], a["status"], a["code"]) for a in error["attempts"]] == [
        ("b1/engine-model", 503, "upstream_error"),
        ("b2/engine-model", 504, "deadline_exceeded"),
    ]


async def test_row_5_what_two_engines_died_of_is_given_to_no_third():
    """A prompt that crashes engines: two crashes are enough."""

    async def dies(exchange: Exchange) -> None:
        exchange.reset()

    async with RawServer(dies) as one, RawServer(dies) as two, RawServer(good) as three:
        router = router_over(one.base_url, two.base_url, three.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            response = await ask(client)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_disconnected")
    assert [len(engine.exchanges) for engine in (one, two, three)] == [1, 1, 0]


async def test_one_prompt_that_always_fails_opens_no_breaker_for_the_others():
    """A generic 500 on one prompt, sent again and again, while everybody else is served."""

    async def dislikes_one(exchange: Exchange) -> None:
        await (answering(500) if b"poison" in exchange.body else good)(exchange)

    async with RawServer(dislikes_one) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            for _ in range(10):
                assert (await ask(client)).json() == ANSWER
                assert (await ask(client, "poison")).status_code == 500
            assert (await ask(client)).json() == ANSWER
        assert closed(router)


async def test_a_503_s_pause_holds_for_the_next_request_too():
    async with RawServer(answering(503, extra="retry-after: 1\r\n")) as busy, RawServer(good) as engine:
        router = router_over(busy.base_url, engine.base_url)
        async with serve(router) as url, httpx.AsyncClient(base_url=url) as client:
            for _ in range(5):
                assert (await ask(client)).json() == ANSWER
        assert len(busy.exchanges) == 1
