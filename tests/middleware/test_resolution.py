"""The resolution layer alone: a name becomes a plan, or an answer that says why not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from smartrouter_asgi import Catalog, ModelResolutionMiddleware
from smartrouter_asgi._asgi import BodyLimits
from smartrouter_asgi.exceptions import AttemptError, FailureKind, NoBackendError
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.routing.source import FixedCatalog
from smartrouter_asgi.state import SCOPE_KEY
from smartrouter_asgi.testing.asgi import drive, http_scope

from .layers import CATALOG, CHAT, Inner, chat, post, resolved


async def test_the_plan_is_in_the_scope():
    """The inner app finds the model's name and its deployments in order, and the body as it came."""
    inner = Inner()
    body = chat("both", temperature=0.5)
    call = await drive(resolved(inner), post(), body=[body[:10], body[10:]])
    assert (call.status, call.body) == (200, b"inner")
    plan = inner.scopes[0][SCOPE_KEY].plan
    assert plan.model == "both"
    assert [deployment.id for deployment in plan.candidates] == ["b1/one", "b2/two"]
    assert inner.bodies == [body]


async def test_an_alias_is_its_model():
    inner = Inner()
    await drive(resolved(inner), post(), body=chat("gpt-4o"))
    assert inner.scopes[0][SCOPE_KEY].plan.model == "chat"


@pytest.mark.parametrize("root_path", ["", "/llm", "/a/b"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_paths_are_those_below_the_mount(root_path, path):
    inner = Inner()
    await drive(resolved(inner), post(root_path + path, root_path=root_path), body=chat())
    assert inner.scopes[0][SCOPE_KEY].plan is not None


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        (CHAT, chat(), "chat"),
        ("/v1/completions", b'{"model": "chat", "prompt": "x"}', "completions"),
        ("/v1/embeddings", b'{"model": "chat", "input": ["x"]}', "embeddings"),
    ],
)
async def test_the_path_says_which_operation(path, body, operation):
    inner = Inner()
    await drive(resolved(inner), post(path), body=body)
    assert inner.scopes[0][SCOPE_KEY].call.operation == operation


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"messages": []}', "invalid_request", "model"),
        (b'{"model": 7, "messages": []}', "invalid_request", "model"),
        (b'{"model": "", "messages": []}', "invalid_request", "model"),
        (b'{"model": "chat"}', "invalid_request", "messages"),
        (b'{"model": "chat", "messages": "hi"}', "invalid_request", "messages"),
        (b'{"model": "chat", "messages": [], "stream": "yes"}', "invalid_request", "stream"),
    ],
)
async def test_a_body_that_cannot_be_used_is_400(body, code, param):
    """The inner app is not called, and the field at fault is named."""
    inner = Inner()
    call = await drive(resolved(inner), post(), body=body)
    error = call.json()["error"]
    assert (call.status, error["code"], error["param"]) == (400, code, param)
    assert inner.calls == 0


@pytest.mark.parametrize("model", ["chta", "nothing at all", "../etc/passwd", "x" * 1000, "\u2028", "<b>"])
async def test_an_unknown_model_is_404(model):
    inner = Inner()
    call = await drive(resolved(inner), post(), body=chat(model))
    assert (call.status, call.json()["error"]["code"]) == (404, "model_not_found")
    assert len(call.body) < 500
    assert inner.calls == 0


async def test_a_near_name_is_suggested():
    call = await drive(resolved(Inner()), post(), body=chat("chta"))
    assert "did you mean 'chat'" in call.json()["error"]["message"]


async def test_an_empty_catalog_says_so():
    app = ModelResolutionMiddleware(Inner(), catalog=Catalog())
    call = await drive(app, post(), body=chat())
    assert "no model is configured" in call.json()["error"]["message"]


async def test_a_body_too_large_is_413_and_not_read_to_its_end():
    """Reading stops at the limit; the connection is closed after the answer."""
    app = ModelResolutionMiddleware(Inner(), catalog=CATALOG, body=BodyLimits(max_bytes=100))
    parts = ({"type": "http.request", "body": b"x" * 60, "more_body": True} for _ in range(5))
    call = await drive(app, post(), messages=parts)
    assert (call.status, call.json()["error"]["code"]) == (413, "body_too_large")
    assert call.header("connection") == "close"
    assert call.taken == 2


async def test_a_body_declared_too_large_is_413_unread():
    app = ModelResolutionMiddleware(Inner(), catalog=CATALOG, body=BodyLimits(max_bytes=100))
    call = await drive(app, post(headers=[(b"content-length", b"101")]), messages=[])
    assert call.status == 413


async def test_a_body_that_does_not_arrive_is_408():
    app = ModelResolutionMiddleware(Inner(), catalog=CATALOG, body=BodyLimits(timeout_s=0.01))
    async with drive(app, post(), messages=[{"type": "http.request", "body": b"{", "more_body": True}]) as call:
        await call.ended()
    assert (call.status, call.json()["error"]["code"]) == (408, "body_timeout")


async def test_a_slow_inner_app_is_no_slow_body():
    """The body's clock stops once the body is there."""
    app = ModelResolutionMiddleware(Inner(), catalog=CATALOG, body=BodyLimits(timeout_s=0.05))
    slow = asyncio.Event()

    async def inner(scope, receive, send):
        asyncio.get_running_loop().call_later(0.1, slow.set)
        await slow.wait()
        await Inner()(scope, receive, send)

    app.app = inner
    call = await drive(app, post(), body=chat())
    assert call.status == 200


async def test_own_paths():
    """`paths` says what is inference; the usual paths are then nothing special."""
    inner = Inner()
    app = ModelResolutionMiddleware(inner, catalog=FixedCatalog(CATALOG), paths={"/ask": "chat"})
    await drive(app, post("/ask"), body=chat())
    await drive(app, post(CHAT), body=b"{")
    assert inner.scopes[0][SCOPE_KEY].plan.model == "chat"
    assert SCOPE_KEY not in inner.scopes[1]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "post"])
async def test_only_post_is_inference(method):
    inner = Inner()
    await drive(resolved(inner), http_scope(method, CHAT), body=b"{")
    assert SCOPE_KEY not in inner.scopes[0]


async def test_a_source_is_asked_again_before_saying_404():
    """A model that appeared since is found; what is known needs no second look."""

    class Source(FixedCatalog):
        asked = ()

        async def refreshed(self, name):
            self.asked += (name,)
            return CATALOG

    source = Source(Catalog())
    inner = Inner()
    app = ModelResolutionMiddleware(inner, catalog=source)
    found = await drive(app, post(), body=chat())
    missing = await drive(app, post(), body=chat("nobody"))
    assert (found.status, missing.status) == (200, 404)
    assert source.asked == ("chat", "nobody")


async def test_a_source_may_know_why_a_model_is_missing():
    """A backend that never answered is 503, not 404: the model may well exist."""

    class Source(FixedCatalog):
        def why_missing(self, name):
            return NoBackendError("b1 does not answer", retry_after_s=2)

    call = await drive(ModelResolutionMiddleware(Inner(), catalog=Source(Catalog())), post(), body=chat())
    assert (call.status, call.header("retry-after")) == (503, "2")


def missing() -> AttemptError:
    return AttemptError("no such model", kind=FailureKind.MODEL_MISSING, status=404, code="model_not_found")


class Losing:
    """An inner app whose first engine has lost the model."""

    def __init__(self, *, after_commit: bool = False) -> None:
        self.asked: list[str] = []
        self._after_commit = after_commit

    async def __call__(self, scope, receive, send):
        state = scope[SCOPE_KEY]
        deployment = state.plan.candidates[0]
        state.attempt = Attempt(number=len(self.asked) + 1, deployment=deployment)
        self.asked.append(deployment.id)
        if self._after_commit:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if len(self.asked) == 1:
            raise missing()
        await Inner()(scope, receive, send)


class Rechecked(FixedCatalog):
    """A source that notes which backends were asked again."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.again: list[object] = []

    async def rechecked(self, backends):
        self.again.append(backends)
        return await super().rechecked(backends)


async def test_a_model_that_is_gone_is_resolved_again_without_who_lost_it():
    """Once, to candidates that were not asked yet."""
    inner, source = Losing(), Rechecked(CATALOG)
    call = await drive(ModelResolutionMiddleware(inner, catalog=source), post(), body=chat("both"))
    assert call.status == 200
    assert inner.asked == ["b1/one", "b2/two"]
    assert source.again == [{"b1"}]


async def test_without_another_candidate_it_stays_404():
    inner, source = Losing(), Rechecked(CATALOG)
    call = await drive(ModelResolutionMiddleware(inner, catalog=source), post(), body=chat())
    assert (call.status, call.json()["error"]["code"]) == (404, "model_not_found")
    assert len(inner.asked) == len(source.again) == 1


async def test_nothing_is_resolved_again_after_commit():
    inner, source = Losing(after_commit=True), Rechecked(CATALOG)
    with contextlib.suppress(AttemptError):
        await drive(ModelResolutionMiddleware(inner, catalog=source), post(), body=chat("both"))
    assert (len(inner.asked), source.again) == (1, [])
