"""The keys of one backend: which of them a request takes, and what becomes of one that is refused. Pure; see `tokens`.

A key that is refused, in order:
1. 401: retired; once all are, one of them is asked again every `SECOND_CHANCE_S`. A token that can be had anew
   (environment, callback) rests `RENEWAL_REST_S` instead.
2. 403: the same, but only once another key got through with the same request: a 403 may be about the request.
3. 402, no credit: rests `QUOTA_REST_S`, again only once another key got through: it may be about the request's size.
4. 429: rests for what the answer asks for, at most `MAX_REST_S`; else `QUOTA_REST_S` when it speaks of a quota that is
   used up, else `DEFAULT_REST_S`. `insufficient_quota` always rests `QUOTA_REST_S`: waiting less does not help.
5. a token that cannot be had: rests for `NO_TOKEN_REST_S`.

The only key of a backend is handed out whatever is noted of it: asking it is how one learns that it works again.
Time comes in as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..exceptions import AttemptError, FailureKind
from .tokens import Credential, EnvironmentKey, FixedKey, TokenError, TokenSource

__all__ = [
    "Credential",
    "EnvironmentKey",
    "FixedKey",
    "KeyLease",
    "KeyPool",
    "KeyRefusedError",
    "KeyState",
    "KeyTrial",
    "TokenError",
    "TokenSource",
    "Verdict",
    "judge",
]

DEFAULT_REST_S = 1.0
"""After a 429 that does not say how long. Short: asking too early costs one quick refusal that no client sees, asking
too late costs a key."""
MIN_REST_S = 1.0
SECOND_CHANCE_S = 60.0
"""How long after their retirement one of the keys is asked again, when all of them are retired."""
QUOTA_REST_S = 3600.0
MAX_REST_S = 3600.0
RENEWAL_REST_S = 60.0
NO_TOKEN_REST_S = 5.0

_QUOTA_CODE = re.compile(rb"insufficient_quota|billing_hard_limit_reached")
_QUOTA_TEXT = re.compile(rb"exceeded your current quota|quota exceeded|out of credits?\b|\bbilling\b", re.IGNORECASE)
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"([0-9]{1,6}(?:\.[0-9]{1,9})?)s"')  # Gemini says it in the body

KeyStatus: TypeAlias = Literal["ready", "resting", "retired"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a refusal means for the key: it rests for a time, or for good (`rests_for_s` None)."""

    rests_for_s: float | None
    needs_proof: bool = False
    """Only if another key gets through with the same request."""
    quota: bool = False


class KeyRefusedError(Exception):
    """An answer that another key may not get; never leaves the backends."""

    def __init__(self, error: AttemptError, verdict: Verdict, *, status: int = 0) -> None:
        super().__init__(error.message)
        self.error = error
        self.verdict = verdict
        self.status = status


def judge(status: int, error: AttemptError, body: bytes, *, renewable: bool = False) -> Verdict | None:
    """Say what an answer means for the key it was asked with; None when it says nothing of the key."""
    if error.kind is FailureKind.AUTH and status in (401, 403):
        return Verdict(RENEWAL_REST_S if renewable else None, needs_proof=status == 403)
    if error.kind is FailureKind.AUTH and status == 402:
        return Verdict(QUOTA_REST_S, needs_proof=True, quota=True)
    if error.kind is not FailureKind.RATE_LIMITED or status != 429:
        return None
    if _QUOTA_CODE.search(body):
        return Verdict(QUOTA_REST_S, quota=True)
    rests_for_s = error.retry_after_s
    if rests_for_s is None and (told := _RETRY_DELAY.search(body)):
        rests_for_s = float(told[1])
    if rests_for_s is not None:
        return Verdict(min(max(rests_for_s, MIN_REST_S), MAX_REST_S))
    return Verdict(QUOTA_REST_S, quota=True) if _QUOTA_TEXT.search(body) else Verdict(DEFAULT_REST_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """One key, as it may be shown."""

    position: int
    """From 1, in the order of the configuration."""
    state: KeyStatus
    rests_for_s: float
    in_flight: int


class _Key:
    __slots__ = ("in_flight", "index", "rests_until", "retired", "retired_at")

    def __init__(self, index: int) -> None:
        self.index = index
        self.in_flight = 0
        self.rests_until = float("-inf")
        self.retired = False
        self.retired_at = float("-inf")


class KeyLease:
    """One request's use of one key. Released exactly once, however often it is said."""

    __slots__ = ("_key",)

    def __init__(self, key: _Key) -> None:
        key.in_flight += 1
        self._key: _Key | None = key

    def release(self) -> None:
        """Say that the exchange is over."""
        key, self._key = self._key, None
        if key is not None:
            key.in_flight -= 1


class KeyPool:
    """The keys of one backend by index: what is in flight on each, which rest, which are retired. Knows no secret."""

    def __init__(self, size: int) -> None:
        self._keys = tuple(_Key(index) for index in range(size))
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyPool({len(self._keys)})"

    def choose(self, now: float, *, without: Collection[int] = ()) -> tuple[int, KeyLease] | None:
        """Take the key with least in flight that neither rests nor is retired, in turn where several have."""
        size = len(self._keys)
        best: _Key | None = None
        for offset in range(size):
            key = self._keys[(self._next + offset) % size]
            usable = size == 1 or (not key.retired and key.rests_until <= now)
            if usable and key.index not in without and (best is None or key.in_flight < best.in_flight):
                best = key
        if best is None:
            best = self._second_chance(now, without)
        if best is None:
            return None
        self._next = (best.index + 1) % size
        return best.index, KeyLease(best)

    def _second_chance(self, now: float, without: Collection[int]) -> _Key | None:
        """Once all keys are retired, ask again with one from time to time: it may have been the server's fault."""
        if not all(key.retired for key in self._keys):
            return None
        key = min((k for k in self._keys if k.index not in without), key=lambda k: k.retired_at, default=None)
        if key is None or now - key.retired_at < SECOND_CHANCE_S:
            return None
        key.retired_at = now
        return key

    def preferred(self, now: float) -> list[int]:
        """Return all keys, the most promising first: for questions that take no turn."""
        return sorted(range(len(self._keys)), key=lambda i: (self._keys[i].retired, self._keys[i].rests_until > now))

    def apply(self, index: int, verdict: Verdict, now: float) -> bool:
        """Rest or retire a key, never for less than it does already; true when that is news."""
        key = self._keys[index]
        if verdict.rests_for_s is None:
            news, key.retired = not key.retired, True
            key.retired_at = now
            return news
        news = not key.retired and key.rests_until <= now
        key.rests_until = max(key.rests_until, now + verdict.rests_for_s)
        return news

    def worked(self, index: int) -> None:
        """Note that a key was accepted: it is not retired any more, and an only key does not rest either."""
        key = self._keys[index]
        key.retired = False
        if len(self._keys) == 1:
            key.rests_until = float("-inf")

    def soonest_s(self, now: float) -> float | None:
        """Return when the first resting key is back, in seconds from now; None when none rests."""
        rests = [key.rests_until - now for key in self._keys if not key.retired and key.rests_until > now]
        return min(rests, default=None)

    def states(self, now: float) -> tuple[KeyState, ...]:
        """Return how each key is."""
        return tuple(
            KeyState(
                position=key.index + 1,
                state="retired" if key.retired else "resting" if key.rests_until > now else "ready",
                rests_for_s=0.0 if key.retired else max(0.0, key.rests_until - now),
                in_flight=key.in_flight,
            )
            for key in self._keys
        )


class KeyTrial:
    """One request's way through the keys: none twice, and none blamed for what the request itself may be guilty of."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._tried: set[int] = set()
        self._unproven: list[tuple[int, Verdict]] = []
        self._errors: list[AttemptError] = []

    def choose(self, now: float) -> tuple[int, KeyLease] | None:
        """Take the next key; None when there is none left."""
        chosen = self._pool.choose(now, without=self._tried)
        if chosen is not None:
            self._tried.add(chosen[0])
        return chosen

    def refused(self, index: int, refusal: KeyRefusedError, now: float) -> list[tuple[int, Verdict]]:
        """Note a refusal; return what became of which key, if that is news."""
        self._errors.append(refusal.error)
        if refusal.verdict.needs_proof:
            self._unproven.append((index, refusal.verdict))
            return []
        return [(index, refusal.verdict)] if self._pool.apply(index, refusal.verdict, now) else []

    def passed(self, index: int, now: float) -> list[tuple[int, Verdict]]:
        """Note that a key got through: those refused before it were to blame. Returns what is news."""
        self._pool.worked(index)
        return [(i, verdict) for i, verdict in self._unproven if self._pool.apply(i, verdict, now)]

    def failure(self, backend: str, now: float) -> AttemptError:
        """Return what to answer when no key is left: that a pause helps, where it does; else the last refusal."""
        soonest_s = self._pool.soonest_s(now) if len(self._pool) > 1 else None
        for error in self._errors:
            if error.kind is FailureKind.RATE_LIMITED:
                if error.retry_after_s is not None and soonest_s is not None:
                    error.retry_after_s = soonest_s
                return error
        if self._errors:
            return self._errors[-1]
        if soonest_s is not None:
            return AttemptError(
                f"no api key of backend '{backend}' is free: they rest after rate limits",
                kind=FailureKind.RATE_LIMITED,
                status=429,
                code="rate_limited",
                type="rate_limit_error",
                retry_after_s=soonest_s,
            )
        return AttemptError(
            f"backend '{backend}' has refused all of its {len(self._pool)} api keys: check them in the configuration",
            kind=FailureKind.AUTH,
            code="upstream_auth",
        )
