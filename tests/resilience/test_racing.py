"""Two attempts side by side, where what ends one of them comes in the same moment as the end of the request."""

from __future__ import annotations

import asyncio
import time

import pytest

from smartrouter_asgi import Deployment
from smartrouter_asgi.resilience import hedging
from smartrouter_asgi.resilience.attempt import Attempt
from smartrouter_asgi.resilience.racing import race


class Folding:
    """A scope as anyio had it before 4.16: it takes a native cancellation that comes with its own for its own."""

    def __init__(self) -> None:
        self.cancel_called = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self.cancel_called:
            self._task.uncancel()
        return self.cancel_called and kind is asyncio.CancelledError

    def cancel(self) -> None:
        self.cancel_called = True
        self._task.cancel()


class Beaten:
    """A request whose first attempt is silent, and whose hedge would run for ever."""

    def __init__(self) -> None:
        self.loop = self
        self.clock = time.monotonic
        self.running: list[Attempt] = []

    def hedge(self, index: int) -> tuple[int, Attempt]:
        return 1, Attempt(number=2, deployment=Deployment(backend="b2", model="m"))

    async def once(self, index: int, attempt: Attempt) -> None:
        self.running.append(attempt)
        await asyncio.sleep(60)


async def test_a_request_that_ends_as_its_first_attempt_is_beaten_ends_the_winner_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hedging.anyio, "CancelScope", Folding)
    route = Beaten()
    first = Attempt(number=1, deployment=Deployment(backend="b1", model="m"))
    task = asyncio.create_task(race(route, 0, first, 0.0))
    while len(route.running) < 2:
        await asyncio.sleep(0)
    assert route.running[1].entry.claim()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
