"""Several keys for one backend, over real sockets: what a client sees of their fates, and what it does not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from smartrouter_asgi import SmartRouter
from smartrouter_asgi.backends.base import BackendSpec
from smartrouter_asgi.backends.credentials import QUOTA_REST_S
from smartrouter_asgi.backends.http import HTTPBackend
from smartrouter_asgi.backends.tokens import EnvironmentKey, TokenSource
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.transport.choice import choose_transport
from smartrouter_asgi.types import Secret

from ..faults.test_disconnect import BOUND_S, Endless, raw_request
from ..harness.engines import ANSWER, good
from ..harness.routers import chat, router_over
from ..harness.servers import Exchange, RawServer, serve

KEYS = ("canary-key-one", "canary-key-two", "canary-key-three")
QUOTA = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


def bearer(exchange: Exchange) -> str:
    return (exchange.header("authorization") or "").removeprefix("Bearer ")


class Engine:
    """Answers by key: `refuses[key]` is a status, or a status with a body and headers. It quotes the key it refuses."""

    def __init__(self, **refuses: int | tuple[int, bytes, str]) -> None:
        self.refuses: dict[str, int | tuple[int, bytes, str]] = {f"canary-key-{k}": v for k, v in refuses.items()}

    async def __call__(self, exchange: Exchange) -> None:
        key = bearer(exchange)
        refusal = self.refuses.get(key)
        if refusal is None:
            await good(exchange)
            return
        quoting = json.dumps({"error": {"message": f"no: {key}", "code": key}}).encode()
        status, body, extra = refusal if isinstance(refusal, tuple) else (refusal, quoting, "")
        await exchange.answer(status, body, extra=extra)


def keyed(url: str, *others: str, keys: tuple[str, ...] = KEYS[:2], **settings: Any) -> SmartRouter:
    """A router whose first backend has keys, and which asks each backend once."""
    plain = {f"b{n}": {"type": "openai", "url": f"{u}/v1"} for n, u in enumerate((url, *others), 1)}
    backends = {**plain, "b1": {**plain["b1"], "api_keys": list(keys)}}
    return router_over(url, *others, backends=backends, resilience={"retry": {"max_retries": len(others)}}, **settings)


async def ask(url: str, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(f"{url}/v1/chat/completions", json=chat(**fields))


def states(router: SmartRouter) -> list[tuple[int, str, int]]:
    backend = router.backends["b1"]
    assert isinstance(backend, HTTPBackend)
    return [(state.position, state.state, state.in_flight) for state in backend.key_states()]


def asked_with(engine: RawServer) -> list[str]:
    return [bearer(exchange).removeprefix("canary-key-") for exchange in engine.exchanges]


async def test_requests_spread_over_the_keys_by_what_is_in_flight():
    gate = asyncio.Event()

    async def waiting(exchange: Exchange) -> None:
        await gate.wait()
        await good(exchange)

    async with RawServer(waiting) as engine:
        router = keyed(engine.base_url, keys=KEYS)
        async with serve(router) as url:
            asking = [asyncio.create_task(ask(url)) for _ in range(6)]
            await engine.seen(6)
            assert [state[2] for state in states(router)] == [2, 2, 2]
            gate.set()
            assert {response.status_code for response in await asyncio.gather(*asking)} == {200}
        assert [state[2] for state in states(router)] == [0, 0, 0]
    assert sorted(asked_with(engine)) == sorted(["one", "two", "three"] * 2)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_429_on_one_key_is_not_seen_by_the_client(stream: bool):
    """One attempt, no delay, and the key rests: the next request does not try it."""
    async with RawServer(Engine(one=(429, b"{}", "retry-after: 30\r\n"))) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            for _ in range(2):
                response = await ask(url, stream=stream)
                assert (response.status_code, response.headers["x-smartrouter-attempts"]) == (200, "1")
                assert stream or response.json() == ANSWER
        assert states(router) == [(1, "resting", 0), (2, "ready", 0)]
        assert 29 < router.backends["b1"].key_states()[0].rests_for_s <= 30
        assert {state for _, _, state in router.breakers.states()} == {"closed"}
    assert asked_with(engine) == ["one", "two", "two"]


async def test_a_key_whose_rest_is_over_is_used_again():
    script = Engine(one=(429, b"{}", "retry-after: 30\r\n"))
    async with RawServer(script) as engine:
        router = keyed(engine.base_url)
        backend = router.backends["b1"]
        now = 100.0
        backend._clock = lambda: now
        async with serve(router) as url:
            await ask(url)
            script.refuses.clear()
            now = 129.0
            await ask(url)
            now = 130.0
            await ask(url)
    assert asked_with(engine) == ["one", "two", "two", "one"]


async def test_when_all_keys_rest_it_is_429_with_the_soonest_return_and_nobody_is_asked():
    async with RawServer(
        Engine(one=(429, b"{}", "retry-after: 90\r\n"), two=(429, b"{}", "retry-after: 40\r\n"))
    ) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            for _ in range(2):
                response = await ask(url)
                assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
                assert 38 < int(response.headers["retry-after"]) <= 40
    assert asked_with(engine) == ["one", "two"]


async def test_a_request_comes_back_when_the_first_key_is_rested():
    """The retry policy waits for the soonest key, as it waits for an engine that says when."""
    script = Engine(one=(429, b"{}", "retry-after: 20\r\n"), two=(429, b"{}", "retry-after-ms: 50\r\n"))

    async def mending(exchange: Exchange) -> None:
        await script(exchange)
        if bearer(exchange) == KEYS[1]:
            script.refuses.clear()

    async with RawServer(mending) as engine:
        backend = {"type": "openai", "url": f"{engine.base_url}/v1", "api_keys": list(KEYS[:2])}
        router = router_over(engine.base_url, backends={"b1": backend})
        async with serve(router) as url:
            response = await ask(url)
        assert (response.status_code, response.headers["x-smartrouter-attempts"]) == (200, "2")
    assert asked_with(engine) == ["one", "two", "two"]


async def test_a_used_up_quota_rests_a_key_for_long(caplog: pytest.LogCaptureFixture):
    async with RawServer(Engine(one=(429, QUOTA, "retry-after: 1\r\n"))) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            assert (await ask(url)).status_code == 200
        rests_for_s = router.backends["b1"].key_states()[0].rests_for_s
    assert QUOTA_REST_S - 10 < rests_for_s <= QUOTA_REST_S
    assert caplog.text.count("backend 'b1': api key 1 of 2 has no quota left") == 1


async def test_a_401_retires_a_key_for_good_with_one_warning(caplog: pytest.LogCaptureFixture):
    """Requests that were under way with it add no second warning, and no other backend or key is touched."""
    gate = asyncio.Event()
    refusing = Engine(one=401)

    async def waiting(exchange: Exchange) -> None:
        await gate.wait()
        await refusing(exchange)

    async with RawServer(waiting) as engine, RawServer(good) as other:
        router = keyed(engine.base_url, other.base_url)
        async with serve(router) as url:
            asking = [asyncio.create_task(ask(url)) for _ in range(4)]
            await engine.seen(4)
            gate.set()
            for response in await asyncio.gather(*asking):
                assert (response.status_code, response.headers["x-smartrouter-backend"]) == (200, "b1")
            refusing.refuses.clear()
            for _ in range(3):
                assert (await ask(url)).status_code == 200
        assert states(router) == [(1, "retired", 0), (2, "ready", 0)]
        assert other.exchanges == []
    assert asked_with(engine)[-3:] == ["two"] * 3
    assert caplog.text.count("api key 1 of 2 was refused and is not used while another one is left") == 1


@pytest.mark.parametrize("fallback", [False, True], ids=["alone", "with a fallback"])
async def test_when_all_keys_are_dead_it_is_502_or_the_next_candidate(fallback: bool):
    async with RawServer(Engine(one=401, two=401)) as engine, RawServer(good) as other:
        router = keyed(engine.base_url, *([other.base_url] if fallback else []))
        async with serve(router) as url:
            for _ in range(2):
                response = await ask(url)
                if fallback:
                    assert (response.status_code, response.headers["x-smartrouter-backend"]) == (200, "b2")
                else:
                    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_auth")
            if not fallback:
                assert "all of its 2 api keys" in response.json()["error"]["message"]
        assert [state for _, state, _ in states(router)] == ["retired", "retired"]
    assert asked_with(engine) == ["one", "two"], "once they are dead nobody is asked"


@pytest.mark.parametrize("status", [402, 403])
async def test_what_every_key_is_refused_for_is_the_request_s_fault(status: int):
    """A prompt that trips a moderation, or is too large for the credit, must not take the keys away from others."""
    script = Engine(one=status, two=status)
    async with RawServer(script) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            assert (await ask(url)).status_code == 502
            assert [state for _, state, _ in states(router)] == ["ready", "ready"]
            del script.refuses["canary-key-two"]
            assert (await ask(url)).status_code == 200
        assert [state for _, state, _ in states(router)] == ["retired" if status == 403 else "resting", "ready"]


async def test_the_only_key_is_asked_every_time(caplog: pytest.LogCaptureFixture):
    """As a backend without a pool: a mended engine serves at once, and the warning is given once."""
    script = Engine(one=(401, b"{}", ""))
    async with RawServer(script) as engine:
        router = keyed(engine.base_url, keys=KEYS[:1])
        async with serve(router) as url:
            for _ in range(2):
                assert (await ask(url)).status_code == 502
            assert states(router) == [(1, "retired", 0)]
            script.refuses.clear()
            assert (await ask(url)).status_code == 200
            assert states(router) == [(1, "ready", 0)]
    assert len(engine.exchanges) == 3
    assert caplog.text.count("api key 1 of 1 was refused") == 1


async def test_the_pause_of_the_only_key_is_told_and_kept():
    """What the provider says is passed on; until then, or for five minutes, it is not asked in vain."""
    script = Engine(one=(429, b"{}", "retry-after: 3600\r\n"))
    async with RawServer(script) as engine:
        router = keyed(engine.base_url, keys=KEYS[:1])
        async with serve(router) as url:
            first, second = await ask(url), await ask(url)
    assert (first.status_code, first.headers["retry-after"]) == (429, "3600")
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limited")
    assert 290 <= int(second.headers["retry-after"]) <= 300
    assert len(engine.exchanges) == 1


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_other_failures_are_no_key_s_fault(status: int):
    async with RawServer(Engine(one=status)) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            assert (await ask(url)).status_code in (status, 502)
        assert [state for _, state, _ in states(router)] == ["ready", "ready"]
    assert asked_with(engine) == ["one"]


async def test_without_keys_no_key_is_sent():
    async with RawServer(good) as engine:
        router = keyed(engine.base_url, keys=())
        async with serve(router) as url:
            assert (await ask(url)).status_code == 200
        assert states(router) == []
    assert engine.exchanges[0].header("authorization") is None


@pytest.mark.parametrize(
    ("stream", "talks"), [(True, True), (True, False), (False, False)], ids=["mid-stream", "before-headers", "plain"]
)
async def test_a_client_that_leaves_gives_its_key_back(stream: bool, talks: bool):
    async with RawServer(Endless(talks=talks)) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            async with raw_request(url, chat(stream=stream)) as (reader, _):
                await engine.seen(1)
                if talks:
                    await reader.readuntil(b"Hel")
                assert states(router) == [(1, "ready", 1), (2, "ready", 0)]
            async with asyncio.timeout(BOUND_S):
                while states(router)[0][2]:
                    await asyncio.sleep(0.005)


async def test_an_engine_that_breaks_gives_the_key_back():
    async def breaking(exchange: Exchange) -> None:
        exchange.reset()

    async with RawServer(breaking) as engine:
        router = keyed(engine.base_url)
        async with serve(router) as url:
            assert (await ask(url)).status_code == 502
        assert [state for _, *state in states(router)] == [["ready", 0], ["ready", 0]]


async def test_listing_takes_any_key_and_blames_none():
    """A key may be allowed to serve and not to list, and a list must not depend on the one key that is out."""
    async with RawServer(Engine(one=403, two=429)) as engine:
        router = keyed(engine.base_url, keys=KEYS)
        for _ in range(2):
            assert [model.id for model in await router.backends["b1"].list_models()] == ["engine-model"]
        assert [state for _, state, _ in states(router)] == ["ready"] * 3
        await router.aclose()
    assert asked_with(engine) == ["one", "two", "three"] * 2


@pytest.mark.parametrize("status", [401, 403, 429, 400])
async def test_no_key_shows_anywhere(status: int, caplog: pytest.LogCaptureFixture):
    """Whichever of the keys an engine quotes; not in answers, logs, health, metrics, admin or repr."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(Engine(one=status, two=status, three=status)) as engine:
        router = keyed(engine.base_url, keys=KEYS)
        async with serve(router) as url, httpx.AsyncClient() as client:
            shown = [repr(router.backends), repr(router.settings), repr(router.backends["b1"].credentials)]
            shown += [(await ask(url, stream=stream)).text for stream in (False, True)]
            for path in ("/health", "/metrics", "/admin/backends", "/v1/models"):
                shown.append((await client.get(f"{url}{path}")).text)
            shown.append(repr(router.backends["b1"].key_states()))
        assert engine.exchanges
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("smartrouter_asgi")]
    assert "canary" not in "\n".join([*shown, *ours])


class TokenEngine:
    """Takes one token only, and quotes what it refuses."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    async def __call__(self, exchange: Exchange) -> None:
        if bearer(exchange) == self.wanted:
            await good(exchange)
        else:
            await exchange.answer(401, json.dumps({"error": {"message": f"expired: {bearer(exchange)}"}}).encode())


async def test_a_token_that_the_engine_refuses_is_fetched_anew_within_the_attempt():
    """A revoked token is no reason to fail, nor to give up on its source."""
    fetched: list[str] = []

    def fetch() -> tuple[str, float]:
        fetched.append(f"canary-token-{len(fetched) + 1}")
        return fetched[-1], 4e9

    script = TokenEngine("canary-token-1")
    async with RawServer(script) as engine:
        router = keyed(engine.base_url, keys=())
        now = 0.0
        router.backends["b1"].credentials = TokenSource(fetch, clock=lambda: now)
        async with serve(router) as url:
            assert (await ask(url)).status_code == 200
            now, script.wanted = 11.0, "canary-token-2"
            response = await ask(url)
            assert (response.status_code, response.headers["x-smartrouter-attempts"]) == (200, "1")
            script.wanted = "another"
            response = await ask(url)
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_auth")
            assert "canary" not in response.text
            script.wanted = "canary-token-2"
            assert (await ask(url)).status_code == 200
        assert states(router) == [(1, "ready", 0)]
    assert fetched == ["canary-token-1", "canary-token-2"]


async def test_without_a_token_nobody_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CANARY_KEY", raising=False)
    async with RawServer(good) as engine:
        router = keyed(engine.base_url, keys=())
        router.backends["b1"].credentials = EnvironmentKey("CANARY_KEY")
        async with serve(router) as url:
            response = await ask(url)
            assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_auth")
            assert "the environment variable CANARY_KEY is not set" in response.json()["error"]["message"]
            monkeypatch.setenv("CANARY_KEY", "late")
            assert (await ask(url)).status_code == 200
    assert [bearer(exchange) for exchange in engine.exchanges] == ["late"]


class HeaderBackend(HTTPBackend):
    """Wants its key elsewhere, as Azure does."""

    def auth_headers(self, secret: str) -> list[tuple[bytes, bytes]]:
        return [(b"api-key", secret.encode())]


@pytest.mark.parametrize("make", [lambda: TokenSource(lambda: "canary-token"), lambda: [TokenSource(lambda: "x" * 9)]])
async def test_credentials_may_be_given_to_the_constructor_and_headers_chosen(make: Callable[[], Any]):
    async with RawServer(good) as engine:
        spec = BackendSpec(name="a", type="openai", url=f"{engine.base_url}/v1", api_keys=(Secret("unused-key"),))
        transport = choose_transport("auto", connect_timeout_s=5.0)
        backend = HeaderBackend(spec, transport, credentials=make())
        await backend.call_json("GET", "/models")
        await transport.aclose()
    (exchange,) = engine.exchanges
    assert exchange.header("authorization") is None
    assert exchange.header("api-key") in ("canary-token", "x" * 9)


async def test_a_failed_listing_says_what_the_last_key_was_told():
    async with RawServer(Engine(one=401, two=429)) as engine:
        router = keyed(engine.base_url)
        with pytest.raises(AttemptError) as caught:
            await router.backends["b1"].list_models()
        assert caught.value.kind is FailureKind.RATE_LIMITED
        assert "canary" not in str(caught.value)
        await router.aclose()
