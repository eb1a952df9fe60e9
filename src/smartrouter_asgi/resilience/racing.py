"""Two attempts of one request side by side: the first of them to speak is the answer. See `hedging` for the laws."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import anyio

from .attempt import Attempt, let_go
from .hedging import Race

if TYPE_CHECKING:
    from ..exceptions import AttemptError
    from ..types import Clock


class Loop(Protocol):
    """The loop's clock; monotonic seconds."""

    @property
    def clock(self) -> Clock:
        """Tell the time."""


class Route(Protocol):
    """One request on its way, as a race sees it."""

    @property
    def loop(self) -> Loop:
        """The loop it belongs to."""

    def hedge(self, index: int) -> tuple[int, Attempt] | None:
        """Begin an attempt beside the one at `index`; None when nobody may be asked."""

    async def once(self, index: int, attempt: Attempt) -> AttemptError | None:
        """Make one attempt; return its failure, or raise what nobody may retry."""


async def race(route: Route, index: int, first: Attempt, after_s: float) -> AttemptError | None:
    """Make an attempt and, when it has not spoken after `after_s`, its hedge; the first to speak is the answer.

    Returns the first attempt's failure when neither has spoken. The hedge lives no longer than this call.
    """
    runners = Race()
    error: AttemptError | None = None
    ended = False
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_hedge, route, runners, index, first, after_s)
            try:
                error = await _enter(route, runners, index, first)
            except asyncio.CancelledError:
                ended = True
                raise
            if runners.winner is first.entry or len(runners.entries) == 1:
                group.cancel_scope.cancel()  # a hedge that has not begun is not wanted any more
        if ended:
            raise asyncio.CancelledError  # the group takes one that did not come over its own task for its own
    except BaseException:
        let_go(first.lease, busy=error is not None and error.engine_busy)
        raise
    raised = [entry.raised for entry in runners.entries if entry.raised is not None]
    if runners.winner is not None:
        if runners.winner.raised is not None:
            raise runners.winner.raised
        let_go(first.lease, busy=error is not None and error.engine_busy)
        return None
    if raised:
        raise raised[0]
    return error


async def _enter(route: Route, runners: Race, index: int, attempt: Attempt) -> AttemptError | None:
    entry = attempt.entry = runners.join()
    error = None
    task = asyncio.current_task()
    assert task is not None  # a coroutine on asyncio runs in a task
    before = task.cancelling()
    try:
        with entry.scope:
            error = await route.once(index, attempt)
    except Exception as exc:
        entry.raised = exc
        for other in runners.entries:  # what is no failed attempt ends the request
            if runners.winner is None and other is not entry:
                other.scope.cancel()
    if task.cancelling() > before:
        raise asyncio.CancelledError  # the end of the request came with that of the scope, and anyio < 4.16 took it too
    return error


async def _hedge(route: Route, runners: Race, index: int, first: Attempt, after_s: float) -> None:
    """Wait until the hedge is due, counted from the first attempt's admission; make it, if anybody is ready."""
    left_s = after_s
    while left_s > 0:
        await anyio.sleep(left_s)
        left_s = after_s if first.admitted is None else first.admitted + after_s - route.loop.clock()
    second = route.hedge(index) if runners.winner is None else None  # who has spoken may take its time
    if second is not None:
        await _enter(route, runners, *second)
