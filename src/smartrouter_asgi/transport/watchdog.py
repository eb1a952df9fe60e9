"""One movable deadline over one cancel scope, cheap to move: streams move it at every event."""

from __future__ import annotations

import asyncio
import math

from .._scopes import Scope

STALLED_S = 0.25
"""A timer that fires so much too late says that the loop was blocked, or the process stopped."""
GRACE_S = 1.0
"""What a stall excuses at most."""
SLICE_S = 0.05
"""A grace is spent in slices: one in which the loop stands still again costs no more than another."""
TURNS = 3
"""Turns of the loop in which what lies in a socket comes to the task that moves the deadline."""


class Watchdog:
    """Cancels a scope when the current phase lasts too long; `expired` then names the phase.

    Moving the deadline later costs an assignment: the timer that is already set looks again when it fires. Use inside
    the scope, from its own task; call `close` when done. After `patrol(seconds)` whoever moves it often may assign
    `phase` and `deadline` without any call, as long as each phase lasts at least `seconds`.

    Time in which the loop stood still speaks against nobody. A deadline that is over gets a few turns of the loop, so
    that data which has come already can move it; a phase that ends in a stall gets as much time as the timer was late,
    at most `GRACE_S`, before that. Each deadline gets this once.
    """

    # What every watchdog begins with stands at the class: most never change most of it.

    phase = ""
    """The phase that runs, or ran when time was up."""
    deadline = math.inf
    """When the phase that runs is over; on the loop's clock."""
    expired: str | None = None
    _timer_at = math.inf
    _handle: asyncio.Handle | None = None
    _patrol_s = math.inf
    _excused = math.nan
    """The deadline that has had its grace, or is having it."""
    _grace_s = 0.0
    """What is left of that."""

    def __init__(self, scope: Scope, *, total_at: float = math.inf) -> None:
        self._scope = scope
        self._loop = loop = asyncio.get_running_loop()
        self.clock = loop.time
        """The loop's clock."""
        self._total_at = total_at

    def enter(self, phase: str, seconds: float) -> None:
        """Begin a phase that may last `seconds`; the deadline of the whole request stays the outer bound."""
        self.phase = phase
        self.deadline = deadline = self._loop.time() + seconds
        if self._total_at < deadline:
            deadline = self._total_at
        if deadline < self._timer_at:
            self._arm(deadline)

    def patrol(self, seconds: float) -> None:
        """Look at the deadline every so many seconds from now on. One timer then does for every phase."""
        self._patrol_s = seconds
        at = min(self._loop.time() + seconds, self._total_at)
        if at < self._timer_at:
            self._arm(at)

    def bound(self, total_at: float) -> None:
        """Move the outer bound: a stream that has begun may go on to the deadline of the whole request."""
        self._total_at = total_at

    def expire(self, phase: str) -> None:
        """Let time be up at once, for a reason that is no clock's. Where a clock was first, its phase stays."""
        if self.expired is None:
            self.close()
            self.expired = phase
            self._scope.cancel()

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
        due = min(self.deadline, self._total_at)
        if now < due:
            self._arm(min(due, now + self._patrol_s))
            return
        if self._excused != due:
            self._excused = due
            self._grace_s = min(late_s, GRACE_S) if late_s > STALLED_S else 0.0
        if self._grace_s > 0 and now < self._total_at:
            slice_s = min(self._grace_s, SLICE_S)
            self._grace_s -= slice_s
            self._arm(min(now + slice_s, self._total_at))
        else:
            self._spare(TURNS)

    def _spare(self, turns: int) -> None:
        if turns:
            self._timer_at = -math.inf  # nothing is sooner: a new deadline is seen when the turns are over
            self._handle = self._loop.call_soon(self._spare, turns - 1)
            return
        now = self._timer_at = self._loop.time()
        if min(self.deadline, self._total_at) != self._excused:
            self._fire()
            return
        self._handle = None
        self.expired = "total" if now >= self._total_at else self.phase
        self._scope.cancel()
