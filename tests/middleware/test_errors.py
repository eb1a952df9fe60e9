"""Errors as answers: by the outermost of ours, in OpenAI's shape, once."""

from __future__ import annotations

import re

import pytest

from smartrouter_asgi import ErrorEnvelopeMiddleware, SmartRouterError
from smartrouter_asgi.events import RequestFinished
from smartrouter_asgi.exceptions import MethodNotAllowedError, QueueFullError, RequestError, RouteExhaustedError
from smartrouter_asgi.testing.asgi import drive, http_scope

from .layers import LAYERS, Inner, chat, enveloped, post, resilient, resolved, status


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events = []

    def on_event(self, event):
        self.events.append(event)


async def test_an_error_becomes_the_openai_envelope():
    """Status, four fields, a request id."""
    error = RequestError("no such thing", param="thing")
    call = await drive(enveloped(Inner(error)), post())
    assert call.status == 400
    assert call.header("content-type") == "application/json"
    assert call.header("content-length") == str(len(call.body))
    assert call.json() == {
        "error": {
            "message": "no such thing",
            "type": "invalid_request_error",
            "param": "thing",
            "code": "invalid_request",
        }
    }


@pytest.mark.parametrize(
    ("seconds", "whole", "exact"), [(None, "1", "1000"), (0.0, "1", "0"), (2.1, "3", "2100"), (30.0, "30", "30000")]
)
async def test_a_503_says_when_to_come_back(seconds, whole, exact):
    """Whole seconds for everybody, rounded up, and milliseconds for who reads them."""
    call = await drive(enveloped(Inner(QueueFullError("full", retry_after_s=seconds))), post())
    assert call.status == 503
    assert call.header("retry-after") == whole
    assert call.header("retry-after-ms") == exact


async def test_a_400_says_nothing_of_coming_back():
    call = await drive(enveloped(Inner(RequestError("no"))), post())
    assert call.header("retry-after") is None


async def test_a_405_names_the_methods():
    call = await drive(enveloped(Inner(MethodNotAllowedError("no", allow=("POST", "GET")))), post())
    assert (call.status, call.header("allow")) == (405, "POST, GET")


async def test_an_exhausted_route_tells_clients_not_to_retry():
    """Only there: the router has done the retrying."""
    call = await drive(enveloped(Inner(RouteExhaustedError(QueueFullError("full"), ()))), post())
    assert call.header("x-should-retry") == "false"
    assert call.json()["error"]["attempts"] == []


async def test_head_gets_no_body():
    call = await drive(enveloped(Inner(RequestError("no"))), http_scope("HEAD", "/"))
    assert (call.status, call.body) == (400, b"")


@pytest.mark.parametrize("kept", [b"abc-1.2_3", b"x" * 128])
async def test_a_good_request_id_is_kept(kept):
    call = await drive(enveloped(Inner()), post(headers=[(b"X-Request-Id", kept)]))
    assert call.header("x-request-id") == kept.decode()


@pytest.mark.parametrize("bad", [b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x", b"\xff", b"<script>"])
async def test_a_bad_request_id_is_replaced(bad):
    """What a client sends never gets into a header or a log unless it is harmless."""
    call = await drive(enveloped(Inner()), post(headers=[(b"x-request-id", bad)]))
    assert re.fullmatch("[0-9a-f]{24}", call.header("x-request-id"))


@pytest.mark.parametrize("wrap", LAYERS.values(), ids=LAYERS)
async def test_nested_in_another_of_ours_there_is_one_id(wrap):
    """An app of ours inside another adds no second request id: the outer one's is the request's."""
    inside = ErrorEnvelopeMiddleware(Inner(RequestError("no")))
    call = await drive(wrap(inside), post(headers=[(b"x-request-id", b"mine")]), body=chat("alpha"))
    assert call.status == 400
    assert call.header("x-request-id") == "mine"


async def test_the_outermost_of_ours_renders():
    """Inner layers raise, the outermost answers, in its own way."""
    app = ErrorEnvelopeMiddleware(resolved(resilient(Inner())), encoder=lambda exc: exc.code.encode())
    call = await drive(app, post(), body=b"{")
    assert (call.status, call.body) == (400, b"invalid_json")


async def test_an_error_of_ours_after_commit_passes():
    async def begun(send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise QueueFullError("full")

    async with drive(enveloped(Inner(begun)), post()) as call:
        with pytest.raises(SmartRouterError, match="full"):
            await call.ended()
    assert len(call.sent) == 1


async def test_the_observer_hears_of_every_request_once():
    """Good, bad and broken ones, with what was answered."""
    notes = Notes()
    inner = Inner(status(204), RequestError("no"), ZeroDivisionError())
    app = ErrorEnvelopeMiddleware(inner, observer=notes)
    for _ in range(3):
        await drive(app, post())
    assert [type(event) for event in notes.events] == [RequestFinished] * 3
    assert [(e.status, e.outcome) for e in notes.events] == [
        (204, "ok"),
        (400, "invalid_request"),
        (500, "internal_error"),
    ]
