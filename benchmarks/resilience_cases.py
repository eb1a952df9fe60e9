"""What resilience does for each request or attempt, one operation at a time and in process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from smartrouter_asgi._watch import run_watched
from smartrouter_asgi.deployment import Deployment
from smartrouter_asgi.exceptions import AttemptRecord, FailureKind
from smartrouter_asgi.resilience import (
    BreakerBoard,
    BreakerPolicy,
    BudgetBoard,
    CircuitBreaker,
    CircuitOpenError,
    RetryPolicy,
)
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.resilience.attempts import AttemptLoop
from smartrouter_asgi.resilience.concurrency import ConcurrencyLimits
from smartrouter_asgi.resilience.hedging import HedgePolicy, Hedging
from smartrouter_asgi.resilience.rest import RestBoard
from smartrouter_asgi.resilience.retry import Failure, decide
from smartrouter_asgi.routing.latency import FirstTokenTimes
from smartrouter_asgi.state import RequestState

Operation = Callable[[], object]
Call = Callable[[], Awaitable[None]]

FIRST, SECOND = Deployment(backend="first", model="m"), Deployment(backend="second", model="m")
PERMIT = "breaker: acquire, success"
"""The operation that is held to an aim."""


def operations() -> dict[str, Operation]:
    """Return what is synchronous, or does not suspend, by the name to show; for use inside the running loop."""
    board = BreakerBoard()
    closed, opened = board.get("engine", "chat"), CircuitBreaker()
    opened.open()
    budgets, rests = BudgetBoard(ratio=1.0), RestBoard()  # each deposit pays for a withdrawal
    limits = ConcurrencyLimits({"engine": 8})
    engine, loop = Deployment(backend="engine", model="m"), _loop()
    return {
        "breaker: get": lambda: board.get("engine", "chat"),
        "breaker: peek, closed": closed.peek,
        "breaker: peek, open": opened.peek,
        PERMIT: lambda: closed.acquire().success(),
        f"{PERMIT}, slow calls watched": _watching_slow_calls(),
        f"{PERMIT}, half-open": _half_open(),
        "breaker: acquire, refused": lambda: _refused(opened),
        "decide: 503 of the only candidate": _deciding(1, FailureKind.SERVER),
        "decide: 503 of the first of two": _deciding(2, FailureKind.SERVER),
        "decide: no connection to the first of two": _deciding(2, FailureKind.CONNECT),
        "decide: 429 of both, two seconds each": _deciding(2, *[FailureKind.RATE_LIMITED] * 2, retry_after_s=2.0),
        "decide: four times 503, no more": _deciding(1, *[FailureKind.SERVER] * 4),
        "budgets: deposit, withdraw": lambda: _pay(budgets),
        "rests: refusal, nobody rests": lambda: rests.refusal("engine/m", 1.0),
        "slot: taken, given back": lambda: _run(_slot(limits, engine)),
        "attempt loop: one attempt that succeeds": lambda: _run(_attempt_loop(loop)),
    }


def calls() -> dict[str, Call]:
    """Return what suspends, each to be run in a task of its own; a name reads `<what> - <what is taken off>`."""
    hedging = _loop(_hedging())
    plain = _loop()
    return {
        "an attempt of a stream": lambda: _attempt_loop(plain, (FIRST, SECOND), "stream", _suspending),
        "hedging, no hedge due - an attempt of a stream": lambda: _attempt_loop(
            hedging, (FIRST, SECOND), "stream", _suspending
        ),
        "an app": lambda: _app(RequestState(request_id="", started=0.0), asyncio.Event()),
        "watcher, the server ends its wait - an app": lambda: _watched(tells_end=True),
        "watcher, ends its own wait - an app": lambda: _watched(tells_end=False),
    }


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run what does not suspend, without a task."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it has suspended")


def _watching_slow_calls() -> Operation:
    breaker = CircuitBreaker(BreakerPolicy(slow_call_duration_s=10.0))
    return lambda: breaker.acquire().success(0.1)


def _half_open() -> Operation:
    """A breaker that is opened, may be probed at once, and never has enough probes to close."""
    breaker = CircuitBreaker(BreakerPolicy(reset_timeout_s=0.0, half_open_max_attempts=10**9))
    breaker.open()
    breaker.acquire().success()
    assert breaker.state_name == "half-open"
    return lambda: breaker.acquire().success()


def _refused(breaker: CircuitBreaker) -> None:
    with contextlib.suppress(CircuitOpenError):
        breaker.acquire()


def _deciding(candidates: int, *kinds: FailureKind, retry_after_s: float | None = None) -> Operation:
    policy = RetryPolicy()
    failures = tuple(
        Failure(candidate=number % candidates, kind=kind, at=1.0, retry_after_s=retry_after_s)
        for number, kind in enumerate(kinds)
    )
    return lambda: decide(
        policy=policy, failures=failures, candidates=candidates, now=1.0, deadline=600.0, random=random.random
    )


def _pay(budgets: BudgetBoard) -> None:
    budgets.deposit("engine", time.monotonic())
    budgets.withdraw("engine", time.monotonic())


async def _slot(limits: ConcurrencyLimits, deployment: Deployment) -> None:
    async with limits.slot(deployment):
        pass


def _loop(hedging: Hedging | None = None) -> AttemptLoop:
    return AttemptLoop(
        policy=RetryPolicy(),
        breakers=BreakerBoard(),
        budgets=BudgetBoard(),
        clock=time.monotonic,
        random=random.random,
        sleep=anyio.sleep,
        hedging=hedging,
    )


def _hedging() -> Hedging:
    """Hedging that knows what is usual, and that nobody here takes so long."""

    class Usual(FirstTokenTimes):
        def quantile_s(self, deployment_id: str, q: float = 0.95, *, min_samples: int = 20) -> float | None:
            return 10.0

    return Hedging(policy=HedgePolicy(), times=Usual(), is_ready=lambda _: True)


async def _at_once(attempt: Attempt) -> None:
    attempt.start()


async def _suspending(attempt: Attempt) -> None:
    attempt.start()
    await asyncio.sleep(0)
    if attempt.entry is not None:
        attempt.entry.claim()


class _Asked:
    """A request whose attempts do as they are told."""

    __slots__ = ("committed", "fingerprint", "make", "records")

    def __init__(self, make: Callable[[Attempt], Awaitable[None]]) -> None:
        self.committed, self.fingerprint, self.make = False, None, make
        self.records: list[AttemptRecord] = []


async def _attempt_loop(
    loop: AttemptLoop,
    candidates: tuple[Deployment, ...] = (FIRST,),
    operation: str = "chat",
    call: Callable[[Attempt], Awaitable[None]] = _at_once,
) -> None:
    await loop.run(_Asked(call), candidates, operation=operation)


async def _app(state: RequestState, ended: asyncio.Event) -> None:
    """Suspend once, as every real app does, and answer."""
    await asyncio.sleep(0)
    state.complete = True
    ended.set()


async def _watched(*, tells_end: bool) -> None:
    state, ended = RequestState(request_id="", started=0.0), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _app(state, ended)

    async def receive() -> Any:
        if not tells_end:
            await asyncio.get_running_loop().create_future()
        await ended.wait()
        return {"type": "http.disconnect"}

    await run_watched(app, {}, receive, _nobody, receive=receive, state=state)


async def _nobody(message: Any) -> None:
    """Take an answer and drop it."""
