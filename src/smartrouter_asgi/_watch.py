"""The one extra task of a request: the layers run in it, while the server's own task waits for the client to leave.

A server may cancel its task natively, again and again, and httpx 0.28 loses the connection of an exchange that is
cancelled so (encode/httpcore#1093). Here that never reaches an exchange: whatever ends the wait, a client that leaves,
a server's `task.cancel()` or a host's cancel scope, ends the work once, in the way that it bears, and waits for its
end. Around apps from outside the package that is an anyio scope.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio

from ._scopes import NativeWork, cancel_scope

if TYPE_CHECKING:
    from .state import RequestState
    from .types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("smartrouter_asgi")


async def run_watched(
    app: ASGIApp,
    scope: Scope,
    replay: Receive,
    send: Send,
    *,
    receive: Receive,
    state: RequestState,
    native: bool = False,
) -> None:
    """Call `app(scope, replay, send)` in a task of its own; it is cancelled once `receive` tells that the client left.

    Raises what the app raises. Cancelled, it cancels the app and waits for its end. A complete answer is not a client
    that left. `native`: whatever in the app does not bear a native cancellation has a `GuardedScope` around it.
    """
    work: NativeWork | anyio.CancelScope
    if native:
        state.work = work = NativeWork()
        task = asyncio.get_running_loop().create_task(_cancelled_natively(work, app, scope, replay, send))
        work.begin(task)
    else:
        state.work = work = cancel_scope()
        task = asyncio.get_running_loop().create_task(_within(work, app, scope, replay, send))
    try:
        message = await _Watch(task).receive(receive, state)
        if message is not None and message["type"] == "http.disconnect":
            state.leave()
            if not state.complete and not task.done():
                state.disconnected = True
                work.cancel()
        if not task.done():
            await _ended(task)
    except asyncio.CancelledError:
        work.cancel()
        with anyio.CancelScope(shield=True):
            while not task.done():
                try:
                    await _ended(task)
                except asyncio.CancelledError:  # somebody insists: nothing more can be kept in order
                    task.cancel()
        if not task.cancelled():
            task.exception()  # seen: the cancellation goes before it
        raise
    if not (task.cancelled() and work.cancel_called):  # ended before it had begun
        task.result()


class _Watch:
    """Asks the server for the client's next word until there is one, or until the work has ended."""

    __slots__ = ("_me", "_task", "_waiting", "_woken")

    def __init__(self, task: asyncio.Task[None]) -> None:
        me = asyncio.current_task()
        assert me is not None  # a coroutine on asyncio runs in a task
        self._task = task
        self._me = me
        self._waiting = True
        self._woken = False

    async def receive(self, receive: Receive, state: RequestState) -> Message | None:
        """Return the message; None when the work ended first, or when `receive` failed.

        After the body only a disconnect may come. A `receive` that gives anything else, or raises, would do so again
        and again without ever waiting: it is not asked any more, and the client counts as present.
        """
        me = self._me
        cancelled_before = me.cancelling()
        self._task.add_done_callback(self._wake)
        try:
            return await receive()
        except asyncio.CancelledError:
            if not self._woken or me.cancelling() > cancelled_before + 1:
                raise  # it came from outside, or from there too
            return None
        except Exception:
            logger.debug("request %s: receive failed, so a disconnect cannot be seen", state.request_id, exc_info=True)
            return None
        finally:
            self._waiting = False
            self._task.remove_done_callback(self._wake)
            if self._woken:
                me.uncancel()

    def _wake(self, task: asyncio.Task[None]) -> None:
        """End the wait: most servers do it themselves once an answer is complete, not all do."""
        if self._waiting:
            self._woken = True
            self._me.cancel()


async def _within(work: anyio.CancelScope, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an app inside a scope that another task may cancel."""
    with work:
        await app(scope, receive, send)


async def _cancelled_natively(work: NativeWork, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Call an app; that it was ended as it should be is no error."""
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        if not work.cancel_called:
            raise


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task to end without awaiting it, which would hand on a cancellation of this one."""
    waiter = asyncio.get_running_loop().create_future()

    def tell(_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(tell)
    try:
        await waiter
    finally:
        task.remove_done_callback(tell)
