"""What resilience must not do to an app that is not ours: end what nobody waits for, or believe any client's word."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from smartrouter_asgi import BreakerPolicy, ResilienceMiddleware, RetryPolicy, Timeouts

from ..harness.servers import serve

ONCE = RetryPolicy(enabled=False)
BOUND_S = 5.0


def states(layer: ResilienceMiddleware) -> set[tuple[str, str]]:
    return {(name, state) for name, _, state in layer._loop.breakers.states()}


async def test_what_an_app_does_after_its_answer_has_no_deadline():
    """Nor does a client's impatience end it: the answer is complete."""
    goes_on, done = asyncio.Event(), asyncio.Event()

    async def later() -> None:
        await goes_on.wait()
        done.set()

    async def answer(request):
        return PlainTextResponse("hello", background=BackgroundTask(later))

    layer = ResilienceMiddleware(Starlette(routes=[Route("/", answer)]), timeouts=Timeouts(total_s=0.2))
    async with serve(layer) as url, httpx.AsyncClient() as client:
        response = await client.get(url, headers={"x-stainless-read-timeout": "0.1"})
        assert response.text == "hello"
        await asyncio.sleep(0.4)  # past either deadline
        goes_on.set()
        await asyncio.wait_for(done.wait(), BOUND_S)


async def test_an_answer_that_the_deadline_cuts_is_no_whole_one_and_no_success():
    """Who is around us hears of it as well: a layer that only sees messages might end it as if it were complete."""
    heard = []

    async def endless(request):
        async def parts():
            yield b"a"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    layer = ResilienceMiddleware(
        Starlette(routes=[Route("/", endless)]),
        timeouts=Timeouts(total_s=0.2),
        breaker=BreakerPolicy(failure_threshold=1),
    )

    async def host(scope, receive, send):
        try:
            await layer(scope, receive, send)
        except Exception as exc:
            heard.append(getattr(exc, "code", None))

    async with serve(host, lifespan="off") as url, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url, timeout=BOUND_S)
    assert heard == ["deadline_exceeded"]
    assert states(layer) == {("/", "open")}


async def test_a_client_cannot_reset_the_breaker_of_a_path_by_another_method():
    calls = 0

    async def broken(request):
        nonlocal calls
        calls += 1
        return PlainTextResponse("no", 503)

    layer = ResilienceMiddleware(Starlette(routes=[Route("/work", broken, methods=["POST"])]), policy=ONCE)
    async with serve(layer) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(10):
            await client.post("/work")
            await client.get("/work")
            await client.get("/nowhere")
    assert calls == 5
    assert states(layer) == {("/work", "open")}


async def test_a_client_s_error_closes_no_breaker_and_opens_none():
    """As a probe it says nothing, and gives its place back."""
    status = 503

    async def answer(request):
        return PlainTextResponse("x", status)

    breaker = BreakerPolicy(failure_threshold=1, reset_timeout_s=0.01, half_open_max_attempts=1)
    layer = ResilienceMiddleware(Starlette(routes=[Route("/", answer)]), policy=ONCE, breaker=breaker)
    async with serve(layer) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/")
        assert states(layer) == {("/", "open")}
        await asyncio.sleep(0.02)
        for status in (400, 422, 400):
            assert (await client.get("/")).status_code == status
            assert states(layer) == {("/", "half-open")}
        status = 200
        await client.get("/")
        assert states(layer) == {("/", "closed")}


async def test_a_path_puts_no_line_of_its_own_into_the_log(caplog):
    async def unreachable(scope, receive, send):
        raise ConnectionRefusedError

    async with (
        serve(ResilienceMiddleware(unreachable, policy=ONCE), lifespan="off") as url,
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(f"{url}/a%0D%0AERROR%20b")).status_code == 502
    assert [line.partition(" raised")[0] for line in caplog.messages] == ["attempt 1 at '/a\\r\\nERROR b'"]
