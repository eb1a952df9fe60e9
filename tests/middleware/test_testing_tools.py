"""The tools for tests: the clock, `drive`, the scripted backend."""

from __future__ import annotations

import asyncio
import json

import pytest

from smartrouter_asgi import Backend, BackendDispatch, Deployment
from smartrouter_asgi.exceptions import AttemptError, FailureKind
from smartrouter_asgi.testing.asgi import drive, http_scope
from smartrouter_asgi.testing.backend import ScriptedBackend
from smartrouter_asgi.testing.clock import ManualClock
from smartrouter_asgi.wire.call import parse_call

from .layers import Inner, chat, post, status, whole_body

CALL = parse_call("chat", chat())
STREAM = parse_call("chat", chat(stream=True))
PLACE = Deployment(backend="scripted", model="model")


async def test_the_clock_moves_when_told():
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0.5)
    await clock.sleep(1.5)
    assert clock() == 7.0
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


async def test_drive_runs_an_app_to_its_end():
    call = await drive(Inner(status(201, b"[1]", ((b"X-A", b"1"),))), http_scope("GET", "/x"))
    assert (call.status, call.body, call.json(), call.complete) == (201, b"[1]", [1], True)
    assert (call.header("x-a"), call.header("x-b")) == ("1", None)
    assert call.headers == [(b"X-A", b"1")]


async def test_drive_gives_the_body_in_parts():
    inner = Inner()
    await drive(inner, post(), body=[b"a", b"", b"b"])
    await drive(inner, post(), body=[])
    assert inner.bodies == [b"ab", b""]


async def test_drive_raises_what_the_app_raises():
    with pytest.raises(ZeroDivisionError):
        await drive(Inner(ZeroDivisionError()), post())
    async with drive(Inner(ZeroDivisionError()), post()) as call:
        assert isinstance(await call.failure(), ZeroDivisionError)
    async with drive(Inner(), post()) as call:
        assert await call.failure() is None


async def test_drive_tells_that_an_app_ended_too_early():
    async def nothing(scope, receive, send):
        return

    async with drive(nothing, post()) as call:
        with pytest.raises(AssertionError, match="ended first"):
            await call.started()


async def test_drive_bounds_every_wait():
    async def waits(scope, receive, send):
        await asyncio.Event().wait()

    async with drive(waits, post(), timeout_s=0.01) as call:
        with pytest.raises(TimeoutError):
            await call.started()
        with pytest.raises(TimeoutError):
            await call.ended()


async def test_drive_ends_the_app_with_the_block():
    ended = []

    async def waits(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async with drive(waits, post()):
        await asyncio.sleep(0)
    assert ended == [True]


@pytest.mark.parametrize(
    "kinds",
    [["http.response.body"], ["http.response.start"] * 2, ["http.response.start", *["http.response.body"] * 2]],
)
async def test_drive_refuses_messages_out_of_order(kinds):
    async def wrong(scope, receive, send):
        for kind in kinds:
            await send({"type": kind, "status": 200})

    with pytest.raises(AssertionError, match=r"out of order|after the last"):
        await drive(wrong, post())


async def test_drive_plays_other_protocols():
    """A lifespan, step by step."""

    async def app(scope, receive, send):
        for step in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{step}"
            await send({"type": f"lifespan.{step}.complete"})

    async with drive(app, {"type": "lifespan"}, messages=[{"type": "lifespan.startup"}]) as call:
        await call.idle()
        assert len(call.sent) == 1
        call.push({"type": "lifespan.shutdown"})
        await call.ended()
    assert call.sent[-1] == {"type": "lifespan.shutdown.complete"}


async def test_after_a_complete_answer_receive_says_disconnect():
    heard = []

    async def app(scope, receive, send):
        await whole_body(receive)
        await status(200)(send)
        heard.append(await receive())

    await drive(app, post())
    assert heard == [{"type": "http.disconnect"}]


def test_the_scripted_backend_is_a_backend():
    assert isinstance(ScriptedBackend(), Backend)


async def test_text_takes_the_shape_of_the_call():
    backend = ScriptedBackend(answers=["Hello", ["Hel", "lo"], ["Hel", "lo"]])
    for _ in range(2):
        upstream = await backend.open(CALL, PLACE)
        answer = await upstream.read()
        assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hello"
        assert answer.usage.completion_tokens == 1
    upstream = await backend.open(STREAM, PLACE)
    pieces = [piece async for read in upstream.pieces() for piece in read]
    chunks = [json.loads(piece.data[6:]) for piece in pieces[:-1]]
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["Hel", "lo", None]
    assert pieces[-1].data == b"data: [DONE]\n\n"


async def test_bytes_go_out_as_they_are():
    events = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    backend = ScriptedBackend(answers=[b'{"ok": 1}', events])
    assert (await (await backend.open(CALL, PLACE)).read()).body == b'{"ok": 1}'
    upstream = await backend.open(STREAM, PLACE)
    assert b"".join([piece.data async for read in upstream.pieces() for piece in read]) == events


async def test_failures_are_raised_where_they_stand():
    """Before the first text it is `open` that fails."""
    error = AttemptError("down", kind=FailureKind.CONNECT)
    backend = ScriptedBackend(answers=[error, ["Hel", error]])
    with pytest.raises(AttemptError, match="down"):
        await backend.open(CALL, PLACE)
    upstream = await backend.open(STREAM, PLACE)
    with pytest.raises(AttemptError, match="down"):
        [piece async for piece in upstream.pieces()]
    await upstream.aclose()
    assert [call.closed.is_set() for call in backend.calls] == [True, True]
    assert backend.active == 0


async def test_answers_may_depend_on_the_call():
    backend = ScriptedBackend(default=lambda call, deployment: f"{call.model} at {deployment.model}")
    call = await drive(BackendDispatch(backend), post(), body=chat("m"))
    assert call.json()["choices"][0]["message"]["content"] == "m at m"


async def test_loads_and_unloads_are_noted():
    backend = ScriptedBackend(sizes={"model": 7})
    await backend.load("model")
    assert [(m.id, m.vram_bytes) for m in await backend.running()] == [("model", 7)]
    await backend.unload("model")
    assert (backend.loads, backend.unloads, backend.loaded) == (["model"], ["model"], [])
    backend.loading = AttemptError("no", kind=FailureKind.MODEL_FAILED)
    with pytest.raises(AttemptError):
        await backend.load("model")
    assert backend.loaded == []


async def test_a_backend_that_is_down_says_so():
    backend = ScriptedBackend(models=["a", "b"])
    assert [model.id for model in await backend.list_models()] == ["a", "b"]
    backend.failure = AttemptError("down", kind=FailureKind.CONNECT)
    for ask in (backend.ping, backend.list_models, backend.running):
        with pytest.raises(AttemptError):
            await ask()
