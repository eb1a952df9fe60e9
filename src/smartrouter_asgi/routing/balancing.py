"""How busy or slow deployments are, and who goes first by it: what is behind `least_busy` and `latency`."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..deployment import Deployment
from ..events import AttemptFinished, Event
from ..exceptions import FailureKind
from ..types import Clock, Random

DECAY_S = 10.0
"""Time constant of the averages: after so long an old one still counts by a third."""

FAILURE_FLOOR_S = 1.0
FAILURE_CAP_S = 60.0

MAX_DEPLOYMENTS = 4096
"""More are not remembered: without a catalog a deployment's name may be a client's own."""

_UNTRIED_S = 1e6  # what a request costs where nothing is known and one is under way: more than anything known

_SERVER_FAILED = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.RESET,
        FailureKind.FIRST_TOKEN_TIMEOUT,
        FailureKind.SERVER,
        FailureKind.PROTOCOL,
        FailureKind.RATE_LIMITED,
        FailureKind.AUTH,
        FailureKind.MODEL_MISSING,
        FailureKind.MODEL_FAILED,
    }
)
"""Failures that the next request would probably meet as well. The others are about the request, or about us."""


def by_load(
    deployments: Sequence[Deployment], load: Callable[[Deployment], float], *, random: Random
) -> list[Deployment]:
    """Order deployments by load, least first, equals by chance; of more than two, the better of two drawn goes first.

    Many workers that see the same numbers would otherwise all run to the same deployment. The most loaded is never the
    better of two.
    """
    ranked = sorted(deployments, key=lambda deployment: (load(deployment), random()))
    # The lower rank of two that differ: the second draw leaves out one place, and that may be the last.
    better = min(int(random() * len(ranked)), int(random() * (len(ranked) - 1)))
    ranked.insert(0, ranked.pop(better))
    return ranked


class LoadTracker:
    """Knows what runs where now, and how long answers have taken to begin; an observer.

    Peak EWMA, as in Finagle: an average jumps to a peak at once and comes down with time. The cost expected of one more
    request is the average times the requests there would be then.

    1. An idle deployment's average fades away while nothing new is heard, so that one that was slow is tried again.
       What time forgives it forgives for one request: while any is under way, the last average counts in full.
    2. A deployment of which nothing is known costs nothing while it is idle, and more than every known one while a
       request is under way: it is tried by one request at a time, until there is a sample.
    3. A failure that the next request would probably meet as well counts as its duration, at least `FAILURE_FLOOR_S`;
       and as twice the average, up to `FAILURE_CAP_S`, so that one that fails fast drops behind those that work.
       Attempts that were under way when another failed add nothing: they are the same incident.
    4. Cancellations, refusals by anybody's rules, and requests that nobody would take teach nothing.

    Streams count until their first token, other answers until they are complete. Both go into one average: deployments
    of one model get the same mix.
    """

    def __init__(self, *, clock: Clock = time.monotonic, learns: bool = True) -> None:
        self.inflight: Counter[str] = Counter()
        """Exchanges under way, by deployment id."""
        self._clock = clock
        self._averages: dict[str, _PeakAverage] = {}
        self.hears = {AttemptFinished: self.on_event} if learns else {}
        """Nothing is learnt where nobody asks how slow deployments are."""

    def load(self, balance: str, deployment: Deployment) -> float:
        """Return a number that is smaller for the deployment to prefer under a balance."""
        busy = self.inflight[deployment.id]
        if balance != "latency":
            return busy
        average = self._averages.get(deployment.id)
        if average is None:
            return busy * _UNTRIED_S
        return average.value_s * (busy + 1) if busy else average.faded_s(self._clock())

    def on_event(self, event: Event) -> None:
        """Learn from how an attempt ended."""
        if not isinstance(event, AttemptFinished):
            return
        failed = event.kind in _SERVER_FAILED
        sample_s = event.duration_s if failed else _until_answer_s(event)
        if sample_s is None:
            return
        key, now = f"{event.backend}/{event.model}", self._clock()
        average = self._averages.get(key)
        if average is None:
            if len(self._averages) >= MAX_DEPLOYMENTS:
                del self._averages[next(iter(self._averages))]
            average = self._averages[key] = _PeakAverage()
        if failed:
            average.punish(sample_s, now)
        else:
            average.learn(sample_s, now)


class _PeakAverage:
    """What is known of one deployment."""

    __slots__ = ("_at", "_failed_at", "value_s")

    def __init__(self) -> None:
        self.value_s = 0.0
        self._at = -math.inf
        self._failed_at = -math.inf

    def faded_s(self, now: float) -> float:
        """Return what is left of the average after the time without a sample."""
        return self.value_s * math.exp(min(0.0, self._at - now) / DECAY_S)

    def learn(self, sample_s: float, now: float) -> None:
        """Take in a sample: a peak at once, a recovery by the time since the last one."""
        if sample_s >= self.value_s:
            self.value_s = sample_s
        else:
            kept = math.exp(min(0.0, self._at - now) / DECAY_S)
            self.value_s = self.value_s * kept + sample_s * (1.0 - kept)
        self._at = now

    def punish(self, duration_s: float, now: float) -> None:
        """Take in a failure: never less than what was known, and twice that for a new incident."""
        penalty_s = max(duration_s, FAILURE_FLOOR_S)
        if now - duration_s >= self._failed_at:  # began after the last failure was known
            penalty_s = max(penalty_s, min(2.0 * self.value_s, FAILURE_CAP_S))
            self._failed_at = now
        self.learn(max(penalty_s, self.value_s), now)


def _until_answer_s(event: AttemptFinished) -> float | None:
    """Return how long the answer took to begin, or to come where it comes in one piece; None when it never did."""
    if event.first_token_s is not None:
        return event.first_token_s
    return event.duration_s if event.outcome == "ok" and event.operation != "stream" else None
