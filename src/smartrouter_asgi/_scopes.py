"""What ends work of a request: anyio's cancel scopes, and cheaper ones where those will do.

Most of what runs for a request keeps in order however it is cancelled. httpx does not (encode/httpcore#1093), and of
what comes from outside the package nobody knows: there an anyio scope is around it, and ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import anyio


class Scope(Protocol):
    """A block of a task that others may end."""

    def cancel(self) -> None:
        """End what runs in the block."""


_of_this_loop: Callable[[], anyio.CancelScope] | None = None


def cancel_scope() -> anyio.CancelScope:
    """Return a new cancel scope of anyio's, without asking it each time which event loop this is.

    To be called on the event loop; this package runs on asyncio alone.
    """
    global _of_this_loop
    if _of_this_loop is None:
        _of_this_loop = type(anyio.CancelScope())
    return _of_this_loop()


class NativeScope:
    """A block that is ended by one native cancellation of its task; an end that was asked for here goes no further.

    At a third of the cost of anyio's, for work that keeps in order when it is cancelled natively. `cancel` must come
    from outside the block, as from a timer.
    """

    __slots__ = ("_before", "_cancelled", "_task")

    def __enter__(self) -> NativeScope:
        task = asyncio.current_task()
        assert task is not None  # a coroutine on asyncio runs in a task
        self._task = task
        self._before = task.cancelling()
        self._cancelled = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._cancelled and self._task.uncancel() <= self._before and kind is asyncio.CancelledError

    def cancel(self) -> None:
        """End what runs in the block, once."""
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()


class NativeWork:
    """All that runs for a request in one task; it is ended natively, but for what a `GuardedScope` is around."""

    __slots__ = ("_guards", "_task", "cancel_called")

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._guards: dict[asyncio.Task[object] | None, anyio.CancelScope] = {}
        """The scopes entered now, each by the task it ends: two, when attempts run side by side."""
        self.cancel_called = False

    def begin(self, task: asyncio.Task[None]) -> None:
        """Learn which task it is, before it runs."""
        self._task = task

    def cancel(self) -> None:
        """End it, once."""
        if self.cancel_called:
            return
        self.cancel_called = True
        for scope in tuple(self._guards.values()):
            scope.cancel()
        if self._task is not None and self._task not in self._guards:
            self._task.cancel()


class GuardedScope:
    """A block that nothing but an anyio scope ends, the end of all the work of its request included."""

    __slots__ = ("_scope", "_task", "_work")

    def __init__(self, work: NativeWork) -> None:
        self._work = work
        self._scope = cancel_scope()

    def __enter__(self) -> GuardedScope:
        self._task = asyncio.current_task()
        self._scope.__enter__()
        self._work._guards[self._task] = self._scope
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._work._guards.pop(self._task, None)
        caught = bool(self._scope.__exit__(kind, exc, trace))
        if self._work.cancel_called:
            # What is around the block ends as well, whatever came out of it just now: a scope around that was cancelled
            # in the same moment, of an attempt that another one beat, would take anyio's own cancellation for its own.
            ended = asyncio.CancelledError()
            try:
                raise ended
            finally:
                ended.__context__ = None  # by which it would be taken for one of anyio's
        return caught

    def cancel(self) -> None:
        """End what runs in the block."""
        self._scope.cancel()
