"""Laws of the watchdog, on a loop whose clock is turned by hand."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from smartrouter_asgi.transport.watchdog import GRACE_S, SLICE_S, TURNS, Watchdog


class Handle:
    def __init__(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.callback, self.args, self.cancelled = callback, args, False

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        if not self.cancelled:
            self.callback(*self.args)


class HandTurnedLoop:
    """Time and timers of an event loop. A timer fires in the turn after its time, as asyncio has it."""

    def __init__(self) -> None:
        self.now = 100.0
        self._serial = count()
        self._timers: list[tuple[float, int, Handle]] = []
        self._ready: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[..., None], *args: Any) -> Handle:
        handle = Handle(callback, args)
        heapq.heappush(self._timers, (at, next(self._serial), handle))
        return handle

    def call_soon(self, callback: Callable[..., None], *args: Any) -> Handle:
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def turn(self) -> None:
        ready, self._ready = self._ready, []
        while self._timers and self._timers[0][0] <= self.now:
            ready.append(heapq.heappop(self._timers)[2])
        for handle in ready:
            handle.run()

    def pass_(self, seconds: float) -> None:
        """Let time pass as in a loop that is never late."""
        until = self.now + seconds
        while True:
            self.turn()
            if self._ready:
                continue
            if not self._timers or self._timers[0][0] > until:
                break
            self.now = max(self.now, self._timers[0][0])
        self.now = until

    def stall(self, seconds: float) -> None:
        """Let time pass without a turn."""
        self.now += seconds


class Scope:
    cancelled_at: float | None = None

    def __init__(self, loop: HandTurnedLoop) -> None:
        self._loop = loop

    def cancel(self) -> None:
        assert self.cancelled_at is None
        self.cancelled_at = self._loop.now


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> HandTurnedLoop:
    loop = HandTurnedLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


@pytest.fixture
def scope(loop: HandTurnedLoop) -> Scope:
    return Scope(loop)


def watch(scope: Any, total_s: float = math.inf) -> Watchdog:
    return Watchdog(scope, total_at=100.0 + total_s)


def test_a_phase_that_lasts_too_long_is_cancelled_at_its_time(loop: HandTurnedLoop, scope: Scope):
    watchdog = watch(scope)
    watchdog.enter("idle", 5)
    loop.pass_(4.9)
    assert scope.cancelled_at is None
    loop.pass_(1)
    assert (watchdog.expired, scope.cancelled_at) == ("idle", 105.0)


def test_each_phase_starts_its_own_clock_and_a_shorter_one_is_seen_in_time(loop: HandTurnedLoop, scope: Scope):
    watchdog = watch(scope)
    watchdog.enter("first_token", 10)
    for _ in range(10):
        loop.pass_(4)
        watchdog.enter("idle", 5)
    assert scope.cancelled_at is None
    watchdog.enter("drain", 0.25)
    loop.pass_(1)
    assert (watchdog.expired, scope.cancelled_at) == ("drain", 140.25)


def test_the_total_is_the_outer_bound_and_can_be_moved(loop: HandTurnedLoop, scope: Scope):
    watchdog = watch(scope, total_s=7)
    watchdog.enter("first_token", 60)
    loop.pass_(6)
    watchdog.bound(120.0)
    watchdog.enter("idle", 60)
    loop.pass_(10)
    assert scope.cancelled_at is None
    loop.pass_(10)
    assert (watchdog.expired, scope.cancelled_at) == ("total", 120.0)


def test_a_closed_watchdog_cancels_nothing(loop: HandTurnedLoop, scope: Scope):
    for stalled_s in (0.0, 6.0):
        watchdog = watch(scope)
        watchdog.enter("idle", 5)
        loop.stall(stalled_s)
        loop.turn()  # fires, and gives grace
        watchdog.close()
        loop.pass_(60)
        assert (watchdog.expired, scope.cancelled_at) == (None, None)


@pytest.mark.parametrize("stalled_s", [5.3, 30.0, 4000.0])
def test_what_came_during_a_stall_counts(loop: HandTurnedLoop, scope: Scope, stalled_s: float):
    """The data lies in the socket when the timer fires; a moment later it moves the deadline."""
    watchdog = watch(scope)
    watchdog.enter("idle", 5)
    loop.stall(stalled_s)
    loop.turn()
    loop.pass_(0.25)
    watchdog.enter("idle", 5)
    loop.pass_(4.9)
    assert scope.cancelled_at is None
    loop.pass_(0.2)
    assert watchdog.expired == "idle"


@pytest.mark.parametrize("stalled_s", [5.1, 5.0])
def test_a_stall_that_ends_as_time_is_up_leaves_some_turns(loop: HandTurnedLoop, scope: Scope, stalled_s: float):
    """However little the timer is late, data that is there already is read first."""
    watchdog = watch(scope)
    watchdog.enter("idle", 5)
    loop.stall(stalled_s)
    loop.turn()
    for _ in range(TURNS - 1):
        loop.turn()
    watchdog.enter("idle", 5)
    loop.turn()
    loop.turn()
    assert scope.cancelled_at is None
    loop.pass_(5.1)
    assert watchdog.expired == "idle"


@pytest.mark.parametrize(("stalled_s", "grace_s"), [(5.5, 0.5), (30.0, GRACE_S), (5.1, 0.0)])
def test_a_stall_excuses_silence_once_and_no_longer_than_it_lasted(
    loop: HandTurnedLoop, scope: Scope, stalled_s: float, grace_s: float
):
    watchdog = watch(scope)
    watchdog.enter("first_token", 5)
    loop.stall(stalled_s)
    loop.pass_(60)
    assert watchdog.expired == "first_token"
    assert scope.cancelled_at == pytest.approx(100 + stalled_s + grace_s)


def test_a_stall_during_the_grace_does_not_use_it_up(loop: HandTurnedLoop, scope: Scope):
    """Nobody could have listened then either."""
    watchdog = watch(scope)
    watchdog.enter("idle", 5)
    loop.stall(30)
    loop.turn()
    loop.stall(30)
    loop.turn()
    loop.pass_(GRACE_S - 2 * SLICE_S)
    assert scope.cancelled_at is None
    loop.pass_(2 * SLICE_S)
    assert watchdog.expired == "idle"


def test_a_loop_that_always_stalls_cannot_keep_a_silent_engine(loop: HandTurnedLoop, scope: Scope):
    watchdog = watch(scope)
    watchdog.enter("idle", 5)
    turns = 0
    while scope.cancelled_at is None:
        loop.stall(3)
        loop.turn()
        turns += 1
        assert turns <= 5 + GRACE_S / SLICE_S + TURNS


def test_the_total_gets_turns_but_no_time(loop: HandTurnedLoop, scope: Scope):
    """The deadline of a request is a promise to its client; an answer that is there already may still go out."""
    watchdog = watch(scope, total_s=4)
    watchdog.enter("first_token", 3)
    loop.stall(10)
    for _ in range(TURNS):
        loop.turn()
        assert scope.cancelled_at is None
    loop.turn()
    assert (watchdog.expired, scope.cancelled_at) == ("total", 110.0)


def test_the_grace_of_a_phase_ends_with_the_total(loop: HandTurnedLoop, scope: Scope):
    watchdog = watch(scope, total_s=6)
    watchdog.enter("idle", 4)
    loop.stall(5.5)
    loop.pass_(10)
    assert (watchdog.expired, scope.cancelled_at) == ("total", 106.0)
