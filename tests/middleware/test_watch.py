"""The one extra task of a request: what ends the wait ends the work by an anyio scope, and never leaves it behind."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from smartrouter_asgi._asgi import BodyLimits, with_body
from smartrouter_asgi.state import RequestState
from smartrouter_asgi.types import Message, Receive, Scope, Send

SCOPE: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
END: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class Client:
    """The server's side of a request: the body, then silence until `leave` is called."""

    def __init__(self, then: Exception | None = None) -> None:
        self.left = asyncio.Event()
        self.asked = asyncio.Event()
        self.then = then
        self._body = True

    async def receive(self) -> Message:
        if self._body:
            self._body = False
            return {"type": "http.request", "body": b"{}", "more_body": False}
        self.asked.set()
        if self.then is not None:
            raise self.then
        await self.left.wait()
        return {"type": "http.disconnect"}


class Work:
    """An app that works until it is cancelled, and notes how that was."""

    def __init__(self, cleanup: Callable[[], Awaitable[None]] | None = None) -> None:
        self.started = asyncio.Event()
        self.shielded = False
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self._cleanup = cleanup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.task = asyncio.current_task()
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):  # as httpcore closes a connection
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                self.shielded = True
                if self._cleanup is not None:
                    await self._cleanup()
            self.ended = True


def state() -> RequestState:
    return RequestState(request_id="r", started=0.0)


async def send(message: Message) -> None:
    await asyncio.sleep(0)


def serving(app: object, client: Client, told: RequestState | None = None) -> asyncio.Task[None]:
    told = told or state()
    return asyncio.create_task(with_body(app, SCOPE, client.receive, send, told, BodyLimits()))  # type: ignore[arg-type]


async def test_a_native_cancellation_reaches_the_work_as_one_of_a_scope():
    """The work's own shields hold, and the cancelled task ends after its work, as cancelled."""
    client, work = Client(), Work()
    task = serving(work, client)
    await work.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.shielded
    assert work.ended
    assert work.task is not None
    assert work.task is not task
    assert not work.task.cancelled(), "it was cancelled by the scope, which took the cancellation back"


async def test_who_cancels_twice_is_not_kept_waiting_for_ever():
    client, never = Client(), asyncio.Event()
    work = Work(cleanup=lambda: never.wait())  # type: ignore[arg-type, return-value]
    task = serving(work, client)
    await work.started.wait()
    task.cancel()
    while not work.shielded:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.task is not None
    assert work.task.done()


async def test_a_host_s_scope_cancels_the_work_and_waits_for_it():
    client, work = Client(), Work()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: with_body(work, SCOPE, client.receive, send, state(), BodyLimits()))
            await work.started.wait()
            scope.cancel()
    assert scope.cancelled_caught
    assert work.shielded
    assert work.ended


async def test_a_client_that_leaves_cancels_the_work_and_the_call_returns():
    client, work, told = Client(), Work(), state()
    task = serving(work, client, told)
    await work.started.wait()
    client.left.set()
    await task
    assert work.ended
    assert told.disconnected
    assert told.outcome == "client_disconnected"


async def test_work_that_ends_ends_the_wait_for_the_client():
    """A server that goes on waiting after a complete answer is not waited for, and nothing stays cancelled."""
    client, told = Client(), state()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.asked.wait()
        told.complete = True
        await send(END)

    async def request() -> int:
        await with_body(app, SCOPE, client.receive, send, told, BodyLimits())
        current = asyncio.current_task()
        assert current is not None
        await asyncio.sleep(0)
        return current.cancelling()

    assert await asyncio.create_task(request()) == 0
    assert not told.disconnected


async def test_what_the_work_raises_is_raised_here():
    client = Client()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.asked.wait()
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await serving(app, client)


async def test_a_receive_that_fails_counts_as_a_client_that_stays(caplog: pytest.LogCaptureFixture):
    client, told, done = Client(OSError("odd")), state(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.asked.wait()
        await asyncio.sleep(0)
        done.set()

    with caplog.at_level(logging.DEBUG, "smartrouter_asgi"):
        await serving(app, client, told)
    assert done.is_set()
    assert not told.disconnected
    assert "a disconnect cannot be seen" in caplog.text


async def test_cancelled_in_the_very_step_in_which_the_work_ends_it_is_cancelled():
    """The end of the work must not swallow a cancellation that came from outside."""
    client, told = Client(), state()
    tasks: list[asyncio.Task[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.asked.wait()
        tasks[0].cancel()

    tasks.append(serving(app, client, told))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_exactly_one_more_task_and_it_sees_the_context_of_the_request():
    client, variable = Client(), contextvars.ContextVar[str]("variable")
    seen: list[tuple[str, int]] = []
    before = len(asyncio.all_tasks())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await client.asked.wait()
        seen.append((variable.get(), len(asyncio.all_tasks()) - before))

    variable.set("of the host")
    await with_body(app, SCOPE, client.receive, send, state(), BodyLimits())
    assert seen == [("of the host", 1)]
    assert len(asyncio.all_tasks()) == before
