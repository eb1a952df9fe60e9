"""Which deployments are left alone for a while: pure books, time is an argument.

A breaker is about a server; a rest is about one model of it.
1. A deployment that asks for a pause (429 or 5xx with Retry-After) cools until then, at most `cooling_max_s`.
2. A model that cannot be loaded is passed over for `base_s`: asked only when nobody else is left. When it fails again
   it rests, refused even then: for `base_s`, doubled with each failure in a row up to `max_s`. A failure of an attempt
   that began before the last one was noted is late: it prolongs nothing.
3. A model that fails otherwise (out of memory, a template that cannot be rendered, a deterministic 500) may do so
   because of one odd request: 2 holds for it, once `requests` different ones have failed in a row.
4. A success ends the pause and forgets the failures. One of an attempt that began before the deployment was told to
   pause is late: it shows that other requests are well served, and ends no pause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..exceptions import AttemptError, ConfigurationError, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_DOWN = "model_load_failed"
"""The code of the one failure that no other request would escape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestPolicy:
    """How long deployments are left alone; `base_s` 0 switches the rest of failing models off."""

    base_s: float = 10.0
    max_s: float = 120.0
    requests: int = 3
    cooling_max_s: float = 300.0

    def __post_init__(self) -> None:
        values = (self.base_s, self.max_s, self.cooling_max_s)
        if self.requests < 1 or not all(math.isfinite(value) and value >= 0 for value in values):
            raise ConfigurationError(
                "rest: durations must be finite numbers of seconds, 0 or more; requests at least 1"
            )


@dataclass(slots=True, eq=False)
class _Books:
    """What is known against one deployment."""

    until: float = -math.inf
    error: AttemptError | None = None
    kind: FailureKind = FailureKind.RESTING
    told: float = -math.inf
    """When it was told to pause last."""
    began: float = -math.inf
    times: int = 0
    """How often it has failed in a row, as in law 2."""
    odd: set[int] = field(default_factory=set)
    """Fingerprints of the requests it failed for, as in law 3."""

    def leave_alone(self, now: float, pause_s: float, error: AttemptError, kind: FailureKind) -> None:
        """Of two pauses the one that ends later counts: a rest cuts no cooling short, nor the other way round."""
        self.told = now
        until = now + pause_s
        if until > self.until:
            self.until, self.error, self.kind = until, error, kind


class RestBoard:
    """The rests of a router, by deployment id. Ids come from configuration and discovery only."""

    def __init__(self, policy: RestPolicy | None = None) -> None:
        self.policy = policy or RestPolicy()
        self._books: dict[str, _Books] = {}

    def refusal(self, deployment: str, now: float, *, alone: bool = False) -> AttemptError | None:
        """Return the error of an attempt that is not made because the deployment rests; None when it may be asked.

        `alone`: nobody else is left to ask. One that is only passed over asks for no pause (`retry_after_s` None).
        """
        books = self._books.get(deployment)
        if books is None or books.error is None or now >= books.until:
            return None
        passed_over = books.kind is FailureKind.RESTING and books.times < 2
        if passed_over and alone:
            return None
        error = books.error
        return AttemptError(
            error.message,
            kind=FailureKind.COOLING if passed_over else books.kind,
            status=error.status,
            code=error.code,
            type=error.type,
            param=error.param,
            retry_after_s=None if passed_over else books.until - now,
        )

    def failed(
        self, deployment: str, error: AttemptError, *, began: float, now: float, fingerprint: Callable[[], int]
    ) -> None:
        """Take note of a failed attempt that began at `began`; `fingerprint` tells one request from another."""
        if error.kind is FailureKind.RATE_LIMITED or (error.kind is FailureKind.SERVER and error.retry_after_s):
            books = self._books.setdefault(deployment, _Books())
            pause_s = min(error.retry_after_s or 0.0, self.policy.cooling_max_s)
            books.leave_alone(now, pause_s, error, FailureKind.COOLING)
        elif error.kind is FailureKind.MODEL_FAILED and self.policy.base_s > 0:
            books = self._books.setdefault(deployment, _Books())
            if began < books.began:
                return
            if error.code != MODEL_DOWN:
                books.odd.add(fingerprint())
                if len(books.odd) < self.policy.requests:
                    return
            self._rest(books, error, now)

    def succeeded(self, deployment: str, *, began: float) -> None:
        """Take note of an attempt that began at `began` and went well."""
        books = self._books.get(deployment)
        if books is None:
            return
        if began >= books.told:
            del self._books[deployment]
        else:
            books.odd.clear()

    def states(self, now: float) -> dict[str, tuple[str, float]]:
        """Return (code, seconds left) of each deployment that rests now."""
        return {
            name: (books.error.code, books.until - now)
            for name, books in self._books.items()
            if books.error is not None and books.until > now
        }

    def _rest(self, books: _Books, error: AttemptError, now: float) -> None:
        pause_s = min(self.policy.max_s, self.policy.base_s * 2.0 ** min(max(0, books.times - 1), 32))
        books.times += 1
        books.odd.clear()
        books.began = now
        books.leave_alone(now, pause_s, error, FailureKind.RESTING)
