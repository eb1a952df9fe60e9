"""How long an open period lasts: pure; chance is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..types import Random
    from .policy import BreakerPolicy


class OpenPause:
    """The length of a circuit's open periods, growing while openings follow each other in a row."""

    __slots__ = ("_spread", "_times")

    def __init__(self) -> None:
        self._times = 0.0
        """The pause in units of `reset_timeout_s`, before jitter; 0 while no row of openings is under way."""
        self._spread = 0.0

    def begin(self, policy: BreakerPolicy, random: Random) -> None:
        """Take another opening into the row: the first lasts exactly `reset_timeout_s`, the next ones longer."""
        if not self._times:
            self._times, self._spread = 1.0, 0.0
        elif policy.reset_timeout_max_s is not None:
            # no doubling past the maximum: a shorter `reset_timeout_s`, set meanwhile, would not be heard of
            if policy.reset_timeout_s * self._times < policy.reset_timeout_max_s:
                self._times *= 2.0
            self._spread = policy.reset_timeout_jitter * random()

    def end_row(self) -> None:
        """Let the next opening be a first one again."""
        self._times = 0.0

    def length_s(self, policy: BreakerPolicy) -> float:
        """Return how long the open period last begun lasts, from its opening."""
        if policy.reset_timeout_max_s is None:
            return policy.reset_timeout_s
        return min(policy.reset_timeout_s * self._times, policy.reset_timeout_max_s) * (1.0 + self._spread)
