"""What to do after an attempt failed: pure decisions over the failures so far.

`decide` goes through these, in order:
1. the engine said no to the request itself (REJECTED): give up.
2. the deadline has passed: give up.
3. the extra attempts are used up: give up. Failures that never reached an engine use up none.
4. a reused connection died (STALE): the same candidate at once, one time.
5. two engines have died over the request (RESET), or have cut it short (UPLOAD): it may be what kills them, or too
   large for any, so nobody else is given it.
6. an untried candidate: at once, in the order of the plan.
7. a candidate one may come back to: the soonest of them, after its delay.
   Never before its Retry-After, which may be at most `retry_after_cap_s`; never past the deadline; and not for ever:
   a candidate that could not be asked (COOLING, LOCAL) is come back to as often as there are extra attempts.
8. nothing left: give up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..exceptions import AttemptError, ConfigurationError, FailureKind
from .backoff import compute_delay_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..types import Random

GiveUpReason: TypeAlias = Literal["rejected", "deadline", "max_retries", "exhausted"]

_PAUSED = frozenset({FailureKind.COOLING, FailureKind.LOCAL})
"""Nobody was asked, and one may come back: after the pause it asked for, or when the gateway has room again."""

NEVER_REACHED = _PAUSED | {
    FailureKind.UNSUPPORTED,
    FailureKind.ADMISSION,
    FailureKind.BREAKER_OPEN,
    FailureKind.RESTING,
}
"""Failures of attempts that no engine ever saw: they use up neither retries nor budget."""

_NO_WORK = NEVER_REACHED | {FailureKind.AUTH, FailureKind.MODEL_MISSING}
"""After these nobody has worked for the request yet: whoever is asked next is asked for the first time."""

_FINAL = (NEVER_REACHED - _PAUSED) | {
    FailureKind.UPLOAD,
    FailureKind.PROTOCOL,
    FailureKind.AUTH,
    FailureKind.MODEL_MISSING,
    FailureKind.MODEL_FAILED,
}
_ENGINE_MAY_BE_BUSY = frozenset({FailureKind.FIRST_TOKEN_TIMEOUT, FailureKind.RESET})
_PERHAPS_THE_REQUEST = frozenset({FailureKind.RESET, FailureKind.UPLOAD})
_SAYS_LITTLE = frozenset({FailureKind.CONNECT, FailureKind.STALE, FailureKind.LOCAL, FailureKind.MODEL_MISSING})
"""Nothing was heard, or only that another place has not got the model: any other failure says more."""

_NOT_NOW = frozenset({FailureKind.ADMISSION, FailureKind.COOLING, FailureKind.RESTING})
_BREAKER_TIER = 4
_BREAKER_FAILURES = _ENGINE_MAY_BE_BUSY | {FailureKind.CONNECT, FailureKind.SERVER, FailureKind.PROTOCOL}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently to try again; switched off, a request reaches one engine once."""

    enabled: bool = True
    max_retries: int = 3
    """Extra attempts of the whole request, over all candidates."""
    base_delay_s: float = 0.5
    max_delay_s: float = 8.0
    retry_after_cap_s: float = 30.0
    """A candidate that asks for a longer pause is out for the request."""

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ConfigurationError("retry: max_retries must be 0 or more")
        for name in ("base_delay_s", "max_delay_s", "retry_after_cap_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"retry: {name} must be a finite number of seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt: which candidate (its index in the plan), why, when (monotonic), and what it asked for."""

    candidate: int
    kind: FailureKind
    at: float
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class TryNow:
    """Attempt this candidate at once."""

    candidate: int
    costs_budget: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Attempt this candidate after `delay_s` (> 0)."""

    candidate: int
    delay_s: float
    costs_budget: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Answer the client with what there is."""

    reason: GiveUpReason


Decision: TypeAlias = TryNow | Wait | GiveUp


def counts_as_failure(kind: FailureKind) -> bool:
    """Tell whether a breaker takes this for a failure of the server; everything else is neutral."""
    return kind in _BREAKER_FAILURES


def decide(
    *,
    policy: RetryPolicy,
    failures: Sequence[Failure],
    candidates: int,
    now: float,
    deadline: float,
    random: Random,
    idle: frozenset[int] = frozenset(),
) -> Decision:
    """Say what follows the failures so far; `idle` are the candidates whose engines are seen idle now.

    `costs_budget` is true as soon as an engine may have worked for the request: from then on an attempt is a retry.
    """
    if any(failure.kind is FailureKind.REJECTED for failure in failures):
        return GiveUp("rejected")
    if now >= deadline:
        return GiveUp("deadline")
    reached = sum(failure.kind not in NEVER_REACHED for failure in failures)
    extra = policy.max_retries if policy.enabled else 0
    if reached > extra:
        return GiveUp("max_retries")
    costs_budget = any(failure.kind not in _NO_WORK for failure in failures)
    by_candidate: list[list[Failure]] = [[] for _ in range(candidates)]
    for failure in failures:
        by_candidate[failure.candidate].append(failure)

    ready = {
        index: _ready_at(own, policy, random)
        for index, own in enumerate(by_candidate)
        if own and not _is_out(own, policy, extra, idle=index in idle)
    }
    last = failures[-1].candidate if failures else 0
    if last in ready and _is_first_stale(by_candidate[last]) and _not_before(by_candidate[last]) <= now:
        return TryNow(last, costs_budget)
    if sum(failure.kind in _PERHAPS_THE_REQUEST for failure in failures) > 1:
        return GiveUp("exhausted")
    for index, own in enumerate(by_candidate):
        if not own:
            return TryNow(index, costs_budget)
    if not ready:
        return GiveUp("exhausted")
    index = min(ready, key=lambda i: ready[i])
    delay_s = ready[index] - now
    if delay_s <= 0:
        return TryNow(index, costs_budget)
    return Wait(index, delay_s, costs_budget) if now + delay_s < deadline else GiveUp("deadline")


def most_telling(errors: Sequence[AttemptError]) -> AttemptError:
    """Return the failure an exhausted route answers with; `errors` in the order they happened, at least one.

    1. the last one of an engine that was reached; 2. the last that found nobody there, or could not go there; 3. the
    last word of the gate, or of a deployment that rests; 4. of open breakers the one that closes soonest; 5. the last
    UNSUPPORTED, which only wins alone.
    """
    tiers: dict[int, AttemptError] = {}
    for error in errors:
        tier = _tier(error.kind)
        held = tiers.get(tier)
        if held is None or tier != _BREAKER_TIER or (error.retry_after_s or 0.0) < (held.retry_after_s or 0.0):
            tiers[tier] = error
    return tiers[min(tiers)]


def _tier(kind: FailureKind) -> int:
    if kind is FailureKind.UNSUPPORTED:
        return 5
    if kind is FailureKind.BREAKER_OPEN:
        return _BREAKER_TIER
    if kind in _NOT_NOW:
        return 3
    return 2 if kind in _SAYS_LITTLE else 1


def _pause_s(failure: Failure) -> float:
    """Return what the upstream asked for: a number over 0, or 0."""
    asked = failure.retry_after_s
    return asked if asked is not None and asked > 0 else 0.0


def _is_out(own: Sequence[Failure], policy: RetryPolicy, extra: int, *, idle: bool) -> bool:
    if sum(failure.kind in _PAUSED for failure in own) > extra:
        return True
    if any(failure.kind in _FINAL or _pause_s(failure) > policy.retry_after_cap_s for failure in own):
        return True
    return own[-1].kind in _ENGINE_MAY_BE_BUSY and not idle


def _is_first_stale(own: Sequence[Failure]) -> bool:
    return own[-1].kind is FailureKind.STALE and sum(failure.kind is FailureKind.STALE for failure in own) == 1


def _not_before(own: Sequence[Failure]) -> float:
    return max(failure.at + _pause_s(failure) for failure in own)


def _ready_at(own: Sequence[Failure], policy: RetryPolicy, random: Random) -> float:
    """When to come back to a candidate that failed: as it asked, a little later rather than earlier, or by backoff."""
    pause_s = _pause_s(own[-1])
    if pause_s:
        delay_s = pause_s + random() * min(1.0, pause_s / 10)
    else:
        delay_s = compute_delay_s(
            len(own), base_delay_s=policy.base_delay_s, max_delay_s=policy.max_delay_s, random=random
        )
    return max(_not_before(own), own[-1].at + delay_s)
