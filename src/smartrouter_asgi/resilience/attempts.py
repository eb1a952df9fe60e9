"""The attempt loop: one request, its candidates, and what to do when an attempt fails. No ASGI in here."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import anyio
import msgspec

from ..deployment import Deployment
from ..events import AttemptFinished, Observer
from ..exceptions import (
    AdmissionError,
    AttemptError,
    AttemptRecord,
    BreakerOpenError,
    DeadlineExceededError,
    FailureKind,
    RouteExhaustedError,
    SmartRouterError,
    SpilledError,
    UnsupportedParameterError,
)
from ..types import Clock, Random
from .attempt import Attempt, Held, let_go
from .breaker import BreakerBoard
from .budget import BudgetBoard
from .hedging import Hedging
from .poison import PoisonBook
from .racing import race
from .rest import RestBoard
from .retry import NEVER_REACHED, Failure, GiveUp, RetryPolicy, TryNow, Wait, decide, most_telling

IDLE_QUESTION_S = 1.0

logger = logging.getLogger("smartrouter_asgi")


class Request(Protocol):
    """One request, as the loop sees it."""

    records: list[AttemptRecord]
    """Its attempts that failed, in earlier runs too; those of a run are added."""

    @property
    def committed(self) -> bool:
        """Whether its answer has begun: nothing is retried after that."""

    @property
    def fingerprint(self) -> Callable[[], int] | None:
        """Finds what tells it from other requests; None where no candidate is to rest for what it answers."""

    async def make(self, attempt: Attempt) -> None:
        """Make one attempt: return once the answer is complete, raise `AttemptError` when it failed before commit."""


@dataclass(slots=True, eq=False, kw_only=True)
class AttemptLoop:
    """Retries and falls back until an attempt succeeds, the policy gives up, or the answer is committed."""

    policy: RetryPolicy
    breakers: BreakerBoard
    budgets: BudgetBoard
    clock: Clock
    random: Random
    sleep: Callable[[float], Awaitable[None]]
    rests: RestBoard = field(default_factory=RestBoard)
    hedging: Hedging | None = None
    idle: Callable[[Deployment], Awaitable[bool | None]] | None = None
    """Asks whether an engine is idle again, so that it may be asked again after it went silent."""
    observer: Observer | None = None
    poison: dict[tuple[str, str], PoisonBook] = field(default_factory=dict)
    """Requests that keep failing, by backend and operation."""

    def run(
        self,
        request: Request,
        candidates: Sequence[Deployment],
        *,
        operation: str,
        deadline: float = math.inf,
        client_retry: bool = False,
        begin: bool = False,
        before: int = 0,
    ) -> Coroutine[Any, Any, None]:
        """Make attempts at `request` until one returns.

        `before` counts the attempts that it has made already. `begin` takes the permit before each attempt, for inner
        apps that know nothing of attempts. Raises the error to answer with: `RouteExhaustedError` once engines were
        asked in vain or the deadline has passed, else the one failure that says it all. After commit every error passes
        as it is. Cancellation settles the permit as neutral.
        """
        records, policy = request.records, self.policy
        if records:  # what the request has used up already on candidates that refused it
            used = sum(record.asked for record in records)
            policy = replace(policy, max_retries=max(0, policy.max_retries - used))
        elif not client_retry:  # one request, however many candidates it goes to in the end
            self.budgets.deposit(candidates[0].backend, self.clock())
        return _Route(
            loop=self,
            request=request,
            policy=policy,
            candidates=candidates,
            operation=operation,
            deadline=deadline,
            begin=begin,
            made=before,
            earns=not client_retry,
        ).run()


class _Route(msgspec.Struct, kw_only=True, eq=False):
    """One request on its way through its candidates."""

    loop: AttemptLoop
    request: Request
    policy: RetryPolicy
    candidates: Sequence[Deployment]
    operation: str
    deadline: float
    begin: bool
    made: int
    """How many attempts there have been."""
    earns: bool
    """It is no retry of the client's own."""
    failures: list[Failure] = []
    errors: list[AttemptError] = []

    async def run(self) -> None:
        index, lease = 0, None
        while True:
            attempt = self.attempt(index, lease)
            try:
                after_s = None if self.loop.hedging is None else self._hedged_after_s(attempt, self.loop.hedging)
                error = await (self.once(index, attempt) if after_s is None else race(self, index, attempt, after_s))
            except DeadlineExceededError as exc:
                let_go(attempt.lease, busy=False)
                if self.request.committed:
                    raise
                raise RouteExhaustedError(exc, tuple(self.request.records)) from exc
            except BaseException:
                let_go(attempt.lease, busy=False)  # unless the gate has let go of it already
                raise
            if error is None:
                return
            lease, idle = attempt.lease, False
            try:
                if len({failure.candidate for failure in self.failures}) == len(self.candidates):
                    idle = await self._idle(attempt, error)
                decision = self._decide(frozenset({index}) if idle else frozenset())
                if decision.candidate != index:
                    let_go(lease, busy=error.engine_busy)
                    lease = None
                index = decision.candidate
                if not isinstance(decision, TryNow):
                    await self.loop.sleep(decision.delay_s)
            except BaseException:
                let_go(lease, busy=error.engine_busy and not idle)
                raise

    def _decide(self, idle: frozenset[int]) -> TryNow | Wait:
        """Say what to try next and pay for it; raises the error to answer with when there is nothing."""
        loop = self.loop
        now = loop.clock()
        decision = decide(
            policy=self.policy,
            failures=self.failures,
            candidates=len(self.candidates),
            now=now,
            deadline=self.deadline,
            random=loop.random,
            idle=idle,
        )
        if isinstance(decision, GiveUp) or not self._pay(decision, now):
            raise _final(self.errors, self.request.records) from self.errors[-1]
        return decision

    def _pay(self, decision: TryNow | Wait, now: float) -> bool:
        """Pay for the next attempt; False when the budget does not allow it."""
        budgets, backend = self.loop.budgets, self.candidates[decision.candidate].backend
        asked = {self.candidates[f.candidate].backend for f in self.failures if f.kind not in NEVER_REACHED}
        if backend in asked:
            return not decision.costs_budget or budgets.withdraw(backend, now)
        if backend != self.candidates[0].backend:
            budgets.fall_back(backend, now, earns=self.earns, costs=decision.costs_budget)
        return True

    def attempt(self, index: int, lease: Held | None) -> Attempt:
        """Begin the next attempt, at the candidate of an index."""
        loop, deployment = self.loop, self.candidates[index]
        self.made += 1
        return Attempt(
            number=self.made,
            deployment=deployment,
            operation=self.operation,
            started=loop.clock(),
            breaker=loop.breakers.get(deployment.backend, self.operation),
            lease=lease,
            keeps_lease=True,
            others=len(self.candidates) > 1 and not self._is_last(index),
        )

    def _is_last(self, index: int) -> bool:
        """Tell whether every other candidate has been tried, or skipped, already."""
        return len({failure.candidate for failure in self.failures} | {index}) == len(self.candidates)

    # -- one attempt

    async def once(self, index: int, attempt: Attempt) -> AttemptError | None:
        """Make one attempt; return its failure, None when it succeeded, or raise what nobody may retry."""
        outcome, kind = "cancelled", None
        try:
            self._look(attempt)
            if self.begin:
                attempt.start()
            await self.request.make(attempt)
        except (AttemptError, AdmissionError, UnsupportedParameterError) as exc:
            error = exc if isinstance(exc, AttemptError) else _as_attempt_error(exc)
            outcome, kind = error.code, error.kind
            if self._is_poison(attempt, kind):
                attempt.cancel()
            attempt.fail(kind)
            if self.request.committed:
                raise
            self._note(index, attempt, error)
            return error
        except DeadlineExceededError as exc:
            outcome = exc.code
            attempt.cancel()
            self.request.records.append(_record(attempt, exc, self.loop.clock()))
            raise
        except BaseException:
            if attempt.entry is not None and attempt.entry.scope.cancel_called:
                outcome = "hedged"
            attempt.cancel()
            raise
        else:
            outcome = "ok"
            attempt.succeed()
            if self.loop.poison:
                self._clear_of_poison(attempt)
            self.loop.rests.succeeded(attempt.deployment.id, began=attempt.started)
            return None
        finally:
            self._observe(attempt, outcome, kind)

    def _is_poison(self, attempt: Attempt, kind: FailureKind) -> bool:
        """Tell whether a failure that a breaker would count is the request's own doing."""
        if kind not in (FailureKind.SERVER, FailureKind.RESET):
            return False
        fingerprint = self.request.fingerprint
        if fingerprint is None:
            return False
        book = self.loop.poison.setdefault((attempt.deployment.backend, self.operation), PoisonBook())
        return not book.failed(fingerprint(), self.loop.clock())

    def _clear_of_poison(self, attempt: Attempt) -> None:
        book = self.loop.poison.get((attempt.deployment.backend, self.operation))
        if book:
            fingerprint = self.request.fingerprint
            if fingerprint is not None:
                book.succeeded(fingerprint())

    def _look(self, attempt: Attempt) -> None:
        """Raise `AttemptError` when the deployment or its backend is left alone for now: before any queueing."""
        deployment = attempt.deployment
        refusal = self.loop.rests.refusal(deployment.id, attempt.started, alone=not attempt.others)
        if refusal is not None:
            raise refusal
        wait_s = attempt.breaker.peek() if attempt.breaker is not None else None
        if wait_s is not None:
            raise BreakerOpenError(
                f"backend '{deployment.backend}' has failed too often and rests for now", retry_after_s=wait_s
            )

    def _note(self, index: int, attempt: Attempt, error: AttemptError) -> None:
        now = self.loop.clock()
        self.errors.append(error)
        self.failures.append(Failure(candidate=index, kind=error.kind, retry_after_s=error.retry_after_s, at=now))
        self.request.records.append(_record(attempt, error, now))
        fingerprint = self.request.fingerprint
        if fingerprint is not None:
            self.loop.rests.failed(
                attempt.deployment.id, error, began=attempt.started, now=now, fingerprint=fingerprint
            )

    async def _idle(self, attempt: Attempt, error: AttemptError) -> bool:
        """Ask whether an engine that went silent is done; one that does not say so in a moment is not."""
        loop = self.loop
        if loop.idle is None or error.kind not in (FailureKind.RESET, FailureKind.FIRST_TOKEN_TIMEOUT):
            return False
        try:
            with anyio.move_on_after(min(IDLE_QUESTION_S, max(0.0, self.deadline - loop.clock()))):
                return bool(await loop.idle(attempt.deployment))
        except Exception:  # who cannot be asked is not known to be idle
            logger.debug("asking '%s' whether it is idle failed", attempt.deployment.backend, exc_info=True)
        return False

    def _observe(self, attempt: Attempt, outcome: str, kind: FailureKind | None) -> None:
        loop = self.loop
        if loop.observer is not None:
            loop.observer.on_event(
                AttemptFinished(
                    backend=attempt.deployment.backend,
                    model=attempt.deployment.model,
                    operation=attempt.operation,
                    number=attempt.number,
                    outcome=outcome,
                    duration_s=loop.clock() - attempt.started,
                    first_token_s=attempt.first_token_s,
                    kind=kind,
                )
            )

    # -- hedges; see `racing`

    def _hedged_after_s(self, attempt: Attempt, hedging: Hedging) -> float | None:
        """Return how long an attempt may stay silent before it gets a hedge; None: for ever."""
        if self.operation != "stream" or self.begin or len(self.candidates) < 2:
            return None
        return hedging.after_s(attempt.deployment)

    def hedge(self, index: int) -> tuple[int, Attempt] | None:
        """Begin an attempt beside the one at `index`, paid for, at the next candidate that may be asked."""
        other = self._hedge_to(index)
        # Paid by the backend that is slow: the other one has not failed anybody.
        if other is None or not self.loop.budgets.withdraw(self.candidates[index].backend, self.loop.clock()):
            return None
        attempt = self.attempt(other, None)
        attempt.keeps_lease, attempt.waits = False, False
        return other, attempt

    def _hedge_to(self, index: int) -> int | None:
        loop, hedging = self.loop, self.loop.hedging
        used = sum(failure.kind not in NEVER_REACHED for failure in self.failures)
        if hedging is None or not self.policy.enabled or used >= self.policy.max_retries:
            return None
        tried = {failure.candidate for failure in self.failures} | {index}
        now = loop.clock()
        for other, deployment in enumerate(self.candidates):
            if (
                other not in tried
                and loop.breakers.get(deployment.backend, self.operation).state_name == "closed"
                and loop.rests.refusal(deployment.id, now) is None
                and hedging.is_ready(deployment)
            ):
                return other
        return None


def _record(attempt: Attempt, error: SmartRouterError, now: float) -> AttemptRecord:
    return AttemptRecord(
        number=attempt.number,
        deployment=attempt.deployment.id,
        status=error.status,
        code=error.code,
        duration_s=now - attempt.started,
        asked=not (isinstance(error, AttemptError) and error.kind in NEVER_REACHED),
    )


def _as_attempt_error(exc: AdmissionError | UnsupportedParameterError) -> AttemptError:
    if isinstance(exc, SpilledError):
        kind = FailureKind.COOLING  # come back to when nobody else has served it
    else:
        kind = FailureKind.ADMISSION if isinstance(exc, AdmissionError) else FailureKind.UNSUPPORTED
    return AttemptError(
        exc.message,
        kind=kind,
        status=exc.status,
        code=exc.code,
        type=exc.type,
        param=exc.param,
        retry_after_s=exc.retry_after_s,
    )


def _final(errors: Sequence[AttemptError], records: Sequence[AttemptRecord]) -> SmartRouterError:
    """Choose what to answer: a refusal speaks for itself, a route that was tried in vain lists its attempts."""
    telling = most_telling(errors)
    if errors[-1].kind is FailureKind.REJECTED:
        return errors[-1]
    if all(error.kind in NEVER_REACHED for error in errors):
        return telling
    return RouteExhaustedError(telling, tuple(records))
