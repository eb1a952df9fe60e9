"""What ends work of a request: anyio's cancel scopes, and a cheaper one where that will do."""

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

    At a third of the cost of anyio's, for work that keeps in order when it is cancelled natively: httpx does not
    (encode/httpcore#1093). `cancel` must come from outside the block, as from a timer.
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
