"""The gateway between two servers: apps that fail after they have begun, and requests that are two, or seem to be."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from smartrouter_asgi import Catalog, ModelResolutionMiddleware, ResilienceMiddleware, SmartRouter
from smartrouter_asgi.middleware.errors import ErrorEnvelopeMiddleware
from smartrouter_asgi.testing import ScriptedBackend, drive, http_scope
from smartrouter_asgi.types import ASGIApp, Receive, Scope, Send

from ..harness.engines import ANSWER, good
from ..harness.leaks import leaves_nothing
from ..harness.routers import chat, router_over
from ..harness.servers import RawServer, serve
from ..harness.sockets import exchange, post, statuses_of

HALF = b'{"half": tr'
BODY = json.dumps(chat()).encode()


class Bug(Exception):
    """Nothing of ours."""


class Failing:
    """An app that fails in the middle of its answer."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": HALF, "more_body": True})
        raise Bug("in the middle")


class Witness:
    """Notes what comes out of an app, where a server would get it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.raised: list[type[BaseException]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as exc:
            self.raised.append(type(exc))
            raise


LAYERS: list[Callable[[ASGIApp], ASGIApp]] = [
    ResilienceMiddleware,
    ErrorEnvelopeMiddleware,
    lambda app: ModelResolutionMiddleware(ResilienceMiddleware(app), catalog=Catalog()),
]


@pytest.mark.parametrize("layer", LAYERS, ids=["resilience", "envelope", "resolution passes it by"])
async def test_row_57_an_app_that_fails_after_its_start_is_not_started_again(layer: Callable[[ASGIApp], ASGIApp]):
    """The exception goes on to the server, which is the one that can cut the connection."""
    inner = Failing()
    async with drive(layer(inner), http_scope(path="/own/path"), body=BODY) as call:
        assert isinstance(await call.failure(), Bug)
    assert inner.calls == 1
    assert (call.status, call.body, call.complete) == (200, HALF, False)


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("layer", LAYERS[:2], ids=["resilience", "envelope"])
async def test_row_57_half_an_answer_never_ends_like_a_whole_one(layer: Callable[[ASGIApp], ASGIApp], http: str):
    """The client sees the connection end without the last chunk."""
    app = Witness(layer(Failing()))
    async with serve(app, http=http, lifespan="off") as url:
        answer = await exchange(url, post(BODY))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(HALF + b"\r\n")
    assert app.raised == [Bug]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_row_57_a_bug_while_a_stream_is_relayed_cuts_it(http: str):
    """No `[DONE]`, no last chunk, no second attempt; and nothing of the request is left."""
    backend = ScriptedBackend("b1", answers=[["Hel", Bug("in the middle")]], default="Hello")
    router = SmartRouter(backends={"b1": backend})
    app = Witness(router)
    async with serve(app, http=http) as url, leaves_nothing(router):
        answer = await exchange(url, post(json.dumps(chat("model", stream=True)).encode()))
        assert b"Hel" in answer
        assert b"[DONE]" not in answer
        assert not answer.endswith(b"\r\n0\r\n\r\n")
        assert len(backend.calls) == 1
        assert backend.calls[0].closed.is_set()
        assert backend.active == 0
        # The next one is served.
        assert b" 200 " in await exchange(url, post(json.dumps(chat("model")).encode(), b"connection: close\r\n"))
    assert app.raised == [Bug]


class Broken:
    """An observer that is of no use."""

    def __init__(self) -> None:
        self.told = 0

    def on_event(self, event: object) -> None:
        self.told += 1
        raise Bug("of an observer's")


async def test_row_34_an_observer_that_raises_spoils_no_request_and_no_metric(caplog: pytest.LogCaptureFixture):
    """It is logged once, and goes on being told."""
    broken = Broken()
    router = SmartRouter(backends={"b1": ScriptedBackend("b1", default="Hello")}, observers=(broken,))
    async with serve(router) as url, leaves_nothing(router):
        for stream in (False, True, False):
            body = json.dumps(chat("model", stream=stream)).encode()
            assert statuses_of(await exchange(url, post(body, b"connection: close\r\n"))) == [200]
    assert broken.told >= 6
    assert b'outcome="ok"} 3.0' in router.metrics.render()
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_row_53_two_lengths_are_one_request_or_none(http: str):
    """By the chunks or not at all; what seems to follow is a request of its own, judged as any other."""
    smuggled = b"GET /admin/backends HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with RawServer(good) as engine:
        router = router_over(engine.base_url)
        async with serve(router, http=http) as url, leaves_nothing(router, engine):
            answer = await exchange(
                url,
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + chunked + smuggled,
            )
    statuses = statuses_of(answer)
    assert statuses == ([200, 403] if http == "h11" else [400])
    assert b"b1" not in answer.split(b"\r\n\r\n")[-1], "the admin page was shown"
    assert [json.loads(e.body)["messages"] for e in engine.exchanges] == [chat()["messages"]] * statuses.count(200)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_row_53_pipelined_requests_are_answered_one_by_one(http: str):
    """Each with an id, a plan and a verdict of its own; the first is not taken for one that left."""
    second = json.dumps(chat("nobody")).encode()
    async with RawServer(good) as engine:
        router = router_over(engine.base_url)
        async with serve(router, http=http) as url, leaves_nothing(router, engine):
            answer = await exchange(url, post(BODY) + post(second) + post(BODY, b"connection: close\r\n"))
    assert statuses_of(answer) == [200, 404, 200]
    ids = [line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id:")]
    assert len(set(ids)) == 3
    assert answer.count(json.dumps(ANSWER).encode()) == 2
    assert len(engine.exchanges) == 2
