"""The attempt loop: one request, its candidates, and what to do when an attempt fails. No ASGI in here."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import anyio

from ..deployment import Deployment
from ..events import AttemptFinished, Observer
from ..exceptions import (
    AdmissionError,
    AttemptError,
    AttemptRecord,
    BreakerOpenError,
    FailureKind,
    RouteExhaustedError,
    SmartRouterError,
    UnsupportedParameterError,
)
from ..types import Clock, Random
from .breaker import BreakerBoard, CircuitBreaker, Permit
from .budget import BudgetBoard
from .retry import NEVER_REACHED, Failure, GiveUp, RetryPolicy, TryNow, counts_as_failure, decide, most_telling

IDLE_QUESTION_S = 1.0

logger = logging.getLogger("smartrouter_asgi")


class Held(Protocol):
    """A lease on GPU memory, as an attempt sees it."""

    def release(self) -> None:
        """Give it back: the engine has stopped working."""

    def drain(self) -> None:
        """Give it back once the engine has stopped working, which it perhaps has not yet."""


@dataclass(slots=True, eq=False, kw_only=True)
class Attempt:
    """One dispatch to one deployment, numbered from 1. The permit is taken late and settled exactly once."""

    number: int
    deployment: Deployment
    operation: str = "chat"
    started: float = 0.0
    breaker: CircuitBreaker | None = None
    permit: Permit | None = None
    lease: Held | None = None
    keeps_lease: bool = False
    """The attempt loop is in charge of the lease after a failure, so that a retry costs no reload."""
    first_token_s: float | None = None

    def start(self) -> None:
        """Take the permit, right before the engine is asked. Raises `BreakerOpenError`. Harmless when taken already."""
        if self.permit is None and self.breaker is not None:
            self.permit = self.breaker.acquire()

    def succeed(self) -> None:
        """Settle the permit: the engine has answered, or begun to."""
        if self.permit is not None:
            self.permit.success()

    def fail(self, kind: FailureKind) -> None:
        """Settle the permit by what the failure says about the backend."""
        if self.permit is not None:
            if counts_as_failure(kind):
                self.permit.failure()
            else:
                self.permit.release()

    def cancel(self) -> None:
        """Settle the permit as if nothing had happened."""
        if self.permit is not None:
            self.permit.release()

    def stream_ended(self, *, failed: bool) -> None:
        """Record how a committed stream ended, apart from how it began."""
        if self.permit is not None:
            self.permit.late_outcome(failed)

    def upstream_ended(self, *, busy: bool = False) -> None:
        """Say that the exchange is over: the lease need not wait for a slow reader, only for a `busy` engine."""
        let_go(self.lease, busy=busy)


@dataclass(slots=True, eq=False, kw_only=True)
class AttemptLoop:
    """Retries and falls back until an attempt succeeds, the policy gives up, or the answer is committed."""

    policy: RetryPolicy
    breakers: BreakerBoard
    budgets: BudgetBoard
    clock: Clock
    random: Random
    sleep: Callable[[float], Awaitable[None]]
    idle: Callable[[Deployment], Awaitable[bool | None]] | None = None
    """Asks whether an engine is idle again, so that it may be asked again after it went silent."""
    observer: Observer | None = None

    async def run(
        self,
        candidates: Sequence[Deployment],
        call: Callable[[Attempt], Awaitable[None]],
        *,
        operation: str,
        deadline: float = math.inf,
        committed: Callable[[], bool],
        client_retry: bool = False,
        begin: bool = False,
        before: int = 0,
    ) -> None:
        """Call `call` with attempts until one returns.

        `before` counts the attempts that the request has made already. `begin` takes the permit before the call, for
        inner apps that know nothing of attempts. Raises the error to answer with: `RouteExhaustedError` once engines
        were asked in vain, else the one failure that says it all. After commit every error passes as it is.
        Cancellation settles the permit as neutral.
        """
        policy = self.policy
        if before:  # what the request has used up already on candidates that refused it
            policy = replace(policy, max_retries=max(0, policy.max_retries - before))
        failures: list[Failure] = []
        errors: list[AttemptError] = []
        records: list[AttemptRecord] = []
        index, lease = 0, None
        if not client_retry:
            self.budgets.deposit(candidates[0].backend, self.clock())
        while True:
            attempt = self._attempt(before + len(records) + 1, candidates[index], operation, lease)
            try:
                error = await self._once(attempt, call, committed, begin=begin)
            except BaseException:
                let_go(attempt.lease, busy=False)  # unless the gate has let go of it already
                raise
            if error is None:
                return
            now = self.clock()
            errors.append(error)
            failures.append(Failure(candidate=index, kind=error.kind, retry_after_s=error.retry_after_s, at=now))
            records.append(_record(attempt, error, now))
            lease, idle = attempt.lease, False
            try:
                if len({failure.candidate for failure in failures}) == len(candidates):
                    idle = await self._idle(attempt, error, deadline)
                now = self.clock()
                decision = decide(
                    policy=policy,
                    failures=failures,
                    candidates=len(candidates),
                    now=now,
                    deadline=deadline,
                    random=self.random,
                    idle=frozenset({index}) if idle else frozenset(),
                )
                if isinstance(decision, GiveUp) or (
                    decision.costs_budget and not self.budgets.withdraw(candidates[decision.candidate].backend, now)
                ):
                    raise _final(errors, records) from error
                if decision.candidate != index:
                    let_go(lease, busy=error.engine_busy)
                    lease = None
                index = decision.candidate
                if not isinstance(decision, TryNow):
                    await self.sleep(decision.delay_s)
            except BaseException:
                let_go(lease, busy=error.engine_busy and not idle)
                raise

    def _attempt(self, number: int, deployment: Deployment, operation: str, lease: Held | None) -> Attempt:
        return Attempt(
            number=number,
            deployment=deployment,
            operation=operation,
            started=self.clock(),
            breaker=self.breakers.get(deployment.backend, operation),
            lease=lease,
            keeps_lease=True,
        )

    async def _once(
        self,
        attempt: Attempt,
        call: Callable[[Attempt], Awaitable[None]],
        committed: Callable[[], bool],
        *,
        begin: bool,
    ) -> AttemptError | None:
        """Make one attempt; return its failure, None when it succeeded, or raise what nobody may retry."""
        outcome = "cancelled"
        try:
            breaker = attempt.breaker
            wait_s = breaker.peek() if breaker is not None else None
            if wait_s is not None:
                raise BreakerOpenError(
                    f"backend '{attempt.deployment.backend}' has failed too often and rests for now",
                    retry_after_s=wait_s,
                )
            if begin:
                attempt.start()
            await call(attempt)
        except (AttemptError, AdmissionError, UnsupportedParameterError) as exc:
            error = exc if isinstance(exc, AttemptError) else _as_attempt_error(exc)
            outcome = error.code
            attempt.fail(error.kind)
            if committed():
                raise
            return error
        except BaseException:
            attempt.cancel()
            raise
        else:
            outcome = "ok"
            attempt.succeed()
            return None
        finally:
            self._observe(attempt, outcome)

    async def _idle(self, attempt: Attempt, error: AttemptError, deadline: float) -> bool:
        """Ask whether an engine that went silent is done; one that does not say so in a moment is not."""
        if self.idle is None or error.kind not in (FailureKind.RESET, FailureKind.FIRST_TOKEN_TIMEOUT):
            return False
        try:
            with anyio.move_on_after(min(IDLE_QUESTION_S, max(0.0, deadline - self.clock()))):
                return bool(await self.idle(attempt.deployment))
        except Exception:  # who cannot be asked is not known to be idle
            logger.debug("asking '%s' whether it is idle failed", attempt.deployment.backend, exc_info=True)
        return False

    def _observe(self, attempt: Attempt, outcome: str) -> None:
        if self.observer is not None:
            self.observer.on_event(
                AttemptFinished(
                    backend=attempt.deployment.backend,
                    model=attempt.deployment.model,
                    operation=attempt.operation,
                    number=attempt.number,
                    outcome=outcome,
                    duration_s=self.clock() - attempt.started,
                    first_token_s=attempt.first_token_s,
                )
            )


def _record(attempt: Attempt, error: AttemptError, now: float) -> AttemptRecord:
    return AttemptRecord(
        number=attempt.number,
        deployment=attempt.deployment.id,
        status=error.status,
        code=error.code,
        duration_s=now - attempt.started,
    )


def let_go(lease: Held | None, *, busy: bool) -> None:
    """Give a lease back: at once, or as soon as a `busy` engine has stopped."""
    if lease is not None:
        if busy:
            lease.drain()
        else:
            lease.release()


def _as_attempt_error(exc: AdmissionError | UnsupportedParameterError) -> AttemptError:
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
