"""The circuit of a breaker: a pure, synchronous state machine. Time and chance are arguments, effects the caller's.

1. closed: outcomes go into a window of the last N; enough failures among them open the circuit.
2. open: nobody passes until the open time is over; the first to ask after that half-opens it.
3. half-open: at most `half_open_max_attempts` probes, unsettled and succeeded ones together.
   All of them succeed: closed. The first failure: open again.
4. Every move starts an epoch. What began in an older epoch never moves the circuit, so no open period is lengthened
   by an outcome that comes late; it is counted as stale.
5. Slow calls (`slow_call_duration_s`, off by default): a success is slow when its first token took that long or longer.
   Enough outcomes in the window that told a time, and enough slow ones among those, open the circuit as well. A probe's
   slow success is a failure.
6. The open time is `reset_timeout_s`. With `reset_timeout_max_s` it escalates while openings follow in a row: the first
   lasts exactly `reset_timeout_s`, each next one twice as long, up to the maximum; on top of those comes a jitter of up
   to `reset_timeout_jitter` of the time. An opening follows in the row unless the circuit was closed for at least
   `reset_timeout_s` in one piece since the last: a backend that was well for as long as the shortest pause starts anew,
   one that flaps or fails its probes does not. A forced opening is like any other; one of an open circuit begins the
   same pause again.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Literal, TypeAlias

from .pause import OpenPause
from .window import SlidingWindow

if TYPE_CHECKING:
    from ..types import Random
    from .policy import BreakerPolicy

CircuitState: TypeAlias = Literal["closed", "half-open", "open"]

BUSY_HINT_S = 1.0
"""What to wait, at most, while every probe of a half-open circuit is under way: one may settle at any moment."""


class Circuit:
    """Moves between closed, open and half-open by the outcomes it is told; `now` never goes back.

    A probe older than `probe_lease_s` loses its slot: its success no longer counts, its failure still does.
    """

    __slots__ = (
        "_closed_at",
        "_opened_at",
        "_pause",
        "_probes",
        "_random",
        "_serial",
        "_succeeded",
        "_window",
        "epoch",
        "policy",
        "probe_lease_s",
        "stale",
        "state",
    )

    def __init__(self, policy: BreakerPolicy, *, probe_lease_s: float = 120.0, random: Random = random.random) -> None:
        self.policy = policy
        self.probe_lease_s = probe_lease_s
        self.state: CircuitState = "closed"
        self.epoch = 0
        self.stale = 0
        self._random = random
        self._window = SlidingWindow()
        self._pause = OpenPause()
        self._opened_at = 0.0
        self._closed_at = -math.inf
        self._serial = 0
        self._probes: dict[int, float] = {}
        self._succeeded = 0

    @property
    def failures(self) -> int:
        """How many of the last `sliding_window_size` outcomes were failures."""
        return self._window.failures(self.policy)

    def wait_s(self, now: float) -> float | None:
        """Return None when `admit` would let somebody pass, else the seconds after which to ask again (> 0)."""
        if self.state == "closed":
            return None
        if self.state == "open":
            remaining = self._opened_at + self._pause.length_s(self.policy) - now
            return remaining if remaining > 0 else None
        leases = [issued + self.probe_lease_s - now for issued in self._probes.values()]
        live = [left for left in leases if left > 0]
        if len(live) + self._succeeded < self.policy.half_open_max_attempts:
            return None
        return min(BUSY_HINT_S, *live)

    def admit(self, now: float) -> int | None:
        """Let one attempt pass: 0 while closed, a probe's number (> 0) while half-open, None when refused."""
        if self.state == "closed":
            return 0
        if self.wait_s(now) is not None:
            return None
        if self.state == "open":
            self.move("half-open", now)
        self._expire(now)
        self._serial += 1
        self._probes[self._serial] = now
        return self._serial

    def settle(
        self, epoch: int, probe: int, failed: bool | None, now: float, first_token_s: float | None = None
    ) -> None:
        """Take the outcome of an attempt let in during `epoch` (None: no outcome, only the slot comes back).

        `first_token_s` is how long a success took to its first token, where that is known.
        """
        if epoch != self.epoch:
            self.stale += failed is not None
        elif not probe:
            if failed is not None and self._window.record(self.policy, failed, first_token_s):
                self.move("open", now)
        else:
            self._expire(now)
            held = self._probes.pop(probe, None) is not None
            if failed or (failed is False and self.policy.is_slow(first_token_s)):
                self.move("open", now)
            elif failed is False:
                self._succeed(held, now)

    def note_success(self, epoch: int) -> bool:
        """Take the outcome that nearly all attempts have: a success while closed, of which no time is wanted.

        False: it is not that one, and nothing has happened.
        """
        if self.state != "closed" or epoch != self.epoch or self.policy.slow_call_duration_s is not None:
            return False
        self._window.outcomes += 1
        return True

    def end(self, epoch: int, failed: bool, now: float) -> None:
        """Take the outcome of a stream's end; a probe's counts as evidence against, never once more in favour."""
        if epoch != self.epoch:
            self.stale += 1
        elif self.state == "closed":
            if self._window.record(self.policy, failed, None):
                self.move("open", now)
        elif failed:
            self.move("open", now)

    def move(self, state: CircuitState, now: float) -> None:
        """Go to `state` and start a new epoch with an empty window and no probes."""
        if self.state == "closed":
            if now - self._closed_at >= self.policy.reset_timeout_s:
                self._pause.end_row()
        elif state == "closed":
            self._closed_at = now
        if state == "open":
            if self.state != "open":
                self._pause.begin(self.policy, self._random)
            self._opened_at = now
        self.state = state
        self.epoch += 1
        self._window.clear()
        self._probes.clear()
        self._succeeded = 0

    def _succeed(self, held: bool, now: float) -> None:
        if not held:
            self.stale += 1
            return
        self._succeeded += 1
        if self._succeeded >= self.policy.half_open_max_attempts:
            self.move("closed", now)

    def _expire(self, now: float) -> None:
        for probe in [n for n, issued in self._probes.items() if issued + self.probe_lease_s - now <= 0]:
            del self._probes[probe]
