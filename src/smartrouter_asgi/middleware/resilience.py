"""Resilience: retries, breakers, fallbacks and the deadline around an inner app."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from .._asgi import BodyLimits, ReplayReceive, at_the_edge
from ..deployment import Deployment
from ..events import Observer
from ..exceptions import AttemptError, DeadlineExceededError, FailureKind, SmartRouterError
from ..resilience.attempts import Attempt, AttemptLoop
from ..resilience.breaker import BreakerBoard, BreakerPolicy
from ..resilience.budget import BudgetBoard
from ..resilience.deadline import Timeouts
from ..resilience.retry import RetryPolicy
from ..state import RequestState, find_state
from ..types import ASGIApp, Clock, Message, Random, Receive, Scope, Send
from ..wire.retry_after import parse_retry_after

logger = logging.getLogger("smartrouter_asgi")

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


class ResilienceMiddleware:
    """Makes attempts at the inner app until one commits: the plan's candidates, or the app itself around a foreign one.

    With a route plan in the scope each attempt goes to one deployment, and failures are `AttemptError`s raised before
    commit. Without a plan it protects any app: `key` names the breaker (default: the mount's path), a `response.start`
    with a retryable status is held back and the body replayed, and an exception of the app counts as a failure.

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
        self._key = key or _mount_path
        self._body = body or BodyLimits()
        self._starts_inside = _starts_attempts(app)
        self._loop = AttemptLoop(
            policy=policy or RetryPolicy(),
            breakers=breakers or BreakerBoard(breaker or BreakerPolicy(), clock=clock, observer=observer),
            budgets=budgets or BudgetBoard(),
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
        state.bound(self._timeouts, scope)
        if state.plan is not None:
            await self._route(state, scope, send)
        else:
            await self._protect(state, scope, send)

    async def _route(self, state: RequestState, scope: Scope, send: Send) -> None:
        """Try the candidates of the plan."""
        plan, call = state.plan, state.call
        assert plan is not None

        async def run(candidates: Sequence[Deployment]) -> None:
            await self._loop.run(
                candidates,
                lambda attempt: self._once(attempt, state, scope, send),
                operation=call.breaker_operation if call is not None else "chat",
                deadline=state.commit_by,
                committed=lambda: state.committed,
                client_retry=_is_client_retry(scope),
                begin=not self._starts_inside,
                first_number=state.attempts + 1,
            )

        try:
            await run(plan.candidates)
        except AttemptError as exc:
            others = plan.alternatives.get(exc.code)
            if not others or state.committed:
                raise
            await run(others)

    async def _protect(self, state: RequestState, scope: Scope, send: Send) -> None:
        """Protect an app that knows nothing of attempts."""
        key = self._key(scope)
        deployment = Deployment(backend=key, model="")
        left_s = max(0.0, state.deadline - time.monotonic())
        with anyio.move_on_after(left_s) as cancel_scope:
            await self._loop.run(
                (deployment,),
                lambda attempt: self._once(attempt, state, scope, send),
                operation="call",
                deadline=state.commit_by,
                committed=lambda: state.committed,
                client_retry=_is_client_retry(scope),
                begin=not self._starts_inside,
            )
        if cancel_scope.cancelled_caught and not state.committed:
            raise DeadlineExceededError(f"'{key}' had not answered when the request's time was up")

    async def _once(self, attempt: Attempt, state: RequestState, scope: Scope, send: Send) -> None:
        """Call the inner app once; turn an answer that was kept back, or its exception, into the attempt's failure."""
        state.attempt = attempt
        state.attempts = attempt.number
        name = attempt.deployment.backend
        guard = _StatusGuard(send, name)
        try:
            await self.app(scope, ReplayReceive(state.body or b"", state), guard)
        except SmartRouterError:
            raise
        except Exception as exc:
            if state.committed:
                raise
            if guard.failure is None and not isinstance(exc, OSError):
                if state.plan is None:
                    attempt.fail(FailureKind.SERVER)  # a bug of the protected app: it counts, and is not repeated
                raise
            logger.warning("attempt %d at '%s' raised", attempt.number, name, exc_info=exc)
            raise guard.failure or AttemptError(f"'{name}' failed before it answered", kind=FailureKind.RESET) from exc
        if guard.failure is not None:
            raise guard.failure


class _StatusGuard:
    """A `send` that keeps back an answer whose status says that another attempt may do better."""

    __slots__ = ("_key", "_send", "failure")

    def __init__(self, send: Send, key: str) -> None:
        self._send = send
        self._key = key
        self.failure: AttemptError | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in RETRYABLE_STATUSES:
            status = message["status"]
            self.failure = AttemptError(
                f"'{self._key}' answered {status}",
                kind=FailureKind.RATE_LIMITED if status == 429 else FailureKind.SERVER,
                status=status,
                code="rate_limited" if status == 429 else "upstream_error",
                type="rate_limit_error" if status == 429 else "upstream_error",
                retry_after_s=parse_retry_after(
                    [(k.lower(), v) for k, v in message.get("headers", ())], now_wall=time.time()
                ),
            )
        if self.failure is None:
            await self._send(message)


def _mount_path(scope: Scope) -> str:
    """Name the protected app by where it is mounted: never by what a client sends."""
    return scope.get("root_path") or "app"


def _is_client_retry(scope: Scope) -> bool:
    """Tell whether the client itself is retrying: its own retries earn no retry budget."""
    for name, value in scope["headers"]:
        if name.lower() == b"x-stainless-retry-count":
            return bool(value != b"0")
    return False


def _starts_attempts(app: object) -> bool:
    """Tell whether a layer inside takes the permit itself, after admission."""
    while app is not None:
        if getattr(app, "starts_attempts", False):
            return True
        app = getattr(app, "app", None)
    return False
