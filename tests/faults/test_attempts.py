"""Requests of several attempts: what is late changes nothing, all of them are listed, and each is paid for once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from smartrouter_asgi import Settings, SmartRouter

from ..harness.engines import DONE, ROLE, chunk, good
from ..harness.gateways import gateway_over
from ..harness.leaks import leaves_nothing
from ..harness.routers import MESSAGES, chat, router_over
from ..harness.servers import Exchange, RawServer, Script, serve

QUICK = {"base_delay": "1ms", "max_delay": "1ms"}
TOO_LONG = b'{"error": {"message": "maximum context length is 9 tokens", "code": "context_length_exceeded"}}'


def saying(status: int, body: bytes = b'{"error": {"message": "no"}}', extra: str = "") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, extra=extra)

    return script


async def silent(exchange: Exchange) -> None:
    await exchange.gone()


async def test_row_26_the_late_end_of_a_stream_ends_no_pause():
    """A stream that began before the 429 and ends well after it says nothing about whether the pause is over."""
    goes_on = asyncio.Event()

    async def talking(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event in (ROLE, chunk("a")):
            await exchange.chunk(event)
        await goes_on.wait()
        for event in (chunk(finish="stop"), DONE):
            await exchange.chunk(event)
        await exchange.end_stream()

    async with RawServer(talking) as engine, gateway_over(engine, serves_on=False) as it:
        body = chat(stream=True)
        async with it.client.stream("POST", f"{it.url}/v1/chat/completions", json=body) as stream:
            engine.script = saying(429, extra="retry-after: 100\r\n")
            assert (await it.ask()).status_code == 429
            goes_on.set()
            assert "[DONE]" in (await stream.aread()).decode()
        assert (await it.ask()).status_code == 429
        assert len(engine.exchanges) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_engine_that_turns_everybody_away_at_the_door_costs_the_next_one_no_budget(status: int):
    """Nobody has worked for a request yet when the second is asked: many such requests are no storm of retries."""
    missing = b'{"error": {"message": "model not found", "code": "model_not_found"}}'
    async with RawServer(saying(status, missing if status == 404 else b"{}")) as first, RawServer(good) as second:
        budget = {"retry": {"budget": {"ratio": 0, "reserve": 0}}}
        async with gateway_over(first, second, resilience=budget) as it:
            assert {(await it.ask()).status_code for _ in range(5)} == {200}
        assert len(first.exchanges) == 6


def router_with_a_longer_model(*engines: RawServer, **resilience: Any) -> SmartRouter:
    """The last engine is asked instead of the others when a prompt is too long for one of them."""
    names = [f"b{number}" for number, _ in enumerate(engines, 1)]
    places = [{"backend": name, "model": "engine-model", "order": order} for order, name in enumerate(names, 1)]
    return SmartRouter(
        Settings.model_validate(
            {
                "backends": {
                    name: {"type": "openai", "url": f"{engine.base_url}/v1"}
                    for name, engine in zip(names, engines, strict=True)
                },
                "models": [
                    {"name": "chat", "deployments": places[:-1], "context_window_fallbacks": ["long"]},
                    {"name": "long", "deployments": places[-1:]},
                ],
                "discovery": {"enabled": False},
                "resilience": {"circuit_breaker": {"enabled": False}, **resilience},
            }
        )
    )


async def test_a_route_that_is_exhausted_lists_the_attempts_before_its_alternatives_too():
    async with RawServer(saying(400, TOO_LONG)) as short, RawServer(saying(503)) as longer:
        router = router_with_a_longer_model(short, longer, retry=QUICK)
        async with serve(router) as url, leaves_nothing(router, short, longer), httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    attempts = response.json()["error"]["attempts"]
    assert response.status_code == 503
    assert [(a["deployment"], a["status"]) for a in attempts] == [("b1/engine-model", 400)] + [
        ("b2/engine-model", 503)
    ] * 3
    assert response.headers["x-smartrouter-attempts"] == "4" == str(len(short.exchanges) + len(longer.exchanges))


async def test_a_request_earns_its_budget_once_whatever_its_alternatives():
    """What it earns it earns where it is sent first; were it earned again with each list, the tenth would retry."""
    async with RawServer(saying(400, TOO_LONG)) as short, RawServer(saying(503)) as longer:
        retry = {**QUICK, "budget": {"ratio": 0.1, "reserve": 0}}
        router = router_with_a_longer_model(short, longer, retry=retry)
        async with serve(router) as url, leaves_nothing(router, short, longer), httpx.AsyncClient() as client:
            for _ in range(10):
                await client.post(f"{url}/v1/chat/completions", json=chat())
    assert len(longer.exchanges) == 10


async def test_candidates_that_were_never_asked_use_up_no_attempts_of_the_alternatives():
    """Two deployments pause when the third calls the prompt too long: only the third has used up an attempt."""
    pausing = saying(429, extra="retry-after: 100\r\n")
    async with (
        RawServer(pausing) as first,
        RawServer(pausing) as second,
        RawServer(saying(400, TOO_LONG)) as third,
        RawServer(saying(503)) as longer,
    ):
        router = router_with_a_longer_model(first, second, third, longer, retry={**QUICK, "max_retries": 2})
        async with serve(router) as url, httpx.AsyncClient() as client:
            await client.post(f"{url}/v1/chat/completions", json=chat())
            longer.exchanges.clear()
            await client.post(f"{url}/v1/chat/completions", json=chat())
    assert (len(first.exchanges), len(second.exchanges), len(third.exchanges)) == (1, 1, 2)
    assert len(longer.exchanges) == 2, "one extra attempt went to the third, so one is left"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_sdk_hears_that_its_time_is_up_before_it_gives_up_itself(stream: bool):
    """A client that runs into its own timeout would send the request again."""
    async with RawServer(silent) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, leaves_nothing(router, engine):
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=2, timeout=1.0) as client:
                with pytest.raises(openai.InternalServerError) as caught:
                    await client.chat.completions.create(model="chat", messages=MESSAGES, stream=stream)  # type: ignore[call-overload]
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert len(engine.exchanges) == 1
