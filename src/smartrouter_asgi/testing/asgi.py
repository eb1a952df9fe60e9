"""An ASGI app called by hand, message by message: no server, no socket, and the client may leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Self

from ..types import ASGIApp, Headers, Message, Scope

DEFAULT_TIMEOUT_S = 10.0


def http_scope(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    root_path: str = "",
    query: bytes = b"",
) -> Scope:
    """Return an HTTP scope as a server makes it. Below a mount, `path` holds `root_path` too."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": root_path,
        "headers": [(b"host", b"testserver"), *((name.lower(), value) for name, value in headers)],  # as servers do
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }


def drive(
    app: ASGIApp,
    scope: Scope | None = None,
    *,
    body: bytes | Iterable[bytes] = b"",
    messages: Iterable[Message] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Drive:
    """Call an app with one scope (a chat request's when none is given) and play its server.

    Awaited, it runs the app to its end: `call = await drive(app, scope, body=b"...")`. As a context manager it goes
    step by step, and ends the app when the block does:

        async with drive(app, scope, body=[b"first half", b"rest"]) as call:
            await call.started()
            call.disconnect()
            await call.ended()

    `messages` replaces the body's messages, for other scope types or an unusual order. Every wait is bounded by
    `timeout_s` (`TimeoutError`). What the app raises is raised by the wait that sees it.
    """
    if messages is None:
        parts = [body] if isinstance(body, bytes) else list(body) or [b""]
        last = len(parts) - 1
        messages = [{"type": "http.request", "body": part, "more_body": n < last} for n, part in enumerate(parts)]
    return Drive(app, http_scope() if scope is None else scope, messages, timeout_s=timeout_s)


class Drive:
    """One call of an ASGI app; made by `drive`.

    As with a real server, `receive` gives the scripted messages and then waits, until `disconnect` or until the answer
    is complete; what is sent after a disconnect goes nowhere. A message out of order is an `AssertionError` in the app.
    """

    def __init__(self, app: ASGIApp, scope: Scope, messages: Iterable[Message], *, timeout_s: float) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        """What the app has sent, in order, up to the disconnect."""
        self.disconnected = False
        self.waiting = 0
        """How many calls of `receive` wait now for a message that has not come."""
        self.taken = 0
        """How many scripted messages the app has received."""
        self._app = app
        self._messages = deque(messages)
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told = False

    # -- what came

    @property
    def status(self) -> int:
        """The status sent; 0 before that."""
        return int(self.sent[0]["status"]) if self._has_started else 0

    @property
    def headers(self) -> Headers:
        """The headers sent, as pairs."""
        return list(self.sent[0].get("headers", ())) if self._has_started else []

    @property
    def body(self) -> bytes:
        """What has been sent of the body."""
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")

    @property
    def complete(self) -> bool:
        """Whether the last message of an HTTP answer was sent."""
        last = self.sent[-1] if self.sent else {"type": ""}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    def header(self, name: str) -> str | None:
        """Return one header; None when it is absent. Raises `AssertionError` when it was sent twice."""
        found = [value for key, value in self.headers if key.lower() == name.lower().encode()]
        assert len(found) < 2, f"{name} was sent {len(found)} times: {found}"
        return found[0].decode("latin-1") if found else None

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    # -- what the client does

    def push(self, *messages: Message) -> None:
        """Give the app more messages to receive."""
        self._messages.extend(messages)
        self._note()

    def disconnect(self) -> None:
        """Let the client leave; messages not received yet come before that."""
        self.disconnected = True
        self._note()

    # -- waiting

    async def until(self, test: Callable[[Drive], bool]) -> Self:
        """Run the app until `test`, of what it sends and receives, holds.

        Raises what the app raised, `AssertionError` when it ended too early.
        """
        async with asyncio.timeout(self._timeout_s):
            while not test(self):
                if self._running.done():
                    self._tell()
                    raise AssertionError(f"the app ended first; it had sent {self.sent}")
                await self._changed.wait()
        return self

    async def started(self) -> Self:
        """Wait for `http.response.start`."""
        return await self.until(lambda call: call._has_started)

    async def received(self, data: bytes) -> Self:
        """Wait until the body holds these bytes."""
        return await self.until(lambda call: data in call.body)

    async def idle(self) -> Self:
        """Wait until the app, or a layer for it, has taken all messages and waits for one that has not come."""
        return await self.until(lambda call: call.waiting > 0 and not call._messages)

    async def ended(self) -> Self:
        """Wait for the end of the app. Raises what it raised."""
        async with asyncio.timeout(self._timeout_s):
            await asyncio.wait({self._running})
        self._tell()
        return self

    async def failure(self) -> BaseException | None:
        """Wait for the end of the app and return what it raised, if it did."""
        async with asyncio.timeout(self._timeout_s):
            await asyncio.wait({self._running})
        self._told = True
        return self._running.exception()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._run().__await__()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._call())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._running
        task.cancel()
        await asyncio.wait({task}, timeout=self._timeout_s)
        if exc is None and task.done() and not task.cancelled() and not self._told:
            self._tell()

    async def _run(self) -> Self:
        async with self:
            return await self.ended()

    @property
    def _running(self) -> asyncio.Task[None]:
        assert self._task is not None, "await it, or use it as a context manager"
        return self._task

    @property
    def _has_started(self) -> bool:
        return bool(self.sent) and self.sent[0]["type"] == "http.response.start"

    async def _call(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        finally:
            self._note()

    def _tell(self) -> None:
        """Raise what the app raised, if it did."""
        self._told = True
        self._running.result()

    def _note(self) -> None:
        """Wake everybody who waits; each looks again and waits for the next change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _receive(self) -> Message:
        self.waiting += 1
        self._note()
        try:
            while not self._messages:
                if self.disconnected or self.complete:
                    return {"type": "http.disconnect"}
                await self._changed.wait()
            self.taken += 1
            return self._messages.popleft()
        finally:
            self.waiting -= 1

    async def _send(self, message: Message) -> None:
        if self.disconnected:
            return
        if self.scope["type"] == "http":
            kind = message["type"]
            assert not self.complete, f"{kind} after the last message of the answer"
            assert (kind == "http.response.start") is not self._has_started, f"{kind} out of order"
        self.sent.append(message)
        self._note()
