"""Resilience: retries, breakers, fallbacks and the deadline around an inner app."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio

from .._asgi import BodyLimits, ReplayReceive, at_the_edge, declared, route_path
from ..deployment import Deployment
from ..events import Observer
from ..exceptions import (
    AttemptError,
    DeadlineExceededError,
    FailureKind,
    RouteExhaustedError,
    SmartRouterError,
    StackOrderError,
)
from ..resilience.attempt import Attempt
from ..resilience.attempts import AttemptLoop
from ..resilience.breaker import BreakerBoard, BreakerPolicy
from ..resilience.budget import BudgetBoard
from ..resilience.deadline import Timeouts
from ..resilience.hedging import Entry, Hedging
from ..resilience.keys import PathKeys
from ..resilience.rest import RestBoard
from ..resilience.retry import RetryPolicy
from ..state import SCOPE_KEY, RequestState, find_state
from ..types import ASGIApp, Clock, Message, Random, Receive, Scope, Send
from ..wire.errors import error_headers
from .status_guard import StatusGuard

logger = logging.getLogger("smartrouter_asgi")


class ResilienceMiddleware:
    """Makes attempts at the inner app until one commits: the plan's candidates, or the app itself around a foreign one.

    With a route plan in the scope each attempt goes to one deployment, and failures are `AttemptError`s raised before
    commit. Without a plan it protects any app: each of its paths has a breaker of its own (see `PathKeys`), or `key`
    names one, from a set that clients cannot enlarge. A `response.start` with a retryable status is held back and the
    body replayed, and an exception of the app counts as a failure. When no attempt does better, the client gets what
    the app itself had to say last.

    Nothing is retried after commit. The breaker is looked at before any queueing; the permit is taken by the layer
    closest to the engine.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        policy: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        breakers: BreakerBoard | None = None,
        budgets: BudgetBoard | None = None,
        rests: RestBoard | None = None,
        hedging: Hedging | None = None,
        timeouts: Timeouts | None = None,
        key: Callable[[Scope], str] | None = None,
        idle: Callable[[Deployment], Awaitable[bool | None]] | None = None,
        body: BodyLimits | None = None,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
        random: Random = random.random,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.app = app
        self._timeouts = timeouts or Timeouts()
        self._paths = PathKeys()
        self._key = key
        self._body = body or BodyLimits()
        self._starts_inside = declared(app, "starts_attempts")
        self._deadline_inside = declared(app, "keeps_deadline")
        self._loop = AttemptLoop(
            policy=policy or RetryPolicy(),
            breakers=breakers or BreakerBoard(breaker or BreakerPolicy(), clock=clock, observer=observer),
            budgets=budgets or BudgetBoard(),
            rests=rests or RestBoard(),
            hedging=hedging,
            clock=clock,
            random=random,
            sleep=sleep,
            idle=idle,
            observer=observer,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = find_state(scope)
        if state is None or state.body is None:
            await at_the_edge(self, scope, receive, send, limits=self._body)
            return
        if state.deadline == math.inf:
            state.bound(self._timeouts)
        plan = state.plan
        candidates = plan.candidates if plan is not None else (Deployment(backend=self._name(scope), model=""),)
        request = _Attempts(self, state, scope, receive, send)
        try:
            try:
                await self._run(request, state, candidates)
            except AttemptError as exc:
                others = plan.alternatives.get(exc.code) if plan is not None else None
                if not others or state.committed:
                    raise
                await self._run(request, state, others)
        except (AttemptError, RouteExhaustedError) as exc:
            if not request.guard.held or state.committed:
                raise
            await request.guard.replay(error_headers(exc))  # what the app itself had to say last
        finally:
            if plan is None and self._key is None:
                self._learn(route_path(scope), state.status)

    def _run(
        self, request: _Attempts, state: RequestState, candidates: Sequence[Deployment]
    ) -> Coroutine[Any, Any, None]:
        call = state.call
        return self._loop.run(
            request,
            candidates,
            operation=call.breaker_operation if call is not None else "call",
            deadline=state.commit_by,
            client_retry=state.headers.get(b"x-stainless-retry-count", b"0") != b"0",
            begin=not self._starts_inside,
            before=state.attempts,
        )

    def _name(self, scope: Scope) -> str:
        """Return what a foreign app's breaker and budget go by."""
        return self._key(scope) if self._key is not None else self._paths.key(route_path(scope))

    def _learn(self, path: str, status: int) -> None:
        """Take note of whether a path exists: what a client makes up must not stay."""
        if status not in (404, 405):
            self._paths.keep(path)
        elif self._paths.forget(path):
            self._loop.breakers.forget(path)
            self._loop.budgets.forget(path)


async def _drop(message: Message) -> None:
    raise StackOrderError("an answer of a layer of ours is never kept back")


_NO_GUARD = StatusGuard(_drop)
"""Of requests whose inner app is ours: it holds nothing."""


class _Attempts:
    """One request as the loop sees it: each attempt is a call of the inner app."""

    __slots__ = ("_app", "_ends_itself", "_receive", "_scope", "_send", "_state", "guard", "records")

    def __init__(
        self, layer: ResilienceMiddleware, state: RequestState, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app = layer.app
        self._ends_itself = layer._deadline_inside
        """The inner app is ours: it keeps the deadline, and raises instead of sending a status that may be retried."""
        self._state = state
        self._scope = scope
        self._receive = receive
        self._send = send
        self.guard = _NO_GUARD if self._ends_itself else StatusGuard(send)
        self.records = state.records

    @property
    def committed(self) -> bool:
        """Whether the answer has begun."""
        return self._state.status != 0

    @property
    def fingerprint(self) -> Callable[[], int] | None:
        """A foreign app may say 429 to one of its users: that is no reason to rest for the others."""
        return None if self._state.plan is None else self._fingerprint

    def _fingerprint(self) -> int:
        return self._state.fingerprint

    async def make(self, attempt: Attempt) -> None:
        """Call the inner app once; turn an answer that was kept back, or its exception, into the attempt's failure."""
        if attempt.entry is not None:
            await self._race(attempt, attempt.entry)
            return
        state = self._state
        state.attempt = attempt
        state.attempts = attempt.number
        try:
            if self._ends_itself:
                # What stands between us and ours may have read the body in an attempt before.
                receive = self._receive if attempt.number == 1 else ReplayReceive(state)
                await self._app(self._scope, receive, self._send)
            else:
                self.guard.forget()
                await self._call(attempt)
        except SmartRouterError:
            raise
        except Exception as exc:
            if state.committed:
                raise
            name = attempt.deployment.backend
            if not self.guard.held and not isinstance(exc, OSError):
                if state.plan is None:
                    attempt.fail(FailureKind.SERVER)  # a bug of the protected app: it counts, and is not repeated
                raise
            logger.warning("attempt %d at %r raised", attempt.number, name, exc_info=exc)
            raise self.guard.failure(name) or AttemptError(
                f"'{name}' failed before it answered", kind=FailureKind.RESET
            ) from exc
        if not self._ends_itself:
            self._judge(attempt)

    def _judge(self, attempt: Attempt) -> None:
        """Settle an attempt by what the app answered. Raises `AttemptError` where that was kept back."""
        failure = self.guard.failure(attempt.deployment.backend)
        if failure is not None:
            raise failure
        if self.guard.overflowed:
            attempt.fail(FailureKind.SERVER)
        elif self._state.plan is None and 400 <= self._state.status < 500:
            attempt.cancel()  # the client's error: no word about the app, as a probe neither

    async def _race(self, attempt: Attempt, entry: Entry) -> None:
        """Call the inner app beside another attempt, on a state of its own: the first `response.start` wins."""
        state = self._state
        own = state.fork(attempt)

        async def arbitrated(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not entry.claim():
                    await anyio.sleep_forever()  # its scope is cancelled already
                own.status = message["status"]
                state.attempt = attempt
            await self._send(message)

        try:
            await self._app({**self._scope, SCOPE_KEY: own}, ReplayReceive(own), arbitrated)
        finally:
            if entry.won:
                state.adopt(own)

    async def _call(self, attempt: Attempt) -> None:
        """Call an app that does not keep the deadline, within it."""
        state, guard = self._state, self.guard
        with anyio.move_on_after(max(0.0, state.deadline - time.monotonic())) as cancel_scope:

            async def bounded(message: Message) -> None:
                await guard(message)
                if state.complete:
                    cancel_scope.deadline = math.inf  # what an app does after its answer nobody waits for

            await self._app(self._scope, ReplayReceive(state), bounded)
        if not cancel_scope.cancelled_caught:
            return
        if state.impatient:
            attempt.cancel()
        else:
            attempt.fail(FailureKind.SERVER)  # our own patience ended, not a client's shorter one
        # Raised after commit as well: an answer that just stops may look whole to whoever is around us.
        raise DeadlineExceededError(f"'{attempt.deployment.backend}' had not answered when the request's time was up")
