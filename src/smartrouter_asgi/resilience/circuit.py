"""The circuit of a breaker: a pure, synchronous state machine. Time is an argument, effects are the caller's.

1. closed: outcomes go into a window of the last N; enough failures among them open the circuit.
2. open: nobody passes until `reset_timeout_s` is over; the first to ask after that half-opens it.
3. half-open: at most `half_open_max_attempts` probes, unsettled and succeeded ones together.
   All of them succeed: closed. The first failure: open again.
4. Every move starts an epoch. What began in an older epoch never moves the circuit; it is counted as stale.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..exceptions import ConfigurationError

CircuitState: TypeAlias = Literal["closed", "half-open", "open"]

BUSY_HINT_S = 1.0
"""What to wait, at most, while every probe of a half-open circuit is under way: one may settle at any moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When a breaker opens and how it closes again; a policy that could never open is refused (ConfigurationError)."""

    enabled: bool = True
    failure_threshold: int = 5
    """So many failures among the last `sliding_window_size` outcomes open it; they need not be consecutive."""
    reset_timeout_s: float = 60.0
    half_open_max_attempts: int = 3
    """Probes per half-open period, all of which must succeed."""
    sliding_window_size: int = 100

    def __post_init__(self) -> None:
        if self.failure_threshold < 1 or self.half_open_max_attempts < 1:
            raise ConfigurationError("circuit_breaker: failure_threshold and half_open_max_attempts must be at least 1")
        if self.sliding_window_size < self.failure_threshold:
            raise ConfigurationError(
                f"circuit_breaker: a sliding_window_size of {self.sliding_window_size} can never hold "
                f"failure_threshold = {self.failure_threshold} failures; make it at least that"
            )
        if not (math.isfinite(self.reset_timeout_s) and self.reset_timeout_s >= 0):
            raise ConfigurationError("circuit_breaker: reset_timeout must be a finite number of seconds, 0 or more")


class Circuit:
    """Moves between closed, open and half-open by the outcomes it is told; `now` never goes back.

    A probe older than `probe_lease_s` loses its slot: its success no longer counts, its failure still does.
    """

    __slots__ = (
        "_failures",
        "_opened_at",
        "_outcomes",
        "_probes",
        "_serial",
        "_succeeded",
        "epoch",
        "policy",
        "probe_lease_s",
        "stale",
        "state",
    )

    def __init__(self, policy: BreakerPolicy, *, probe_lease_s: float = 120.0) -> None:
        self.policy = policy
        self.probe_lease_s = probe_lease_s
        self.state: CircuitState = "closed"
        self.epoch = 0
        self.stale = 0
        # The window holds the serial numbers of failures only, so that a success costs one addition.
        self._outcomes = 0
        self._failures: deque[int] = deque()
        self._opened_at = 0.0
        self._serial = 0
        self._probes: dict[int, float] = {}
        self._succeeded = 0

    @property
    def failures(self) -> int:
        """How many of the last `sliding_window_size` outcomes were failures."""
        oldest = self._outcomes - self.policy.sliding_window_size
        return sum(number > oldest for number in self._failures)

    def wait_s(self, now: float) -> float | None:
        """Return None when `admit` would let somebody pass, else the seconds after which to ask again (> 0)."""
        if self.state == "closed":
            return None
        if self.state == "open":
            remaining = self._opened_at + self.policy.reset_timeout_s - now
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

    def settle(self, epoch: int, probe: int, failed: bool | None, now: float) -> None:
        """Take the outcome of an attempt let in during `epoch` (None: no outcome, only the slot comes back)."""
        if epoch != self.epoch:
            self.stale += failed is not None
        elif not probe:
            if failed is not None:
                self._record(failed, now)
        else:
            self._expire(now)
            held = self._probes.pop(probe, None) is not None
            if failed:
                self.move("open", now)
            elif failed is False:
                self._succeed(held, now)

    def end(self, epoch: int, failed: bool, now: float) -> None:
        """Take the outcome of a stream's end; a probe's counts as evidence against, never once more in favour."""
        if epoch != self.epoch:
            self.stale += 1
        elif self.state == "closed":
            self._record(failed, now)
        elif failed:
            self.move("open", now)

    def move(self, state: CircuitState, now: float) -> None:
        """Go to `state` and start a new epoch with an empty window and no probes."""
        self.state = state
        self.epoch += 1
        self._outcomes = 0
        self._failures.clear()
        self._probes.clear()
        self._succeeded = 0
        if state == "open":
            self._opened_at = now

    def _record(self, failed: bool, now: float) -> None:
        self._outcomes += 1
        if not failed:
            return
        failures = self._failures
        failures.append(self._outcomes)
        oldest = self._outcomes - self.policy.sliding_window_size
        while failures[0] <= oldest:
            failures.popleft()
        if len(failures) >= self.policy.failure_threshold:
            self.move("open", now)

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
