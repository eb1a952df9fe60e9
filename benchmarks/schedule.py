"""Open loop: requests are sent at a fixed rate, whatever became of the earlier ones.

A request that finds no free connection waits for one. Its time counts from the moment it was meant to be sent, so that
a server that stalls is charged for all who would have come meanwhile, not only for the one that was caught
("coordinated omission" is what the closed loop commits).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .client import Connection, Exchange, Tally


class Schedule:
    """The moments at which requests are meant to be sent, in nanoseconds; it has no clock of its own."""

    def __init__(self, *, rate: float, begin_ns: int, count: int) -> None:
        self._gap_ns = 1e9 / rate
        self._begin_ns = begin_ns
        self._count = count
        self.given = 0

    def at(self, number: int) -> int:
        """Return when a request is meant to be sent."""
        return self._begin_ns + round(number * self._gap_ns)

    def due(self, now_ns: int) -> list[int]:
        """Return the intended moments that have come and were not given before."""
        found = []
        while self.given < self._count and (intended := self.at(self.given)) <= now_ns:
            found.append(intended)
            self.given += 1
        return found

    @property
    def is_over(self) -> bool:
        """Whether all have been given."""
        return self.given == self._count


class Sender:
    """Hands what is due to connections that are free, oldest first; what finds none waits."""

    def __init__(self, tally: Tally, schedule: Schedule, *, counts_from_ns: int = 0) -> None:
        self._tally = tally
        self._schedule = schedule
        self._counts_from_ns = counts_from_ns
        self._free: deque[PacedConnection] = deque()
        self.waiting: deque[int] = deque()
        self.under_way: set[int] = set()
        """The intended moments of what was sent and is not answered."""
        self.lateness: list[int] = []
        """How late the generator itself was, where a connection was free."""

    def tick(self, now_ns: int) -> None:
        """Send what is due."""
        for intended in self._schedule.due(now_ns):
            if self._free:
                self.lateness.append(now_ns - intended)
                self._send(self._free.popleft(), intended)
            else:
                self.waiting.append(intended)

    def free(self, connection: PacedConnection) -> None:
        """Take a connection on which nothing is under way."""
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        else:
            self._free.append(connection)

    def answered(self, intended: int, now_ns: int) -> None:
        """Note an answer; those of the warm-up do not count."""
        self.under_way.discard(intended)
        if intended >= self._counts_from_ns:
            self._tally.requests += 1
            self._tally.latency.append(now_ns - intended)

    def give_up(self, now_ns: int) -> int:
        """Note for what is not answered how long it has taken so far, at least; return how many that are."""
        left = [at for at in (*self.under_way, *self.waiting) if at >= self._counts_from_ns]
        self._tally.latency += [now_ns - at for at in left]
        return len(left)

    @property
    def behind(self) -> int:
        """How many requests should have been sent and are not answered."""
        return len(self.waiting) + len(self.under_way)

    def _send(self, connection: PacedConnection, intended: int) -> None:
        self.under_way.add(intended)
        connection.send(intended)


class PacedConnection(Connection):
    """A keep-alive connection that sends when the sender says so."""

    __slots__ = ("_sender",)

    def __init__(self, tally: Tally, exchange: Exchange, sender: Sender) -> None:
        super().__init__(tally, exchange)
        self._sender = sender

    def ready(self) -> None:
        self._sender.free(self)

    def _complete(self, now: int) -> None:
        self._sender.answered(self.began, now)
        self.ready()


_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


@contextmanager
def ticking(call: Callable[[int], None], *, from_ns: int, every_ns: int) -> Iterator[None]:
    """Call back at each tick of a timer of the kernel: those of event loops are a millisecond coarse."""
    loop, libc = asyncio.get_running_loop(), ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    spec = (_Timespec * 2)(_Timespec(*divmod(every_ns, 10**9)), _Timespec(*divmod(from_ns, 10**9)))

    def tick() -> None:
        os.read(timer, 8)
        call(time.monotonic_ns())

    libc.timerfd_settime(timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
    loop.add_reader(timer, tick)
    try:
        yield
    finally:
        loop.remove_reader(timer)
        os.close(timer)
