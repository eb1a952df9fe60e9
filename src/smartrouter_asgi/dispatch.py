"""Dispatch: the terminal app that speaks to a backend and sends its answer back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._asgi import BodyLimits, at_the_edge, route_path
from ._scopes import GuardedScope, NativeScope, NativeWork, cancel_scope
from ._sending import answer_of
from .backends.base import Backend, Upstream
from .deployment import Deployment
from .events import Observer, StreamFinished
from .exceptions import (
    AttemptError,
    DeadlineExceededError,
    DrainingError,
    FailureKind,
    FramingError,
    MethodNotAllowedError,
    NotFoundError,
    QueueFullError,
    StackOrderError,
)
from .resilience.attempt import Attempt
from .resilience.concurrency import ConcurrencyLimits
from .resilience.deadline import Timeouts
from .resilience.retry import counts_as_failure
from .routing.plan import RoutePlan
from .state import RequestState, find_state
from .transport.watchdog import Watchdog
from .types import Headers, Operation, Receive, Scope, Send
from .wire.call import OPERATION_PATHS, Call, parse_call
from .wire.errors import stream_error_event
from .wire.stream import Piece, PieceKind

_CONTENT = PieceKind.CONTENT
_NOT_THE_BACKEND = frozenset({DrainingError.code, "client_stalled", "stream_deadline"})
"""Ends of a stream that are our doing or the client's: an engine that was still talking is none the worse for them."""

MAX_HELD_BYTES = 64 * 1024
FAREWELL_S = 1.0  # how long a client has to take the news that its stream broke
DRAIN_S = 0.25  # how long to wait for the end of a stream that has said [DONE], so that its connection can be reused


class BackendDispatch:
    """The terminal app: opens the upstream, commits at its first real event, relays the rest.

    `backends` maps names to adapters; the attempt in the scope says which one to use, else the plan's first candidate.
    `inflight` counts the exchanges under way, by deployment id.
    Alone, with one backend and no resolution outside, it takes the path's operation and sends the client's model name.

    Before commit a failure raises `AttemptError` and nothing was sent. After it a failure becomes one
    `data: {"error": ...}` event without `[DONE]`.
    """

    starts_attempts = True
    keeps_deadline = True

    def __init__(
        self,
        backends: Mapping[str, Backend] | Backend,
        *,
        timeouts: Timeouts | None = None,
        limits: ConcurrencyLimits | None = None,
        body: BodyLimits | None = None,
        inflight: Counter[str] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._backends = dict(backends) if isinstance(backends, Mapping) else {backends.name: backends}
        self._timeouts = clocks = timeouts or Timeouts()
        # How often a watchdog looks: no phase is shorter than that, so none has to set a timer of its own.
        self._patrol_plain_s = clocks.client_stall_s
        self._patrol_stream_s = min(
            clocks.first_token_s, clocks.first_token_cold_s, clocks.idle_s, clocks.client_stall_s
        )
        self._limits = limits or ConcurrencyLimits()
        self._body = body or BodyLimits()
        self._observer = observer
        self._inflight = Counter[str]() if inflight is None else inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            raise StackOrderError("BackendDispatch serves HTTP requests only")
        state = find_state(scope)
        if state is None or state.body is None:
            await at_the_edge(self, scope, receive, send, limits=self._body)
            return
        attempt = self._attempt_of(state, scope)
        if state.deadline == math.inf:
            state.bound(self._timeouts)
        call = state.call
        if call is None:  # _attempt_of has made it, or has raised
            raise StackOrderError("no call in the scope")
        deployment, inflight = attempt.deployment, self._inflight
        backend, name = self._backends[deployment.backend], deployment.id
        inflight[name] = inflight.get(name, 0) + 1
        try:
            await _Relay(self, state, attempt, call, backend, send).run()
        finally:
            left = inflight[name] - 1
            if left:
                inflight[name] = left
            else:
                del inflight[name]  # names may be a client's own where there is no catalog

    def _attempt_of(self, state: RequestState, scope: Scope) -> Attempt:
        """Find the attempt to make: that of a layer outside, else one at the plan's first candidate."""
        attempt = state.attempt
        if state.call is None:
            state.call = parse_call(_operation(scope), state.body or b"")
        if attempt is not None and attempt.deployment.model and attempt.deployment.backend in self._backends:
            return attempt
        if state.plan is None:
            if len(self._backends) != 1:
                raise StackOrderError(
                    "BackendDispatch with several backends needs ModelResolutionMiddleware outside of it"
                )
            deployment = Deployment(backend=next(iter(self._backends)), model=state.call.model)
            state.plan = RoutePlan(model="other", candidates=(deployment,))
        deployment = state.plan.candidates[0]
        if attempt is not None:  # of a resilience layer without a plan, which protects an app and knows no backends
            attempt.deployment = deployment
            return attempt
        state.attempts = 1
        operation = state.call.breaker_operation
        state.attempt = Attempt(number=1, deployment=deployment, operation=operation, started=time.monotonic())
        return state.attempt


def _operation(scope: Scope) -> Operation:
    operation = OPERATION_PATHS.get(route_path(scope).removeprefix("/v1"))
    if operation is None:
        raise NotFoundError(f"nothing is served at this path; try {', '.join('/v1' + p for p in OPERATION_PATHS)}")
    if scope["method"] != "POST":
        raise MethodNotAllowedError("this path takes POST only", allow=("POST",))
    return operation


class _Relay:
    """One attempt on its way: everything that lives no longer than it."""

    __slots__ = ("_answer", "_attempt", "_backend", "_call", "_dispatch", "_done", "_held", "_state", "_watchdog")

    def __init__(
        self, dispatch: BackendDispatch, state: RequestState, attempt: Attempt, call: Call, backend: Backend, send: Send
    ) -> None:
        self._dispatch = dispatch
        self._state = state
        self._attempt = attempt
        self._call = call
        self._backend = backend
        self._answer = answer_of(send)
        self._held = b""
        self._done = False
        """The engine has said all it had to say."""

    async def run(self) -> None:
        """Make the exchange; see `BackendDispatch`."""
        state = self._state
        with self._scope() as scope:
            self._watchdog = watchdog = Watchdog(scope, total_at=state.commit_by)
            if self._call.stream:
                self._attempt.watchdog = watchdog
            try:
                limits, attempt = self._dispatch._limits, self._attempt
                if limits.apply(attempt.deployment):
                    watchdog.enter("queue", math.inf)  # the deadline runs while it waits for its turn
                    turn = limits.slot(
                        attempt.deployment, priority=state.priority, deadline=state.commit_by, wait=attempt.waits
                    )
                    async with turn:
                        await self._exchange()
                else:
                    await self._exchange()
            except (AttemptError, FramingError) as exc:
                if not state.committed:
                    if isinstance(exc, FramingError):
                        raise self._broken(exc) from exc
                    raise
                if not self._done:
                    await self._break_off(exc)
            finally:
                self._attempt.watchdog = None
                watchdog.close()
        if watchdog.expired is not None and not self._done:
            await self._timed_out(watchdog.expired)

    def _scope(self) -> NativeScope | GuardedScope | anyio.CancelScope:
        """Return what the watchdog ends the exchange by: what is cheapest among what its backend bears."""
        if getattr(self._backend, "cancels_natively", False):
            return NativeScope()
        work = self._state.work
        return GuardedScope(work) if isinstance(work, NativeWork) else cancel_scope()

    async def _exchange(self) -> None:
        attempt, timeouts = self._attempt, self._dispatch._timeouts
        if not attempt.waits and attempt.lease is None and self._backend.capabilities.loads_on_demand:
            raise QueueFullError(f"backend '{self._backend.name}' may have to load the model first")
        attempt.start()
        attempt.admitted = time.monotonic()
        watchdog, stream = self._watchdog, self._call.stream
        if stream:
            cold = attempt.lease is None and self._backend.capabilities.loads_on_demand
            watchdog.patrol(self._dispatch._patrol_stream_s)
            watchdog.enter("first_token", timeouts.first_token_cold_s if cold else timeouts.first_token_s)
        else:
            watchdog.patrol(self._dispatch._patrol_plain_s)
            watchdog.phase, watchdog.deadline = "answer", math.inf
        upstream = await self._backend.open(self._call, attempt.deployment)
        try:
            if stream:
                await self._stream(upstream)
            else:
                await self._plain(upstream)
        finally:
            self._state.usage = upstream.usage
            await upstream.aclose()

    @property
    def _may_be_ended(self) -> bool:
        work, entry = self._state.work, self._attempt.entry
        return (
            self._watchdog.expired is not None
            or (work is not None and work.cancel_called)
            or (entry is not None and entry.scope.cancel_called)
        )

    async def _check_cancelled(self) -> None:
        """Let a cancellation through that came in this very moment: who was ended must not begin to answer."""
        await checkpoint_if_cancelled()
        if self._state.work is not None and self._state.work.cancel_called:
            raise asyncio.CancelledError

    async def _plain(self, upstream: Upstream) -> None:
        answer = await upstream.read()
        if self._may_be_ended:
            await self._check_cancelled()
        self._first_token()
        self._attempt.upstream_ended()
        headers = self._headers(upstream, b"application/json")
        headers.append((b"content-length", b"%d" % len(answer.body)))
        watchdog, writing = self._watchdog, self._answer
        watchdog.phase = "client_stall"
        watchdog.deadline = watchdog.clock() + self._dispatch._timeouts.client_stall_s
        await writing.start(200, headers)
        await writing.last(answer.body)
        self._done = True

    async def _stream(self, upstream: Upstream) -> None:
        watchdog, timeouts, more = self._watchdog, self._dispatch._timeouts, self._answer.more
        state, clock = self._state, watchdog.clock
        source = upstream.pieces()
        try:
            async for pieces in source:
                if self._done:  # after [DONE] what follows only ends the transfer
                    continue
                if state.status and len(pieces) == 1 and pieces[0].kind is _CONTENT:
                    watchdog.phase, watchdog.deadline = "client_stall", clock() + timeouts.client_stall_s
                    await more(pieces[0].data)
                    watchdog.phase, watchdog.deadline = "idle", clock() + timeouts.idle_s
                else:
                    await self._forward(upstream, pieces)
        finally:
            await source.aclose()

    async def _forward(self, upstream: Upstream, pieces: list[Piece]) -> None:
        """Send on what one read has brought, held back until the engine has really begun."""
        timeouts, watchdog = self._dispatch._timeouts, self._watchdog
        if not self._state.committed and len(pieces) > 1:
            pieces = _without_early_pings(pieces)
        data, kind = _gather(pieces)
        if not self._state.committed:
            if kind is PieceKind.ERROR and not any(piece.kind is _CONTENT for piece in pieces):
                raise _error_of(pieces)
            if kind is PieceKind.PING:
                return  # a sign of life for a connection that is not open yet
            self._held += data
            if kind < PieceKind.CONTENT:
                if not data:  # the engine is at work, and what it says is kept back on purpose
                    watchdog.enter("first_token", max(timeouts.idle_s, timeouts.first_token_s))
                if len(self._held) > MAX_HELD_BYTES:
                    raise FramingError("the engine sent much and said nothing", code="upstream_protocol")
                return
            if self._may_be_ended:
                await self._check_cancelled()
            data, self._held = self._held, b""
            watchdog.bound(self._state.deadline)
            self._first_token()
            watchdog.enter("client_stall", timeouts.client_stall_s)
            await self._commit(upstream)
            self._state.let_go_of_body()
        elif kind is not PieceKind.PING:
            watchdog.enter("client_stall", timeouts.client_stall_s)
        if kind is PieceKind.END:
            await self._end(data)
            return
        if data:
            await self._answer.more(data)
        if kind is PieceKind.ERROR:
            raise _error_of(pieces)
        if kind is not PieceKind.PING:
            watchdog.enter("idle", timeouts.idle_s)

    async def _commit(self, upstream: Upstream) -> None:
        headers = self._headers(upstream, b"text/event-stream; charset=utf-8")
        headers += [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
        await self._answer.start(200, headers)

    async def _end(self, data: bytes) -> None:
        self._done = True
        self._attempt.upstream_ended()
        self._observe("ok")
        await self._answer.last(data)
        self._watchdog.enter("drain", DRAIN_S)

    def _first_token(self) -> None:
        now = time.monotonic()
        admitted = self._attempt.admitted
        self._attempt.first_token_s = now - (self._attempt.started if admitted is None else admitted)
        self._state.first_token_s = now - self._state.started
        self._attempt.succeed()

    def _headers(self, upstream: Upstream, content_type: bytes) -> Headers:
        deployment = self._attempt.deployment
        headers: Headers = [
            (b"content-type", content_type),
            *_names(deployment.backend, deployment.model),
            (b"x-smartrouter-attempts", b"%d" % self._attempt.number),
        ]
        if upstream.ignored:
            headers.append((b"x-smartrouter-ignored", header_value(", ".join(upstream.ignored))))
        return headers

    async def _break_off(self, exc: AttemptError | FramingError) -> None:
        """Tell a client whose answer is committed that it broke; the body ends without `[DONE]`."""
        self._done = True
        self._observe(exc.code, failed=isinstance(exc, FramingError) or counts_as_failure(exc.kind))
        self._attempt.upstream_ended(busy=isinstance(exc, AttemptError) and exc.engine_busy)
        if not self._call.stream:
            return  # a plain answer is sent in one piece: what broke is the client's side
        event = stream_error_event(
            message=exc.message, code=exc.code, type=getattr(exc, "type", None) or "upstream_error"
        )
        with anyio.move_on_after(FAREWELL_S):
            await self._answer.last(event)

    async def _timed_out(self, phase: str) -> None:
        """Say what a clock that ran out means: an attempt's failure before commit, the stream's end after it."""
        name = self._backend.name
        if not self._state.committed:
            if phase == "first_token":
                raise AttemptError(
                    f"backend '{name}' sent no token in time",
                    kind=FailureKind.FIRST_TOKEN_TIMEOUT,
                    status=504,
                    code="first_token_timeout",
                    type="timeout_error",
                    engine_busy=True,
                )
            if self._watchdog.phase == "queue":
                raise DeadlineExceededError(f"backend '{name}' was busy until the request's time was up")
            if not self._state.impatient:
                self._attempt.fail(FailureKind.SERVER)  # our own patience ended, not a client's shorter one
            raise DeadlineExceededError(f"backend '{name}' had not answered when the request's time was up")
        if phase == DrainingError.code:
            message = "the gateway is shutting down: the answer ends before it was complete"
            await self._break_off(
                AttemptError(message, kind=FailureKind.ADMISSION, code=phase, type=DrainingError.type, engine_busy=True)
            )
            return
        if "client_stall" in (phase, self._watchdog.phase):
            self._attempt.upstream_ended(busy=True)
            self._observe("client_stalled")
            return  # nothing more can be sent: returning without a last message makes the server cut the connection
        if phase == "total":
            code, message = "stream_deadline", "the request's time was up before the answer was complete"
        else:  # idle; or the first token's clock, when it ran out in the very moment of commit
            code, message = "upstream_idle_timeout", f"backend '{name}' stopped sending in the middle of its answer"
        await self._break_off(
            AttemptError(message, kind=FailureKind.RESET, code=code, type="timeout_error", engine_busy=True)
        )

    def _broken(self, exc: FramingError) -> AttemptError:
        return AttemptError(f"backend '{self._backend.name}': {exc.message}", kind=FailureKind.PROTOCOL, code=exc.code)

    def _observe(self, outcome: str, *, failed: bool = False) -> None:
        if outcome != "ok":
            self._state.outcome = outcome
        if outcome not in _NOT_THE_BACKEND:
            self._attempt.stream_ended(failed=failed)
        observer = self._dispatch._observer
        if observer is not None:
            observer.on_event(
                StreamFinished(backend=self._backend.name, operation=self._attempt.operation, outcome=outcome)
            )


def _gather(pieces: list[Piece]) -> tuple[bytes, PieceKind]:
    """Join what one read has brought: its bytes, and the most telling kind among the pieces."""
    if len(pieces) == 1:
        return pieces[0].data, pieces[0].kind
    return b"".join([piece.data for piece in pieces]), max(piece.kind for piece in pieces)


def _without_early_pings(pieces: list[Piece]) -> list[Piece]:
    """Leave out the comments before anything real, unless there is nothing else."""
    begun = next((at for at, piece in enumerate(pieces) if piece.kind >= _CONTENT), len(pieces))
    kept = [piece for at, piece in enumerate(pieces) if at > begun or piece.kind is not PieceKind.PING]
    return kept or pieces[:1]


def _error_of(pieces: list[Piece]) -> AttemptError:
    error = pieces[-1].error
    if error is None:
        raise FramingError("the engine's stream broke off", code="upstream_truncated")
    return error


@lru_cache(maxsize=1024)
def _names(backend: str, model: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that say where an answer comes from."""
    return (b"x-smartrouter-backend", header_value(backend)), (b"x-smartrouter-model", header_value(model))


def header_value(text: str) -> bytes:
    """Encode a name for a header: what no header may hold becomes `?`."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("latin-1", "replace")
