"""An engine goes away and comes back, with its models or without."""

from __future__ import annotations

import json

import httpx
import pytest

from smartrouter_asgi import Settings, SmartRouter
from smartrouter_asgi.testing.ollama import GIB, Fault, SimulatedModel, SimulatedOllama

from ..harness.engines import good
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat
from ..harness.servers import Exchange, RawServer, serve
from ..harness.waiting import until

RESET_S = 1.0
MODEL = SimulatedModel("small", 4 * GIB, load_s=3.0, tokens_per_s=50.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_row_39_an_engine_that_restarts_is_left_alone_and_taken_back_by_a_probe(stream: bool):
    """Refused, then 503 while it starts, then fine: every client is served, and the engine has its requests back."""
    async with SimulatedOllama([MODEL], time_scale=0.01) as engine, RawServer(good) as other:
        router = SmartRouter(
            Settings.model_validate(
                {
                    "backends": {
                        "local": {"type": "ollama", "url": engine.base_url},
                        "cloud": {"type": "openai", "url": f"{other.base_url}/v1"},
                    },
                    "models": [
                        {
                            "name": "chat",
                            "deployments": [
                                {"backend": "local", "model": "small", "order": 1},
                                {"backend": "cloud", "model": "engine-model", "order": 2},
                            ],
                        }
                    ],
                    "discovery": {"enabled": False},
                    "resilience": {
                        "circuit_breaker": {
                            "failure_threshold": 2,
                            "reset_timeout": f"{RESET_S}s",
                            "half_open_max_attempts": 1,
                        }
                    },
                }
            )
        )
        breaker = router.breakers.get("local", "stream" if stream else "chat")

        async with serve(router) as url, httpx.AsyncClient(timeout=20) as client, leaves_nothing(router, other):

            async def by() -> str:
                body = chat(stream=stream, max_tokens=2)
                answer = await client.post(f"{url}/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                return answer.headers["x-smartrouter-backend"]

            assert await by() == "local"
            await engine.refuse_connections()
            assert [await by() for _ in range(4)] == ["cloud"] * 4
            assert breaker.state_name == "open"
            engine.faults.set(Fault(status=503, body=json.dumps({"error": "loading"})))
            await engine.accept_connections()
            asked = len(engine.log)
            assert await by() == "cloud"
            assert len(engine.log) == asked, "an open breaker lets nobody through"
            await until(lambda: breaker.peek() is None)
            assert await by() == "cloud"
            assert len(engine.log) == asked + 1
            assert breaker.state_name == "open"
            engine.faults.clear()
            await until(lambda: breaker.peek() is None)
            assert [await by() for _ in range(3)] == ["local"] * 3
            assert breaker.state_name == "closed"


async def test_row_39_a_slow_load_after_a_restart_has_the_cold_clock():
    """An engine that loads on demand has lost its models: the first token may take what a load takes."""
    async with SimulatedOllama([MODEL], time_scale=0.2) as engine:
        router = SmartRouter(
            Settings.model_validate(
                {
                    "backends": {"local": {"type": "ollama", "url": engine.base_url}},
                    "models": [{"name": "chat", "deployments": [{"backend": "local", "model": "small"}]}],
                    "discovery": {"enabled": False},
                    "resilience": {"timeouts": {"first_token": "200ms", "first_token_cold": "10s"}},
                }
            )
        )
        async with serve(router) as url, httpx.AsyncClient(timeout=20) as client:
            answer = await client.post(f"{url}/v1/chat/completions", json=chat(stream=True, max_tokens=2))
        assert (answer.status_code, answer.headers["x-smartrouter-attempts"]) == (200, "1")
        assert {state for _, _, state in router.breakers.states()} == {"closed"}


async def test_row_38_a_model_deleted_since_it_was_listed_is_looked_for_once(monkeypatch: pytest.MonkeyPatch):
    """Whoever has it by then is asked; with nobody left it is 404, and no breaker hears of either."""
    monkeypatch.setattr("smartrouter_asgi.routing.discovery.MISS_TTL_S", 0.0)  # else a list of a second ago will do
    lists = {"one": ["m", "other"], "two": ["other"]}

    def engine_of(name: str):
        async def script(exchange: Exchange) -> None:
            if exchange.path.endswith("/models"):
                data = [{"id": model, "object": "model"} for model in lists[name]]
                await exchange.answer(200, json.dumps({"object": "list", "data": data}).encode())
            elif "m" in lists[name]:
                await good(exchange)
            else:
                error = {"message": "The model `m` does not exist", "code": "model_not_found"}
                await exchange.answer(404, json.dumps({"error": error}).encode())

        return script

    async with RawServer(engine_of("one")) as one, RawServer(engine_of("two")) as two:
        backends = {"one": {"type": "openai", "url": f"{one.base_url}/v1"}}
        backends["two"] = {"type": "openai", "url": f"{two.base_url}/v1"}
        router = SmartRouter(Settings.model_validate({"backends": backends, "discovery": {"ttl": "1h"}}))
        async with serve(router) as url, httpx.AsyncClient() as client, leaves_nothing(router, one, two):

            async def ask() -> httpx.Response:
                return await client.post(f"{url}/v1/chat/completions", json=chat("m"))

            assert (await ask()).headers["x-smartrouter-backend"] == "one"
            lists["one"], lists["two"] = ["other"], ["m", "other"]
            moved = await ask()
            assert (moved.status_code, moved.headers.get("x-smartrouter-backend")) == (200, "two")
            lists["two"] = ["other"]
            asked = len(one.exchanges) + len(two.exchanges)
            gone = await ask()
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
            assert len(one.exchanges) + len(two.exchanges) <= asked + 1 + 3, "one call, and each list once or twice"
        assert {state for _, _, state in router.breakers.states()} == {"closed"}
