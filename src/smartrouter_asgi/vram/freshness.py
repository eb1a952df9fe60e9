"""How far the engines' own word on what is loaded may be believed."""

from __future__ import annotations

import math


class Freshness:
    """One question to the engines at a time; its answer counts for `ttl_s` from when it came.

    From when it was put it would count for nothing once an engine takes longer than that to say, and nobody would ever
    be served. A doubt makes the ledger a guess: only an answer to a question put after it settles it.
    """

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._asking = False
        self._answered_at = -math.inf
        self._doubts = self._doubts_asked = self._doubts_settled = 0

    def ask(self) -> bool:
        """Claim the right to ask; False while a question is open."""
        if self._asking:
            return False
        self._asking = True
        self._doubts_asked = self._doubts
        return True

    def answered(self, *, now: float) -> None:
        """Note that the open question is answered."""
        self._asking = False
        self._answered_at = now
        self._doubts_settled = self._doubts_asked

    def doubt(self) -> None:
        """Note that the engines' memory changed in a way that only they can tell."""
        self._doubts += 1

    @property
    def is_doubted(self) -> bool:
        """Whether no answer has settled the last doubt yet."""
        return self._doubts_settled < self._doubts

    def is_fresh(self, now: float) -> bool:
        """Whether the last answer is good for a decision."""
        return not self.is_doubted and now < self._answered_at + self._ttl_s

    @property
    def stale_at(self) -> float:
        """When the last answer stops counting; infinity while a question is open."""
        return math.inf if self._asking else self._answered_at + self._ttl_s
