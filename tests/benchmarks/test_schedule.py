"""An open loop counts from when a request was meant to be sent, whatever the clock and the server do."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import pytest
from benchmarks.client import Tally
from benchmarks.schedule import PacedConnection, Schedule, Sender, ticking

MS = 1_000_000


class Connection:
    """One that only notes what it was given to send."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, began: int) -> None:
        self.sent.append(began)


def sender(tally: Tally, *, rate: float, count: int, counts_from_ns: int = 0) -> Sender:
    return Sender(tally, Schedule(rate=rate, begin_ns=0, count=count), counts_from_ns=counts_from_ns)


def free(sender: Sender, connection: Connection) -> None:
    sender.free(cast("PacedConnection", connection))


def test_requests_are_meant_for_fixed_moments():
    schedule = Schedule(rate=1000, begin_ns=5 * MS, count=4)
    assert schedule.due(4 * MS) == []
    assert schedule.due(5 * MS) == [5 * MS]
    assert schedule.due(5 * MS) == [], "each is given once"
    assert schedule.due(100 * MS) == [6 * MS, 7 * MS, 8 * MS], "late or not, it is the intended moments that are given"
    assert schedule.is_over


def test_moments_do_not_drift():
    """A rate that is no whole number of nanoseconds apart stays the rate it is."""
    schedule = Schedule(rate=3, begin_ns=0, count=3_000_001)
    assert schedule.at(3_000_000) == 1_000_000 * 1_000_000_000


def test_a_stall_is_charged_for_all_who_came_meanwhile():
    """One connection, an answer after 10 ms where one came each ms: ten requests waited, not one."""
    tally, connection = Tally(), Connection()
    load = sender(tally, rate=1000, count=10)
    free(load, connection)
    for now in range(10):
        load.tick(now * MS)
    assert connection.sent == [0], "the connection is taken"
    now = 10 * MS
    while connection.sent:
        load.answered(connection.sent.pop(), now)
        free(load, connection)
        now += MS // 10
    assert tally.requests == 10
    assert tally.latency[0] == 10 * MS
    assert tally.latency[1] == 10 * MS + MS // 10 - MS, "meant for 1 ms, answered at 10.1 ms"
    assert min(tally.latency) > 1 * MS
    assert load.behind == 0


def test_a_late_generator_says_so_and_does_not_hide_it():
    tally, connection = Tally(), Connection()
    load = sender(tally, rate=1000, count=2)
    free(load, connection)
    load.tick(MS // 2)
    assert load.lateness == [MS // 2]
    assert connection.sent == [0], "its time counts from 0 all the same"


def test_the_warm_up_does_not_count():
    tally, connection = Tally(), Connection()
    load = sender(tally, rate=1000, count=2, counts_from_ns=MS)
    for now in (0, MS):
        free(load, connection)
        load.tick(now)
        load.answered(now, now + MS // 4)
    assert (tally.requests, tally.latency) == (1, [MS // 4])


def test_what_is_never_answered_counts_with_the_time_it_has_taken_so_far():
    tally, connection = Tally(), Connection()
    load = sender(tally, rate=1000, count=3)
    free(load, connection)
    load.tick(2 * MS)
    assert load.behind == 3
    assert load.give_up(10 * MS) == 3
    assert sorted(tally.latency) == [8 * MS, 9 * MS, 10 * MS]
    assert tally.requests == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the timer is one of Linux")
async def test_ticks_come_at_the_moments_asked_for():
    """The first not before its time, the others after it; only how soon is up to the machine."""
    ticks: list[int] = []
    enough = asyncio.Event()

    def tick(now: int) -> None:
        ticks.append(now)
        if len(ticks) == 3:
            enough.set()

    begin = time.monotonic_ns() + 5 * MS
    with ticking(tick, from_ns=begin, every_ns=MS):
        async with asyncio.timeout(20):
            await enough.wait()
    assert ticks[0] >= begin
    assert ticks == sorted(ticks)
