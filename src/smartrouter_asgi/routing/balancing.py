"""How busy or slow deployments are: the numbers behind `least_busy` and `latency`."""

from __future__ import annotations

from collections import Counter

from ..deployment import Deployment
from ..events import AttemptFinished, Event

_NEW_SHARE = 0.3  # weight of the newest sample in the moving average


class LoadTracker:
    """Knows what runs where now, and how long first tokens have taken; an observer."""

    def __init__(self) -> None:
        self.inflight: Counter[str] = Counter()
        """Exchanges under way, by deployment id."""
        self._first_token_s: dict[str, float] = {}

    def load(self, balance: str, deployment: Deployment) -> float:
        """Return a number that is smaller for the deployment to prefer under a balance."""
        busy = self.inflight[deployment.id]
        if balance == "latency":
            # Peak-sensitive: what is expected of the next request grows with those that wait already.
            return self._first_token_s.get(deployment.id, 0.0) * (busy + 1)
        return busy

    def on_event(self, event: Event) -> None:
        """Learn from how long a first token took."""
        if isinstance(event, AttemptFinished) and event.first_token_s is not None:
            key = f"{event.backend}/{event.model}"
            new = event.first_token_s
            known = self._first_token_s.get(key, new)
            # A peak counts at once, a recovery bit by bit.
            self._first_token_s[key] = new if new > known else known + _NEW_SHARE * (new - known)
