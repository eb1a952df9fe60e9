"""How long the first tokens of streams have taken lately, by deployment: what hedging waits by."""

from __future__ import annotations

import math
from collections import deque

from ..events import AttemptFinished, Event

KEPT_SAMPLES = 100
MAX_DEPLOYMENTS = 4096
"""More are not remembered: without a catalog a deployment's name may be a client's own."""


class FirstTokenTimes:
    """Remembers the last first-token times of each deployment's streams; an observer.

    A sample costs an append; quantiles are worked out when somebody asks, and kept until the next sample.
    """

    def __init__(self) -> None:
        self._recent: dict[str, _Recent] = {}
        self.hears = {AttemptFinished: self.on_event}

    def on_event(self, event: Event) -> None:
        """Take note of a stream that has begun, however its attempt ended afterwards."""
        if not isinstance(event, AttemptFinished) or event.operation != "stream":
            return
        sample_s = event.first_token_s
        if sample_s is None:
            if event.outcome != "hedged":
                return
            # It took at least this long. Left out, hedging would make what it waits by ever shorter.
            sample_s = event.duration_s
        deployment_id = f"{event.backend}/{event.model}"
        recent = self._recent.get(deployment_id)
        if recent is None:
            if len(self._recent) >= MAX_DEPLOYMENTS:
                del self._recent[next(iter(self._recent))]
            recent = self._recent[deployment_id] = _Recent()
        recent.add(sample_s)

    def quantile_s(self, deployment_id: str, q: float = 0.95, *, min_samples: int = 20) -> float | None:
        """Return the smallest time seen that a share `q` of the last streams did not exceed.

        None while there are fewer than `min_samples` (at most `KEPT_SAMPLES` are kept).
        """
        recent = self._recent.get(deployment_id)
        if recent is None or len(recent.samples_s) < max(1, min_samples):
            return None
        return recent.quantile_s(q)


class _Recent:
    """The ring of one deployment."""

    __slots__ = ("_sorted_s", "samples_s")

    def __init__(self) -> None:
        self.samples_s: deque[float] = deque(maxlen=KEPT_SAMPLES)
        self._sorted_s: list[float] | None = None

    def add(self, sample_s: float) -> None:
        self.samples_s.append(sample_s)
        self._sorted_s = None

    def quantile_s(self, q: float) -> float:
        if self._sorted_s is None:
            self._sorted_s = sorted(self.samples_s)
        rank = math.ceil(q * len(self._sorted_s))  # the nearest-rank definition
        return self._sorted_s[min(max(rank, 1), len(self._sorted_s)) - 1]
