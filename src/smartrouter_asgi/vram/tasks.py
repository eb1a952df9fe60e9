"""Tasks that belong to a component, not to the request that happened to cause them."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class OwnTasks:
    """Strong references to running tasks; each starts in an empty context, so no request's variables leak into it."""

    def __init__(self) -> None:
        self._done: dict[asyncio.Task[Any], Callable[[asyncio.Task[Any]], None]] = {}

    def start(self, work: Coroutine[Any, Any, T], done: Callable[[asyncio.Task[T]], None]) -> asyncio.Task[T]:
        """Start a task. `done` runs whatever becomes of it, even when it is cancelled before its first step."""
        context = contextvars.Context()
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._done[task] = done
        task.add_done_callback(self._finish, context=context)
        return task

    def _finish(self, task: asyncio.Task[Any]) -> None:
        done = self._done.pop(task, None)
        if done is not None:
            done(task)

    def sweep(self) -> None:
        """Count tasks whose event loop was closed under them as cancelled: they will never end by themselves."""
        for task in [task for task in self._done if task.get_loop().is_closed()]:
            self._finish(task)

    async def aclose(self) -> None:
        """Cancel all tasks, those that start meanwhile too, and return once they have ended."""
        self.sweep()
        while self._done:
            for task in self._done:
                task.cancel()
            await asyncio.wait(tuple(self._done))


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what ended a task before its own end, the end of its event loop included; None when all went well."""
    return asyncio.CancelledError() if task.cancelled() or not task.done() else task.exception()
