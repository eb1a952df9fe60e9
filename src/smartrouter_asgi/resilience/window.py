"""The sliding window of a circuit: pure, of bounded memory, and one addition for an outcome that says nothing new."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .policy import BreakerPolicy


class SlidingWindow:
    """The last `sliding_window_size` outcomes of an epoch: how many failed, told a first-token time, were slow.

    It holds the serial numbers of those alone, so that a success of which no time is wanted costs one addition.
    """

    __slots__ = ("_failed", "_slow", "_timed", "outcomes")

    def __init__(self) -> None:
        self.outcomes = 0
        """How many there have been; a success of which no time is wanted adds one, and nothing else."""
        self._failed: deque[int] = deque()
        self._timed: deque[int] = deque()
        self._slow: deque[int] = deque()

    def clear(self) -> None:
        """Forget everything."""
        self.outcomes = 0
        self._failed.clear()
        self._timed.clear()
        self._slow.clear()

    def failures(self, policy: BreakerPolicy) -> int:
        """Count the failures it holds."""
        oldest = self.outcomes - policy.sliding_window_size
        return sum(number > oldest for number in self._failed)

    def record(self, policy: BreakerPolicy, failed: bool, first_token_s: float | None) -> bool:
        """Take an outcome; return whether what the window now holds opens the circuit."""
        self.outcomes += 1
        if failed:
            self._failed.append(self.outcomes)
            self._slide(self._failed, policy)
            if len(self._failed) >= policy.failure_threshold:
                return True
        if policy.slow_call_duration_s is None:
            return False
        if first_token_s is not None:
            self._timed.append(self.outcomes)
            if policy.is_slow(first_token_s):
                self._slow.append(self.outcomes)
        self._slide(self._timed, policy)
        self._slide(self._slow, policy)
        timed = len(self._timed)
        # a quotient, not a product: 7 / 100 is the float 0.07, while 0.07 * 100 is more than 7
        return timed >= policy.slow_call_min_calls and len(self._slow) / timed >= policy.slow_call_rate

    def _slide(self, numbers: deque[int], policy: BreakerPolicy) -> None:
        oldest = self.outcomes - policy.sliding_window_size
        while numbers and numbers[0] <= oldest:
            numbers.popleft()
