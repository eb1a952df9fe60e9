"""The slots of a limit on parallel requests, and the line before them: a pure, synchronous state machine.

Time is an argument, effects are the caller's. `enter` goes through these, in order:
1. the deadline has passed: late, whatever is free.
2. a slot is free: granted. Nobody stands in line then: a slot that comes free is given away in the same step.
3. it may not wait: refused.
4. the line is full, once those whose deadline has passed are out of it: the newcomer is refused, also one that would
   have gone before others. Who was let into the line keeps its place: one put out of it would have waited for nothing,
   would come back as a newcomer and be put out again, so that a low priority would starve after all.
5. queued, in the order of `arrival + priority * PRIORITY_STEP_S`, first come first served where that is equal. So a
   priority is worth time, and nobody starves: one step more lets pass whatever arrives within the next ten seconds, and
   nothing that arrives after. Lower numbers go first, as in LiteLLM and vLLM; the default is 0.
   A deadline before the estimated wait is no reason to refuse: estimates are estimates.

`leave`:
1. a waiter: gone at once, nobody is granted anything.
2. a holder: how long it kept its slot goes into the observed service time, unless it made no use of it. The slot goes
   to the first in line whose deadline has not passed; those before it are out.
3. anybody else has left before: nothing happens.

The estimated wait of somebody at place n of the line (from 0): (n + 1) / max_parallel x the observed service time.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from ..exceptions import ConfigurationError

PRIORITY_STEP_S = 10.0
PRIORITY_LIMIT = 1000
"""A priority beyond this, either way, counts as this: nobody is overtaken for ever."""
SERVICE_WEIGHT = 0.2
"""How much the latest service time counts in the moving average."""
FIRST_GUESS_S = 1.0
"""What a service takes as long as none was observed; no estimate is below it then."""
WAIT_CAP_S = 3600.0

TicketT = TypeVar("TicketT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Not let in: `wait_s` is what a turn would have taken, `waiting` how many stand in line."""

    wait_s: float
    waiting: int


Entry: TypeAlias = Literal["granted", "queued", "late"] | Refused


@dataclass(slots=True, eq=False)
class _Waiter(Generic[TicketT]):
    order: float
    deadline: float
    ticket: TicketT


def _order(waiter: _Waiter[TicketT]) -> float:
    return waiter.order


class Slots(Generic[TicketT]):
    """At most `max_parallel` tickets hold a slot and at most `max_queue` wait for one; `now` never goes back.

    A ticket is any hashable object; it enters once before it leaves. `service_s` is a service time observed earlier.
    """

    __slots__ = ("_holders", "_line", "_waiters", "max_parallel", "max_queue", "service_s")

    def __init__(self, max_parallel: int, *, max_queue: int, service_s: float | None = None) -> None:
        if max_parallel < 1 or max_queue < 0:
            raise ConfigurationError("max_parallel must be at least 1 and max_queue at least 0")
        self.max_parallel = max_parallel
        self.max_queue = max_queue
        self.service_s = service_s
        """Moving average of how long holders kept a slot; None until the first has given one back."""
        self._holders: dict[TicketT, float] = {}
        """Since when each holds its slot."""
        self._waiters: dict[TicketT, _Waiter[TicketT]] = {}
        self._line: list[_Waiter[TicketT]] = []
        """The same waiters, the next first."""

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return self.max_parallel - len(self._holders)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def wait_s(self, place: int) -> float:
        """Estimate the wait of somebody at this place of the line, from 0; finite."""
        turns = (place + 1) / self.max_parallel
        if self.service_s is None:
            return min(max(turns, 1.0) * FIRST_GUESS_S, WAIT_CAP_S)
        return min(turns * self.service_s, WAIT_CAP_S)

    def enter(
        self, ticket: TicketT, *, now: float, priority: int = 0, deadline: float = math.inf, wait: bool = True
    ) -> Entry:
        """Take a slot, or a place in line; `deadline` is on the clock of `now`."""
        if now >= deadline:
            return "late"
        if len(self._holders) < self.max_parallel:
            self._holders[ticket] = now
            return "granted"
        order = now + max(-PRIORITY_LIMIT, min(priority, PRIORITY_LIMIT)) * PRIORITY_STEP_S
        if wait and len(self._line) >= self.max_queue:
            self._drop_late(now)
        if not wait or len(self._line) >= self.max_queue:
            place = bisect_right(self._line, order, key=_order)
            return Refused(wait_s=self.wait_s(place), waiting=len(self._line))
        waiter = self._waiters[ticket] = _Waiter(order, deadline, ticket)
        insort(self._line, waiter, key=_order)
        return "queued"

    def leave(self, ticket: TicketT, *, now: float, used: bool = True) -> TicketT | None:
        """Give up a slot or a place in line, and return the ticket that is granted the slot by that.

        `used` False: the slot was given back without having served anything, which says nothing of the service time.
        """
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None:
            self._line.remove(waiter)
            return None
        since = self._holders.pop(ticket, None)
        if since is None:
            return None
        if used:
            self._observe(now - since)
        return self._grant_next(now)

    def _grant_next(self, now: float) -> TicketT | None:
        while self._line:
            first = self._line.pop(0)
            del self._waiters[first.ticket]
            if now < first.deadline:
                self._holders[first.ticket] = now
                return first.ticket
        return None

    def _drop_late(self, now: float) -> None:
        for waiter in [waiter for waiter in self._line if now >= waiter.deadline]:
            del self._waiters[waiter.ticket]
            self._line.remove(waiter)

    def _observe(self, service_s: float) -> None:
        known = self.service_s
        self.service_s = service_s if known is None else known + SERVICE_WEIGHT * (service_s - known)
