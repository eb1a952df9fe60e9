"""A request that is struck at a chosen turn of the event loop: cancelled natively, by a host's scope, left, or both.

The loop is counted in its own turns (select, then all that is ready), so that no ticker keeps it busy: a turn is a
moment at which something happened. Whatever ends a request comes between two turns, when futures may be done already
whose tasks have not been woken yet; that is where a cancellation is most easily lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import anyio

from smartrouter_asgi.testing import http_scope
from smartrouter_asgi.types import ASGIApp, Message

Blow = Literal["task.cancel", "host scope", "disconnect", "disconnect, task.cancel"]
BOUND_S = 5.0


class CountedLoop(asyncio.SelectorEventLoop):
    """Calls `on_turn` after each of its turns."""

    on_turn: Callable[[], None] | None = None

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        if self.on_turn is not None:
            self.on_turn()


def run_counted(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a counted loop; what the loop had to report (a lost exception, say) is a failure."""
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
        runner.run(main)
    assert reports == []


class StruckCall:
    """One call of an app, as a server makes it, with a blow at turn `at` (None: it ends by itself).

    `receive` waits as a server's does and tells a disconnect at once when the client has left, or the answer is
    complete; what is sent after that goes nowhere. A message out of order is an `AssertionError` in the app.
    """

    def __init__(self, blow: Blow, at: int | None) -> None:
        self.blow = blow
        self.at = at
        self.turns = 0
        self.struck = False
        self.sent: list[Message] = []
        self.on_turn: Callable[[], None] = lambda: None
        """What the world around does after each turn, until the blow."""
        self._parts: list[Message] = []
        self._gone = False
        self._cancelled = False
        self._over = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    async def run(self, app: ASGIApp, body: dict[str, Any]) -> None:
        """Call the app and wait for its end; it must come, and in the way the blow demands."""
        payload = json.dumps(body).encode()
        self._parts = [
            {"type": "http.request", "body": payload[:10], "more_body": True},
            {"type": "http.request", "body": payload[10:]},
        ]
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountedLoop)
        self._task = task = asyncio.create_task(self._call(app))
        loop.on_turn = self._turn
        try:
            await asyncio.wait({task}, timeout=BOUND_S)
        finally:
            loop.on_turn = None
        assert task.done(), f"the app still runs {BOUND_S} s after {self}"
        if task.cancelled():
            assert self.struck, "nobody has cancelled it"
            assert "task.cancel" in self.blow, f"a CancelledError of nobody's came out of the app after {self}"
        else:
            task.result()
            assert not self._cancelled or self.complete, f"a cancellation was lost: {self}"

    def __str__(self) -> str:
        return f"a {self.blow} at turn {self.at}, when {len(self.sent)} messages were sent"

    async def _call(self, app: ASGIApp) -> None:
        if self.blow == "host scope":
            with self._scope:
                await app(http_scope(), self._receive, self._send)
        else:
            await app(http_scope(), self._receive, self._send)

    def _turn(self) -> None:
        task = self._task
        if task is None or task.done() or self._cancelled:
            return
        if self.struck:  # the second of two blows comes in the next turn
            self._cancelled = self.blow == "disconnect, task.cancel" and task.cancel()
        elif self.turns != self.at:
            self.turns += 1
            self.on_turn()
        else:
            self.struck = True
            if self.blow == "task.cancel":
                self._cancelled = task.cancel()
            elif self.blow == "host scope":
                self._scope.cancel()
            else:
                self._gone = True
                self._over.set()

    async def _receive(self) -> Message:
        await asyncio.sleep(0)
        if self._parts and not self._gone:
            return self._parts.pop(0)
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self._gone:
            return
        assert not self.complete, f"{message['type']} after the last message of the answer"
        assert (message["type"] == "http.response.start") is not bool(self.sent), f"{message['type']} out of order"
        self.sent.append(message)
        if self.complete:
            self._over.set()
