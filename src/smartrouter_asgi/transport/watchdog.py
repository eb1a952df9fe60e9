"""One movable deadline over one cancel scope, cheap to move: streams move it at every event."""

from __future__ import annotations

import asyncio
import math

import anyio

STALLED_S = 0.25
"""A timer that fires so much too late says that the loop was blocked, or the process stopped."""
GRACE_S = 1.0
"""What a stall excuses at most."""
TURNS = 3
"""Turns of the loop in which what lies in a socket comes to the task that moves the deadline."""


class Watchdog:
    """Cancels a scope when the current phase lasts too long; `expired` then names the phase.

    Moving the deadline later costs an assignment: the timer that is already set looks again when it fires. Use inside
    the scope, from its own task; call `close` when done.

    Time in which the loop stood still speaks against nobody. A deadline that is over gets a few turns of the loop, so
    that data which has come already can move it; a phase that ends in a stall gets as much time as the timer was late,
    at most `GRACE_S`. Each deadline gets this once.
    """

    __slots__ = ("_deadline", "_excused", "_handle", "_loop", "_scope", "_timer_at", "_total_at", "expired", "phase")

    def __init__(self, scope: anyio.CancelScope, *, total_at: float = math.inf) -> None:
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._total_at = total_at
        self._deadline = math.inf
        self.phase = ""
        """The phase that runs, or ran when time was up."""
        self._timer_at = math.inf
        self._handle: asyncio.Handle | None = None
        self._excused = math.nan
        """The deadline that has had its grace."""
        self.expired: str | None = None

    def enter(self, phase: str, seconds: float) -> None:
        """Begin a phase that may last `seconds`; the deadline of the whole request stays the outer bound."""
        self.phase = phase
        self._deadline = deadline = self._loop.time() + seconds
        if self._total_at < deadline:
            deadline = self._total_at
        if deadline < self._timer_at:
            self._arm(deadline)

    def bound(self, total_at: float) -> None:
        """Move the outer bound: a stream that has begun may go on to the deadline of the whole request."""
        self._total_at = total_at

    def close(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._timer_at = math.inf

    def _arm(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._timer_at = at
        self._handle = self._loop.call_at(at, self._fire) if at < math.inf else None

    def _fire(self) -> None:
        now = self._loop.time()
        late_s = now - self._timer_at
        due = min(self._deadline, self._total_at)
        if now < due:
            self._arm(due)
        elif self._excused != due:
            self._excused = due
            if late_s > STALLED_S and now < self._total_at:
                self._arm(min(now + min(late_s, GRACE_S), self._total_at))
            else:
                self._look_again(TURNS)
        else:
            self._handle = None
            self.expired = "total" if now >= self._total_at else self.phase
            self._scope.cancel()

    def _look_again(self, turns: int) -> None:
        if turns:
            self._timer_at = -math.inf  # nothing is sooner: a new deadline is seen when the turns are over
            self._handle = self._loop.call_soon(self._look_again, turns - 1)
        else:
            self._timer_at = self._loop.time()
            self._fire()
