"""Dispatch alone: one backend, no other layer."""

from __future__ import annotations

import asyncio

import pytest

from smartrouter_asgi import BackendDispatch, Timeouts
from smartrouter_asgi.exceptions import AttemptError, FailureKind, StackOrderError
from smartrouter_asgi.testing.asgi import drive, http_scope
from smartrouter_asgi.testing.backend import ScriptedBackend

from .layers import CHAT, chat, post, silent, soon

DOWN = AttemptError("engine down", kind=FailureKind.CONNECT, status=503, retry_after_s=2.0)


async def test_it_sends_the_clients_model_name_and_relays_the_answer():
    backend = ScriptedBackend("mine", answers=["Hello"])
    call = await drive(BackendDispatch(backend), post(), body=chat("whatever", temperature=1))
    assert call.status == 200
    assert call.json()["choices"][0]["message"]["content"] == "Hello"
    assert call.header("x-smartrouter-backend") == "mine"
    assert call.header("x-smartrouter-model") == "whatever"
    assert call.header("x-smartrouter-attempts") == "1"
    assert call.header("content-length") == str(len(call.body))
    assert backend.calls[0].payload["temperature"] == 1
    assert backend.calls[0].closed.is_set()


async def test_it_streams_as_the_engine_speaks():
    """Each piece is sent on when it comes, not when the stream ends."""
    pause = asyncio.Event()
    backend = ScriptedBackend(answers=[["Hel", pause, "lo"]])
    async with drive(BackendDispatch(backend), post(), body=chat(stream=True)) as call:
        await call.received(b'"Hel"')
        assert b'"lo"' not in call.body
        pause.set()
        await call.ended()
    assert call.header("content-type") == "text/event-stream; charset=utf-8"
    assert call.header("content-length") is None
    assert call.body.endswith(b"data: [DONE]\n\n")
    assert backend.calls[0].finished


async def test_nothing_is_sent_before_the_first_real_event():
    """A role alone commits nothing: an engine that fails after it can still be answered for."""
    role = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n'
    pause = asyncio.Event()
    backend = ScriptedBackend(answers=[[role, pause, DOWN]])
    async with drive(BackendDispatch(backend), post(), body=chat(stream=True)) as call:
        await backend.called()
        await call.idle()
        assert call.sent == []
        pause.set()
        await call.ended()
    assert (call.status, call.json()["error"]["code"]) == (503, "upstream_error")


async def test_a_failure_before_commit_is_an_answer():
    call = await drive(BackendDispatch(ScriptedBackend(answers=[DOWN])), post(), body=chat())
    assert (call.status, call.header("retry-after")) == (503, "2")
    assert call.json()["error"]["message"] == "engine down"


async def test_a_failure_after_commit_is_one_event_without_done():
    broken = AttemptError("cut off", kind=FailureKind.RESET, code="upstream_disconnected")
    call = await drive(BackendDispatch(ScriptedBackend(answers=[["Hel", broken]])), post(), body=chat(stream=True))
    assert call.status == 200
    last = call.body.rstrip().split(b"\n\n")[-1]
    assert b'"code":"upstream_disconnected"' in last
    assert b"[DONE]" not in call.body


@pytest.mark.parametrize("answer", [asyncio.Event(), ["Hel", asyncio.Event()]], ids=["before", "after commit"])
async def test_a_client_that_leaves_stops_the_engine(answer):
    backend = ScriptedBackend(answers=[answer])
    async with drive(BackendDispatch(backend), post(), body=chat(stream=True)) as call:
        record = await backend.called()
        await call.idle()
        call.disconnect()
        await call.ended()
        await soon(record.closed)
    assert backend.active == 0
    assert not record.finished


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("POST", "/nothing", "not_found", 404),
        ("GET", CHAT, "method_not_allowed", 405),
        ("HEAD", CHAT, None, 405),
        ("OPTIONS", "/v1/embeddings", "method_not_allowed", 405),
    ],
)
async def test_wrong_paths_and_methods_are_told(method, path, code, status):
    backend = ScriptedBackend()
    call = await drive(BackendDispatch(backend), http_scope(method, path))
    assert call.status == status
    assert code is None or call.json()["error"]["code"] == code
    assert call.header("allow") == ("POST" if status == 405 else None)
    assert backend.calls == []


@pytest.mark.parametrize(("body", "code"), [(b"{", "invalid_json"), (b'{"messages": []}', "invalid_request")])
async def test_a_bad_body_is_400(body, code):
    call = await drive(BackendDispatch(ScriptedBackend()), post(), body=body)
    assert (call.status, call.json()["error"]["code"]) == (400, code)


async def test_several_backends_need_a_plan():
    """The missing layer is named."""
    app = BackendDispatch({"a": ScriptedBackend("a"), "b": ScriptedBackend("b")})
    call = await drive(app, post(), body=chat())
    assert (call.status, call.json()["error"]["code"]) == (500, "stack_order")
    assert "ModelResolutionMiddleware" in call.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "quux"])
async def test_it_is_the_end_of_the_line_for_http_only(kind):
    async def receive():
        raise AssertionError("nobody asked")

    with pytest.raises(StackOrderError):
        await BackendDispatch(ScriptedBackend())({"type": kind}, receive, silent)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_deadline_is_504(stream):
    app = BackendDispatch(ScriptedBackend(answers=[asyncio.Event()]), timeouts=Timeouts(total_s=0.02))
    call = await drive(app, post(), body=chat(stream=stream))
    assert (call.status, call.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_silent_stream_is_504_before_and_an_event_after_commit():
    quick = Timeouts(first_token_s=0.02, idle_s=0.02)
    backend = ScriptedBackend(answers=[[asyncio.Event()], ["Hel", asyncio.Event()]])
    app = BackendDispatch(backend, timeouts=quick)
    before = await drive(app, post(), body=chat(stream=True))
    after = await drive(app, post(), body=chat(stream=True))
    assert (before.status, before.json()["error"]["code"]) == (504, "first_token_timeout")
    assert after.status == 200
    assert b"upstream_idle_timeout" in after.body
    assert backend.active == 0


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [(CHAT, chat(), "chat.completion"), ("/completions", b'{"model":"m","prompt":"x"}', "text_completion")],
)
async def test_the_operation_is_the_paths(path, body, kind):
    call = await drive(BackendDispatch(ScriptedBackend()), post(path), body=body)
    assert call.json()["object"] == kind
