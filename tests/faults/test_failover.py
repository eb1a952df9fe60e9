"""Failures before an answer begins: retries, the next candidate, breakers, and what an exhausted route says."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter

from ..harness.engines import ANSWER, answering, good, silent
from ..harness.gateways import gateway_over
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve

DEAD = "http://127.0.0.1:1"


async def test_row_1_a_dead_engine_is_passed_over():
    """Refused connections cost nothing: the next candidate answers, and only the dead one is blamed."""
    async with RawServer(good) as engine, gateway_over(DEAD, engine) as gateway:
        started = time.monotonic()
        response = await gateway.ask()
        assert time.monotonic() - started < 5, "the aim is a second"
        assert response.json() == ANSWER
        assert response.headers["x-smartrouter-attempts"] == "2"
        assert response.headers["x-smartrouter-backend"] == "b2"
        assert (gateway.breaker("b1"), gateway.breaker("b2")) == ("open", "closed")


async def test_row_2_nobody_accepts_connections():
    """503 no_backend with Retry-After; the SDK is told not to try again at once."""
    router = router_over(DEAD, DEAD)
    async with serve(router) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", json=chat())
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "no_backend")
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["x-should-retry"] == "false"
    assert [a["deployment"] for a in error["attempts"]][:2] == ["b1/engine-model", "b2/engine-model"]
    assert len(error["attempts"]) == 4
    assert "127.0.0.1" not in response.text


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 529, 408])
async def test_server_errors_go_to_the_next_candidate(status: int):
    """5xx and 408 are worth another attempt elsewhere."""
    async with RawServer(answering(status)) as bad, RawServer(good) as engine:
        async with serve(router_over(bad.base_url, engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.json() == ANSWER
    assert len(bad.exchanges) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_client_errors_are_final(status: int):
    """Nobody else is asked, the engine's words pass."""
    async with RawServer(answering(status)) as bad, RawServer(good) as engine:
        async with serve(router_over(bad.base_url, engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.status_code == status
    assert response.json()["error"]["message"] == "boom"
    assert "x-should-retry" not in response.headers
    assert engine.exchanges == []


async def test_a_lone_engine_is_asked_again():
    """Two failures and then an answer: three attempts, one 200."""
    count = 0

    async def flaky(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        await (good if count > 2 else answering(503))(exchange)

    async with RawServer(flaky) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", json=chat(stream=True))
    assert response.status_code == 200
    assert response.headers["x-smartrouter-attempts"] == "3"
    assert count == 3


async def test_row_5_a_connection_that_dies_before_an_answer():
    """A reset after the request: one other candidate."""

    async def dying(exchange: Exchange) -> None:
        exchange.reset()

    async with RawServer(dying) as bad, RawServer(good) as engine:
        async with serve(router_over(bad.base_url, engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.json() == ANSWER
    assert len(bad.exchanges) == 1


async def test_row_6_a_stale_connection_is_replaced_in_silence():
    """An idle connection that the engine closes costs one extra try and no breaker failure."""
    first = True

    async def closing(exchange: Exchange) -> None:
        nonlocal first
        if first:
            first = False
            await good(exchange)
            return
        if len(engine.exchanges) == 2:
            exchange.writer.close()  # the second request on the kept connection dies with it
            return
        await good(exchange)

    async with RawServer(closing) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            await client.post(f"{url}/v1/chat/completions", json=chat())
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.json() == ANSWER
    assert len(engine.exchanges) == 3


async def test_row_26_retry_after_is_never_early():
    """A lone engine that says 'in one second' is not asked before that."""
    times: list[float] = []

    async def limited(exchange: Exchange) -> None:
        times.append(time.monotonic())
        await (good if len(times) > 1 else answering(429, extra="retry-after: 1\r\n"))(exchange)

    async with RawServer(limited) as engine, serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/chat/completions", json=chat(), timeout=10)
    assert response.status_code == 200
    assert times[1] - times[0] >= 1.0


async def test_row_27_a_429_that_cannot_be_waited_for_is_passed_on():
    """With its Retry-After."""
    async with RawServer(answering(429, extra="retry-after: 3600\r\n")) as engine:
        async with serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limited"
    assert response.headers["retry-after"] == "3600"
    assert len(engine.exchanges) == 1


async def test_row_28_and_29_five_failures_open_the_breaker():
    """Then nobody is asked, the answer is fast, and it says when to come back."""
    async with RawServer(answering(500)) as engine:
        router = router_over(engine.base_url, resilience={"retry": {"enabled": False}})
        async with serve(router) as url, httpx.AsyncClient() as client:
            for _ in range(5):
                response = await client.post(f"{url}/v1/chat/completions", json=chat())
                assert response.status_code == 500
            for _ in range(20):
                response = await client.post(f"{url}/v1/chat/completions", json=chat())
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "breaker_open"
                assert 50 <= int(response.headers["retry-after"]) <= 60
            assert len(engine.exchanges) == 5
            # Streams have a breaker of their own.
            await client.post(f"{url}/v1/chat/completions", json=chat(stream=True))
            assert len(engine.exchanges) == 6
            text = (await client.get(f"{url}/metrics")).text
            assert 'smartrouter_breaker_state{backend="b1",operation="chat"} 2.0' in text


@pytest.mark.parametrize("status", [401, 403])
async def test_row_37_a_backend_that_refuses_our_key_is_our_fault(status: int):
    """502 upstream_auth; its words are not passed on, and it is said whose key is meant."""
    async with RawServer(answering(status, b'{"error": {"message": "bad key sk-123456789"}}')) as engine:
        async with serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_auth")
    assert "sk-123456789" not in response.text
    assert "the gateway's key" in response.json()["error"]["message"]
    assert len(engine.exchanges) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_41_a_redirect_is_never_followed(status: int):
    """502 upstream_redirect, whatever it points at."""
    async with RawServer(good) as target:
        async with RawServer(answering(status, b"", f"location: {target.base_url}/v1/chat/completions\r\n")) as engine:
            async with serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
                response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_redirect")
    assert target.connections == 0


async def test_row_63_out_of_memory_is_no_fault_of_the_server():
    """503 vram_exhausted; the breaker stays closed."""
    body = b'{"error": {"message": "cudaMalloc failed: out of memory", "code": 500}}'
    async with RawServer(answering(500, body)) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            for _ in range(6):
                response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "vram_exhausted")
    assert len(engine.exchanges) == 6
    assert ("b1", "chat", "closed") in router.breakers.states()


async def test_row_63_out_of_memory_at_one_engine_is_answered_by_the_next():
    """Which may have a GPU of its own."""
    full = answering(500, b'{"error": {"message": "cudaMalloc failed: out of memory", "code": 500}}')
    async with RawServer(full) as bad, RawServer(good) as engine, gateway_over(bad, engine) as gateway:
        assert (await gateway.ask()).headers["x-smartrouter-backend"] == "b2"
        assert gateway.breaker("b1") == "closed"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_first_choice_that_fails_every_time_keeps_nobody_from_the_second(status: int):
    """A request's first call of a backend is no retry there: no budget refuses it, however many have gone before."""
    async with RawServer(answering(status)) as bad, RawServer(good) as engine:
        router = router_over(bad.base_url, engine.base_url, resilience={"circuit_breaker": {"enabled": False}})
        async with serve(router) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            for _ in range(10):
                posts = [client.post("/v1/chat/completions", json=chat()) for _ in range(10)]
                assert {response.status_code for response in await asyncio.gather(*posts)} == {200}
    assert len(bad.exchanges) == len(engine.exchanges) == 100


@pytest.mark.parametrize("breaker", [True, False], ids=["breaker", "no-breaker"])
async def test_row_35_a_storm_is_bounded_by_the_budget(breaker: bool):
    """Clients that ask and ask while the engine says 503: at most 1.2 x requests + reserve calls reach it."""
    async with RawServer(answering(503)) as engine:
        router = router_over(engine.base_url, resilience={"circuit_breaker": {"enabled": breaker}})
        limits = httpx.Limits(max_connections=100)
        async with serve(router) as url, httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            requests, until = 0, time.monotonic() + 2.0

            async def insist() -> None:
                nonlocal requests
                while time.monotonic() < until:
                    requests += 1
                    response = await client.post("/v1/chat/completions", json=chat())
                    assert response.status_code == 503

            async with leaves_nothing(router, engine):
                await asyncio.gather(*(insist() for _ in range(100)))
    assert requests >= 100
    assert len(engine.exchanges) <= 1.2 * requests + 10
    if not breaker:
        assert len(engine.exchanges) >= requests


async def test_a_plain_answer_that_is_no_json_is_502():
    """HTML in a 200 is not passed on."""
    async with RawServer(answering(200, b"<html>hello</html>")) as engine:
        async with serve(router_over(engine.base_url)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat())
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


async def test_a_client_s_own_patience_is_the_deadline():
    """x-stainless-read-timeout bounds a plain request; the engine loses its connection."""
    async with RawServer(silent) as engine:
        router = router_over(engine.base_url)
        async with serve(router) as url, httpx.AsyncClient() as client:
            response = await client.post(
                f"{url}/v1/chat/completions", json=chat(), headers={"x-stainless-read-timeout": "0.2"}
            )
            await asyncio.wait_for(engine.exchanges[0].closed.wait(), 2)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert ("b1", "chat", "closed") in router.breakers.states()


async def test_fallback_models_follow_the_last_deployment():
    """A model's `fallbacks` are asked once its own deployments have failed."""
    async with RawServer(answering(500)) as bad, RawServer(good) as engine:
        models = [
            {"name": "big", "deployments": [{"backend": "b1", "model": "m"}], "fallbacks": ["small"]},
            {"name": "small", "deployments": [{"backend": "b2", "model": "engine-model"}]},
        ]
        settings = Settings.model_validate(
            {
                "backends": {
                    "b1": {"type": "openai", "url": f"{bad.base_url}/v1"},
                    "b2": {"type": "openai", "url": f"{engine.base_url}/v1"},
                },
                "models": models,
                "discovery": {"enabled": False},
            }
        )
        async with serve(SmartRouter(settings)) as url, httpx.AsyncClient() as client:
            response = await client.post(f"{url}/v1/chat/completions", json=chat("big"))
    assert response.json() == ANSWER
    assert response.headers["x-smartrouter-backend"] == "b2"
