"""Hedging: a second attempt beside a first that is slow to speak. The first of them to speak is the answer.

1. An attempt at a stream has not spoken when its deployment's usual time is over: its hedge starts at the next
   candidate that does not rest, whose breaker is closed, and that would serve at once: it neither queues nor loads.
2. It is paid from the retry budget of the slow one's backend, and counts as one of the request's extra attempts.
3. The first to commit (`http.response.start`) wins, and the other is cancelled in the same step.
4. One that fails leaves the other running; when both fail the loop goes on as after any failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from ..exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """How long a first token may take before a second deployment is asked too."""

    quantile: float = 0.95
    """Of the deployment's last first-token times."""
    min_samples: int = 20
    """With fewer of them nothing is hedged: what is usual is not known."""
    min_delay_s: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and self.min_samples >= 1):
            raise ConfigurationError("hedge: quantile must lie between 0 and 1, min_samples must be at least 1")
        if not (math.isfinite(self.min_delay_s) and self.min_delay_s >= 0):
            raise ConfigurationError("hedge: min_delay must be a finite number of seconds, 0 or more")


class UsualTimes(Protocol):
    """Knows how long the first tokens of deployments take."""

    def quantile_s(self, deployment_id: str, q: float = 0.95, *, min_samples: int = 20) -> float | None:
        """Return the quantile of a deployment's last first-token times; None while there are too few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """The policy and the eyes it needs."""

    policy: HedgePolicy
    times: UsualTimes
    is_ready: Callable[[Deployment], bool]
    """Whether a deployment would serve a request now, without a queue and without a load."""

    def after_s(self, deployment: Deployment) -> float | None:
        """Return how long after its admission an attempt gets a hedge; None: never."""
        policy = self.policy
        usual_s = self.times.quantile_s(deployment.id, policy.quantile, min_samples=policy.min_samples)
        return None if usual_s is None else max(usual_s, policy.min_delay_s)


class Race:
    """The attempts of one request that run side by side; the arbiter of who may commit."""

    __slots__ = ("entries", "winner")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.winner: Entry | None = None

    def join(self) -> Entry:
        """Add an attempt, with a scope of its own."""
        entry = Entry(self)
        self.entries.append(entry)
        return entry


class Entry:
    """One attempt in a race."""

    __slots__ = ("_race", "raised", "scope")

    def __init__(self, race: Race) -> None:
        self._race = race
        self.scope = anyio.CancelScope()
        self.raised: Exception | None = None
        """What it raised that is no failed attempt."""

    @property
    def won(self) -> bool:
        """Whether it is the one that committed."""
        return self._race.winner is self

    def claim(self) -> bool:
        """Win, if nobody has; the others are cancelled. False: somebody else has won."""
        race = self._race
        if race.winner is None:
            race.winner = self
            for entry in race.entries:
                if entry is not self:
                    entry.scope.cancel()
        return race.winner is self
