"""What holds for each layer, alone and stacked: ASGI's rules, and that nothing foreign is touched."""

from __future__ import annotations

import asyncio
import copy

import pytest

from smartrouter_asgi.state import SCOPE_KEY, RequestState
from smartrouter_asgi.testing.asgi import drive, http_scope

from .layers import CHAT, LAYERS, STACKS, Inner, Witness, chat, post, silent, soon, status, turns, whole_body

stacks = pytest.mark.parametrize("wrap", STACKS.values(), ids=STACKS)
ALPHA_CHAT = chat("alpha")


@stacks
@pytest.mark.parametrize("kind", ["websocket", "lifespan", "quux"])
async def test_other_scopes_pass_untouched(wrap, kind):
    """Scope, receive and send are the very objects that came."""
    seen = []

    async def inner(*given):
        seen.append(given)

    async def receive():
        raise AssertionError("nobody asked")

    scope = {"type": kind}
    await wrap(inner)(scope, receive, silent)
    [(got_scope, got_receive, got_send)] = seen
    assert got_scope is scope
    assert got_receive is receive
    assert got_send is silent
    assert scope == {"type": kind}


@stacks
async def test_the_scope_is_copied_and_gets_one_key(wrap):
    """The outer scope stays as it was; the inner one has one key more, holding the state."""
    scope = post(headers=[(b"x-mine", b"1")])
    before = copy.deepcopy(scope)
    inner = Inner()
    await drive(wrap(inner), scope, body=ALPHA_CHAT)
    assert scope == before
    [seen] = inner.scopes
    assert set(seen) - set(scope) == {SCOPE_KEY}
    assert {key: seen[key] for key in scope} == scope
    assert isinstance(seen[SCOPE_KEY], RequestState)


@stacks
async def test_headers_and_body_of_the_inner_app_pass_as_they_are(wrap):
    """Order, case and duplicates of headers stay, and every byte of every chunk; one request id is added."""
    headers = [(b"Set-Cookie", b"a=1"), (b"x-b", b"\xff"), (b"set-cookie", b"b=2")]
    chunks = [b"", b"\x00\xff", "\u2028".encode(), b"\r\n\r\n", b"end"]

    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 207, "headers": list(headers)})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    call = await drive(wrap(inner), post(), body=ALPHA_CHAT)
    assert call.status == 207
    assert [pair for pair in call.headers if pair[0] != b"x-request-id"] == headers
    assert call.header("x-request-id")
    assert [m.get("body", b"") for m in call.sent[1:]] == [*chunks, b""]


@stacks
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("HEAD", "/x"), ("OPTIONS", CHAT), ("POST", "/upload"), ("PUT", CHAT), ("POST", CHAT + "/x")],
)
async def test_foreign_requests_reach_the_app_byte_for_byte(wrap, method, path):
    """Whatever the layers are not for comes to the inner app with its whole body, and its answer comes back."""
    parts = [b"\x00binary", b"", b"\xff" * 70_000, b"{not json"]
    inner = Inner(status=201, body=b"theirs")
    call = await drive(wrap(inner), http_scope(method, path, query=b"a=%20b"), body=parts)
    assert (call.status, call.body) == (201, b"theirs")
    assert inner.bodies == [b"".join(parts)]
    assert inner.scopes[0]["query_string"] == b"a=%20b"


async def test_resolution_does_not_even_touch_foreign_requests():
    """Requests that are no inference keep their own scope, receive and send."""
    seen = []

    async def inner(*given):
        seen.append(given)

    async def receive():
        raise AssertionError("nobody asked")

    scope = http_scope("GET", "/")
    await LAYERS["resolution"](inner)(scope, receive, silent)
    assert all(mine is given for mine, given in zip(seen[0], (scope, receive, silent), strict=True))


@pytest.mark.parametrize("name", [name for name in STACKS if "envelope" not in name and name != "all"])
async def test_foreign_exceptions_pass(name):
    """An exception that is not ours goes on to the server, and nothing was sent."""
    async with drive(STACKS[name](Inner(ZeroDivisionError("theirs"))), post(), body=ALPHA_CHAT) as call:
        with pytest.raises(ZeroDivisionError, match="theirs"):
            await call.ended()
    assert call.sent == []


@pytest.mark.parametrize("name", ["envelope", "envelope + gate", "all"])
async def test_the_envelope_answers_for_foreign_exceptions(name, caplog):
    """Under the envelope they are an answer of ours, logged, and tell the client nothing."""
    call = await drive(STACKS[name](Inner(ZeroDivisionError("secret"))), post(), body=ALPHA_CHAT)
    assert call.status == 500
    assert call.json()["error"]["code"] == "internal_error"
    assert b"secret" not in call.body
    assert "ZeroDivisionError: secret" in caplog.text


@stacks
async def test_an_exception_after_commit_passes(wrap):
    """What was committed cannot be taken back: the server gets the exception and cuts the connection."""

    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("theirs")

    async with drive(wrap(inner), post(), body=ALPHA_CHAT) as call:
        with pytest.raises(ZeroDivisionError):
            await call.ended()
    assert [m["type"] for m in call.sent] == ["http.response.start"]


WATCHED = [name for name in STACKS if name != "envelope"]


@pytest.mark.parametrize("commit", [True, False], ids=["streaming", "before commit"])
@pytest.mark.parametrize("name", WATCHED)
async def test_a_client_that_leaves_cancels_the_inner_app(name, commit):
    """The inner app is cancelled, the call ends quietly, and nothing is sent any more."""
    inner = Witness(commit=commit)
    async with drive(STACKS[name](inner), post(), body=ALPHA_CHAT) as call:
        await soon(inner.entered)
        sent = len(call.sent)
        call.disconnect()
        await call.ended()
    assert inner.cancelled
    assert len(call.sent) == sent


@stacks
async def test_a_client_that_leaves_in_its_body_is_never_served(wrap):
    """A body cut short reaches no inner app as if it were whole."""
    bodies = []

    async def inner(scope, receive, send):
        message = await receive()
        while message["type"] == "http.request":
            bodies.append(message)
            message = await receive()

    async with drive(wrap(inner), post(), messages=[{"type": "http.request", "body": b"{", "more_body": True}]) as call:
        await call.idle()
        call.disconnect()
        await call.ended()
    assert call.sent == []
    assert all(message["more_body"] for message in bodies)


@stacks
async def test_a_disconnect_is_never_invented(wrap):
    """While the client stays, an inner app that listens for it waits; when it leaves, it is told or cancelled."""
    heard = []
    listening = asyncio.Event()

    async def inner(scope, receive, send):
        await whole_body(receive)
        listening.set()
        heard.append(await receive())

    async with drive(wrap(inner), post(), body=ALPHA_CHAT) as call:
        await soon(listening)
        await turns()
        assert heard == []
        call.disconnect()
        await call.ended()
    assert heard in ([], [{"type": "http.disconnect"}])


@stacks
async def test_work_after_a_complete_answer_goes_on(wrap):
    """A background task of the inner app is not cancelled because the client has read its answer and left."""
    finished = asyncio.Event()

    async def inner(scope, receive, send):
        await status(200)(send)
        await receive()
        await receive()  # the server says disconnect once the answer is out
        await turns()
        finished.set()

    call = await drive(wrap(inner), post(), body=ALPHA_CHAT)
    assert call.complete
    assert finished.is_set()


@stacks
async def test_a_receive_that_never_waits_does_not_hang_the_server(wrap):
    """Some tests and servers repeat the body for ever; that is no disconnect, and no endless loop."""

    async def receive():
        return {"type": "http.request", "body": ALPHA_CHAT, "more_body": False}

    sent = []

    async def send(message):
        sent.append(message["type"])

    async def inner(scope, receive, send):
        await whole_body(receive)
        await turns()
        await status(200)(send)

    async with asyncio.timeout(5):
        await wrap(inner)(post(), receive, send)
    assert sent == ["http.response.start", "http.response.body"]


@stacks
async def test_a_receive_that_raises_after_the_body_spoils_nothing(wrap):
    """A scripted receive that has run out is no reason to fail the request."""
    messages = [{"type": "http.request", "body": ALPHA_CHAT, "more_body": False}]

    async def receive():
        return messages.pop(0)

    sent = []

    async def send(message):
        sent.append(message["type"])

    async def inner(scope, receive, send):
        await whole_body(receive)
        await turns()
        await status(200)(send)

    await wrap(inner)(post(), receive, send)
    assert sent == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("name", WATCHED)
async def test_two_requests_at_once_do_not_see_each_other(name):
    """Nothing of a request is kept on the layer."""
    inner = Witness()
    app = STACKS[name](inner)
    async with drive(app, post(), body=ALPHA_CHAT) as first, drive(app, post(), body=ALPHA_CHAT) as second:
        await first.received(b"begun")
        await second.received(b"begun")
        first.disconnect()
        await first.ended()
        inner.go_on.set()
        await second.ended()
    assert first.body == b"begun "
    assert second.body == b"begun ended"
    assert first.header("x-request-id") != second.header("x-request-id")
