"""Resilience: retries, breakers, fallbacks and the deadline around an inner app."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from .._asgi import BodyLimits, ReplayReceive, at_the_edge, declared, route_path
from ..deployment import Deployment
from ..events import Observer
from ..exceptions import AttemptError, DeadlineExceededError, FailureKind, RouteExhaustedError, SmartRouterError
from ..resilience.attempt import Attempt
from ..resilience.attempts import AttemptLoop
from ..resilience.breaker import BreakerBoard, BreakerPolicy
from ..resilience.budget import BudgetBoard
from ..resilience.deadline import Timeouts
from ..resilience.hedging import Hedging
from ..resilience.keys import PathKeys
from ..resilience.rest import RestBoard
from ..resilience.retry import RetryPolicy
from ..state import SCOPE_KEY, RequestState, find_state
from ..types import ASGIApp, Clock, Headers, Message, Random, Receive, Scope, Send
from ..wire.errors import error_headers
from ..wire.retry_after import parse_retry_after

logger = logging.getLogger("smartrouter_asgi")

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
MAX_HELD_BYTES = 64 * 1024


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
        state.bound(self._timeouts)
        plan, call = state.plan, state.call
        candidates = plan.candidates if plan is not None else (Deployment(backend=self._name(scope), model=""),)
        guard = _StatusGuard(send)

        async def run(candidates: Sequence[Deployment]) -> None:
            await self._loop.run(
                candidates,
                lambda attempt: self._once(attempt, state, scope, guard),
                operation=call.breaker_operation if call is not None else "call",
                deadline=state.commit_by,
                committed=lambda: state.committed,
                client_retry=_is_client_retry(scope),
                begin=not self._starts_inside,
                before=state.attempts,
                records=state.records,
                # A foreign app may say 429 to one of its users: that is no reason to rest for the others.
                fingerprint=None if plan is None else lambda: hash(state.body),
            )

        try:
            try:
                await run(candidates)
            except AttemptError as exc:
                others = plan.alternatives.get(exc.code) if plan is not None else None
                if not others or state.committed:
                    raise
                await run(others)
        except (AttemptError, RouteExhaustedError) as exc:
            if not guard.held or state.committed:
                raise
            await guard.replay(error_headers(exc))  # what the app itself had to say last
        finally:
            if plan is None and self._key is None:
                self._learn(route_path(scope), state.status)

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

    async def _once(self, attempt: Attempt, state: RequestState, scope: Scope, guard: _StatusGuard) -> None:
        """Call the inner app once; turn an answer that was kept back, or its exception, into the attempt's failure."""
        if attempt.entry is not None:
            await self._race(attempt, state, scope, guard.send)
            return
        state.attempt = attempt
        state.attempts = attempt.number
        name = attempt.deployment.backend
        guard.forget()
        try:
            await self._call(attempt, state, scope, guard)
        except SmartRouterError:
            raise
        except Exception as exc:
            if state.committed:
                raise
            if not guard.held and not isinstance(exc, OSError):
                if state.plan is None:
                    attempt.fail(FailureKind.SERVER)  # a bug of the protected app: it counts, and is not repeated
                raise
            logger.warning("attempt %d at %r raised", attempt.number, name, exc_info=exc)
            raise guard.failure(name) or AttemptError(
                f"'{name}' failed before it answered", kind=FailureKind.RESET
            ) from exc
        failure = guard.failure(name)
        if failure is not None:
            raise failure
        if guard.overflowed:
            attempt.fail(FailureKind.SERVER)
        elif state.plan is None and 400 <= state.status < 500:
            attempt.cancel()  # the client's error: no word about the app, as a probe neither

    async def _race(self, attempt: Attempt, state: RequestState, scope: Scope, send: Send) -> None:
        """Call the inner app beside another attempt, on a state of its own: the first `response.start` wins."""
        entry = attempt.entry
        assert entry is not None  # a race has entries
        own = state.fork(attempt)

        async def arbitrated(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not entry.claim():
                    await anyio.sleep_forever()  # its scope is cancelled already
                own.status = message["status"]
                state.attempt = attempt
            await send(message)

        try:
            await self.app({**scope, SCOPE_KEY: own}, ReplayReceive(state.body or b"", own), arbitrated)
        finally:
            if entry.won:
                state.adopt(own)

    async def _call(self, attempt: Attempt, state: RequestState, scope: Scope, guard: _StatusGuard) -> None:
        """Call the inner app, within the deadline where no layer of ours inside keeps it."""
        receive = ReplayReceive(state.body or b"", state)
        if self._deadline_inside:  # dispatch: it keeps the deadline, and raises instead of sending such a status
            await self.app(scope, receive, guard.send)
            return
        with anyio.move_on_after(max(0.0, state.deadline - time.monotonic())) as cancel_scope:

            async def bounded(message: Message) -> None:
                await guard(message)
                if state.complete:
                    cancel_scope.deadline = math.inf  # what an app does after its answer nobody waits for

            await self.app(scope, receive, bounded)
        if not cancel_scope.cancelled_caught:
            return
        if state.impatient:
            attempt.cancel()
        else:
            attempt.fail(FailureKind.SERVER)  # our own patience ended, not a client's shorter one
        # Raised after commit as well: an answer that just stops may look whole to whoever is around us.
        raise DeadlineExceededError(f"'{attempt.deployment.backend}' had not answered when the request's time was up")


class _StatusGuard:
    """A `send` that keeps back an answer whose status says that another attempt may do better.

    An answer too large to keep is let go: it is then the one the client gets.
    """

    __slots__ = ("_size", "held", "overflowed", "send")

    def __init__(self, send: Send) -> None:
        self.send = send
        self._size = 0
        self.held: list[Message] = []
        """The messages kept back, `http.response.start` first."""
        self.overflowed = False

    async def __call__(self, message: Message) -> None:
        if not self.held and not (message["type"] == "http.response.start" and message["status"] in RETRYABLE_STATUSES):
            await self.send(message)
            return
        self.held.append(message)
        self._size += len(message.get("body", b""))
        if self._size > MAX_HELD_BYTES:
            self.overflowed = True
            await self._let_go([])

    def forget(self) -> None:
        """Begin another attempt."""
        self.held = []
        self._size = 0

    async def replay(self, headers: Headers) -> None:
        """Send what was kept back after all, with more headers (those it has itself stay), and end it."""
        whole = len(self.held) > 1 and not self.held[-1].get("more_body", False)
        await self._let_go(headers)
        if not whole:
            await self.send({"type": "http.response.body", "body": b""})

    async def _let_go(self, headers: Headers) -> None:
        held, self.held = self.held, []
        start = held[0]
        own = list(start.get("headers", ()))
        known = {name.lower() for name, _ in own}
        own += [(name, value) for name, value in headers if name not in known]
        await self.send({**start, "headers": own})
        for message in held[1:]:
            await self.send(message)

    def failure(self, name: str) -> AttemptError | None:
        """Say what the answer kept back means; None when there is none."""
        if not self.held:
            return None
        status, headers = self.held[0]["status"], self.held[0].get("headers", ())
        limited = status == 429
        return AttemptError(
            f"'{name}' answered {status}",
            kind=FailureKind.RATE_LIMITED if limited else FailureKind.SERVER,
            status=status,
            code="rate_limited" if limited else "upstream_error",
            type="rate_limit_error" if limited else "upstream_error",
            retry_after_s=parse_retry_after(headers, now_wall=time.time()),
        )


def _is_client_retry(scope: Scope) -> bool:
    """Tell whether the client itself is retrying: its own retries earn no retry budget."""
    for name, value in scope["headers"]:
        if name.lower() == b"x-stainless-retry-count":
            return bool(value != b"0")
    return False
