"""One movable deadline over one cancel scope, cheap to move: streams move it at every event."""

from __future__ import annotations

import asyncio
import math

import anyio


class Watchdog:
    """Cancels a scope when the current phase lasts too long; `expired` then names the phase.

    Moving the deadline later costs an assignment: the timer that is already set looks again when it fires. Use inside
    the scope, from its own task; call `close` when done.
    """

    __slots__ = ("_deadline", "_handle", "_loop", "_scope", "_timer_at", "_total_at", "expired", "phase")

    def __init__(self, scope: anyio.CancelScope, *, total_at: float = math.inf) -> None:
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._total_at = total_at
        self._deadline = math.inf
        self.phase = ""
        """The phase that runs, or ran when time was up."""
        self._timer_at = math.inf
        self._handle: asyncio.TimerHandle | None = None
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
        self._handle = None
        now = self._loop.time()
        if now >= self._total_at:
            self.expired = "total"
        elif now >= self._deadline:
            self.expired = self.phase
        else:
            self._timer_at = math.inf
            self._arm(min(self._deadline, self._total_at))
            return
        self._scope.cancel()
