"""The fault matrix's rows about breakers, without sockets: what is held here is time, order and counting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiobreaker
import pytest
from aiobreaker.storage.memory import CircuitMemoryStorage

from smartrouter_asgi.events import BreakerChanged
from smartrouter_asgi.exceptions import BreakerOpenError
from smartrouter_asgi.resilience import BreakerBoard, BreakerPolicy, CircuitBreaker
from smartrouter_asgi.resilience import breaker as breaker_module
from smartrouter_asgi.resilience import states as states_module
from smartrouter_asgi.resilience import stock as stock_module

from .test_breaker import Clock, Events, Raising, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = BreakerPolicy()


class Upstream:
    """A backend that says how often it was asked, and answers when it is let."""

    def __init__(self) -> None:
        self.calls = 0
        self.asked = asyncio.Event()
        self.let = asyncio.Event()

    async def __call__(self) -> str:
        self.calls += 1
        self.asked.set()
        await self.let.wait()
        return "well"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, policy: BreakerPolicy = DEFAULT, **kwargs: Any) -> CircuitBreaker:
    return CircuitBreaker(policy, backend="gpu", operation="chat", clock=clock, **kwargs)


def opened(clock: Clock, **kwargs: Any) -> CircuitBreaker:
    breaker = make(clock, **kwargs)
    for _ in range(5):
        breaker.acquire().failure()
    assert breaker.state_name == "open"
    return breaker


def test_row_28_five_failures_among_a_hundred_calls_open_it_and_nobody_is_asked_any_more(clock: Clock) -> None:
    breaker, asked = make(clock), 0

    def upstream() -> None:
        nonlocal asked
        asked += 1
        if asked in (1, 20, 40, 60, 100):
            raise OSError("500")

    for number in range(1, 101):
        assert breaker.state_name == "closed", number
        with contextlib.suppress(OSError):
            breaker.call(upstream)
    assert breaker.state_name == "open"
    began = time.perf_counter()
    for _ in range(100):
        with pytest.raises(BreakerOpenError) as caught:
            breaker.call(upstream)
        assert (caught.value.status, caught.value.retry_after_s) == (503, 60.0)
    assert (time.perf_counter() - began) / 100 < 0.025, "the aim is 5 ms"
    assert asked == 100


def test_row_29_no_probe_before_the_time_is_over(clock: Clock) -> None:
    breaker = opened(clock)
    for _ in range(1000):
        clock.now += 0.0599
        with pytest.raises(BreakerOpenError):
            breaker.acquire()
    clock.now += 0.1 + 1e-6
    breaker.acquire()


async def test_row_30_a_flood_at_half_open_lets_exactly_three_reach_the_backend(clock: Clock) -> None:
    breaker, upstream = opened(clock), Upstream()
    clock.now += 60
    calls = [asyncio.ensure_future(breaker.call_async(upstream)) for _ in range(1000)]
    refused = [call for call in calls if isinstance(await _outcome_or_asked(call, upstream), BreakerOpenError)]
    assert upstream.calls == 3
    assert len(refused) == 997
    upstream.let.set()
    assert sum(not isinstance(r, Exception) for r in await asyncio.gather(*calls, return_exceptions=True)) == 3
    assert breaker.state_name == "closed"


async def _outcome_or_asked(call: asyncio.Future[str], upstream: Upstream) -> BaseException | None:
    """Return what a call raised, or None once it is with the backend: all of them have begun by the first answer."""
    await upstream.asked.wait()
    return call.exception() if call.done() else None


@pytest.mark.parametrize("state", ["open", "half-open", "closed"])
def test_row_31_stale_outcomes_leave_the_state_alone_and_are_counted(clock: Clock, state: str) -> None:
    board = BreakerBoard(clock=clock)
    breaker = board.get("gpu", "chat")
    permits = [breaker.acquire() for _ in range(40)]
    for permit in permits[:5]:
        permit.failure()
    clock.now += 60
    if state != "open":
        probes = [breaker.acquire() for _ in range(3)]
        for probe in probes if state == "closed" else ():
            probe.success()
    waits_s = breaker.peek()
    for permit in permits[5:20]:
        permit.success()
    for permit in permits[20:]:
        permit.failure(OSError("late"))
    assert (breaker.state_name, breaker.peek(), breaker.fail_counter) == (state, waits_s, 0)
    board.get("gpu", "list")
    assert board.stale() == [("gpu", "chat", 35), ("gpu", "list", 0)]


def test_row_31_late_failures_do_not_lengthen_the_open_period(clock: Clock) -> None:
    breaker = make(clock)
    permits = [breaker.acquire() for _ in range(60)]
    for number, permit in enumerate(permits):
        permit.failure()
        clock.now += 1.0 if number >= 4 else 0.0
    clock.now += 4.0
    assert breaker.peek() is None, "sixty seconds after the fifth failure"
    assert breaker.state_name == "open"


async def test_row_32_a_probe_whose_client_left_returns_its_slot(clock: Clock) -> None:
    breaker, upstream = opened(clock), Upstream()
    clock.now += 60
    probes = [asyncio.ensure_future(breaker.call_async(upstream)) for _ in range(3)]
    await upstream.asked.wait()
    assert breaker.peek() is not None
    probes[0].cancel()
    await asyncio.wait(probes[:1])
    assert breaker.peek() is None
    upstream.let.set()
    await asyncio.gather(*probes[1:], breaker.call_async(upstream))
    assert breaker.state_name == "closed"


def test_row_32_probes_that_hang_lose_their_slots_when_their_lease_is_over(clock: Clock) -> None:
    breaker = opened(clock, probe_lease_s=120.0)
    clock.now += 60
    hung = [breaker.acquire() for _ in range(3)]
    clock.now += 119.9
    with pytest.raises(BreakerOpenError):
        breaker.acquire()
    clock.now += 0.1
    for probe in [breaker.acquire() for _ in range(3)]:
        probe.success()
    assert breaker.state_name == "closed"
    for probe in hung:
        probe.failure()
    assert breaker.state_name == "closed"


def test_row_33_a_flapping_backend_rests_longer_each_time_and_listeners_hear_it_in_order(clock: Clock) -> None:
    recorder, events = Recorder(), Events()
    policy = BreakerPolicy(reset_timeout_max_s=600.0)
    breaker = make(clock, policy, listeners=[Raising(), recorder], observer=events, random=lambda: 0.5)
    rests = []
    for _ in range(6):
        for _ in range(5):
            breaker.acquire().failure(OSError("500"))
        rests.append(breaker.peek())
        clock.now += rests[-1] or 0.0
        clock.now += 1e-6  # what adding up such times rounds away
        for _ in range(3):
            breaker.acquire().success()
        clock.now += 1.0
    assert rests == pytest.approx([60, 126, 252, 504, 630, 630])
    flap = [
        *["failure 500"] * 5,
        *["CLOSED>OPEN", "OPEN>HALF_OPEN"],
        *["success", "success", "HALF_OPEN>CLOSED", "success"],
    ]
    assert recorder.heard == flap * 6
    assert (
        events.seen
        == [BreakerChanged(backend="gpu", operation="chat", state=state) for state in ("open", "half-open", "closed")]
        * 6
    )


def test_row_34_hooks_that_raise_leave_traffic_alone_and_are_logged_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def on_event(self, event: object) -> None:
            raise RuntimeError("sk-secret")

    class Deaf:
        """Has none of a listener's methods."""

    breaker = make(clock, listeners=[Raising(), Deaf()], observer=Broken())
    for _ in range(3):
        assert breaker.call(int) == 0
        for _ in range(5):
            with pytest.raises(ValueError, match="down"):
                breaker.call(_down)
        with pytest.raises(BreakerOpenError):
            breaker.acquire()
        clock.now += 60
        for _ in range(3):
            breaker.acquire().success()
        assert breaker.state_name == "closed"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secret" not in caplog.text


def _down() -> None:
    raise ValueError("down")


class WallClock(datetime):
    """A wall clock that can be set; `now()` without a zone is the local time of the machine."""

    stands_at = datetime(2026, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.stands_at.astimezone(tz) if tz else cls.stands_at.astimezone().replace(tzinfo=None)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[WallClock]]:
    for module in (breaker_module, stock_module, states_module):
        monkeypatch.setattr(module, "datetime", WallClock)
    monkeypatch.setattr(time, "time", lambda: WallClock.stands_at.timestamp())
    monkeypatch.setattr(WallClock, "stands_at", WallClock.stands_at)  # put back what tests set
    yield WallClock
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York", "Europe/Berlin"])
@pytest.mark.parametrize("step", [timedelta(0), timedelta(hours=1), timedelta(hours=-1)], ids=["runs", "fwd", "back"])
def test_row_66_neither_time_zone_nor_a_stepped_wall_clock_nor_dst_changes_anything(
    clock: Clock, wall: type[WallClock], monkeypatch: pytest.MonkeyPatch, zone: str, step: timedelta
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    wall.stands_at = datetime(2026, 3, 8, 6, 59, 45, tzinfo=UTC)  # New York loses an hour 15 s later
    storage = CircuitMemoryStorage(aiobreaker.CircuitBreakerState.CLOSED)
    breaker = opened(clock, state_storage=storage)
    assert storage.opened_at == datetime(2026, 3, 8, 6, 59, 45), "UTC, though it bears no zone"
    clock.now += 20
    wall.stands_at += timedelta(seconds=20) + step
    assert breaker.peek() == 40.0
    assert breaker.time_until_open == timedelta(seconds=40)
    assert breaker.opens_at is not None
    assert breaker.opens_at == wall.stands_at + timedelta(seconds=40)
    assert breaker.opens_at.utcoffset() == timedelta(0)
    with pytest.raises(aiobreaker.CircuitBreakerError) as caught:
        breaker.acquire()
    assert caught.value.time_remaining == timedelta(seconds=40)
    assert caught.value.reopen_time == wall.stands_at + timedelta(seconds=40)
    wall.stands_at -= timedelta(days=400)
    clock.now += 39.9
    assert breaker.peek() is not None
    clock.now += 0.1
    assert breaker.acquire() is not None
    assert breaker.opens_at is None
