"""The async side of a probe: read in a thread, believed for a while, never waited for too long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .base import DeviceMemory, MemoryProbe

logger = logging.getLogger("smartrouter_asgi")


@dataclass(frozen=True, slots=True)
class _Word:
    """What a device said last, and when it was asked."""

    device: DeviceMemory
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The probe's last answer; replaced whole, so that the loop reads one or the other while the thread writes."""

    asked_at: float = -math.inf
    words: Mapping[str, _Word] = field(default_factory=dict)
    present: frozenset[str] = frozenset()


class MemoryWatch:
    """Device memory as last read, for `ttl_s` from when it was asked for.

    1. A read runs in a daemon thread of its own, one at a time; `refresh` waits until it is `timeout_s` old, and no
       longer for one that is older. A probe that hangs blocks nobody, and what it says in the end is still taken.
    2. A device that is in an answer without telling what is free keeps its last word until that is too old, and is
       unknown then. One that never told is known by its total.
    3. A device that is in no answer any more has vanished, at once.
    4. A probe that raises has not answered.

    All methods but the thread's belong to event loops, one after another or at the same time; nothing is bound to one.
    """

    def __init__(
        self,
        probe: MemoryProbe,
        *,
        ttl_s: float = 10.0,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._answer = _Answer()
        self._lock = threading.Lock()
        self._reading = False
        self._began_at = -math.inf
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []
        self._complained = False

    async def refresh(self) -> bool:
        """Read, or join the read under way; whether it answered in time. Never raises but for its own cancellation."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        waiter = (loop, done)
        if not self._begin(waiter):
            return False
        try:
            await asyncio.wait((done,), timeout=max(self._began_at + self._timeout_s - self._clock(), 0.0))
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        return done.done() and done.result()

    def readings(self, now: float) -> Mapping[str, DeviceMemory]:
        """Return by UUID what may be believed at `now`."""
        return self._believed(self._answer, now)

    def unknown(self, now: float) -> frozenset[str]:
        """Return the UUIDs of devices that are there and of which nothing may be believed at `now`."""
        answer = self._answer
        return answer.present - self._believed(answer, now).keys()

    def is_known(self, now: float, uuid: str | None = None) -> bool:
        """Whether there is something to believe at `now`: of one device, or of each there is (none at all counts)."""
        if uuid is not None:
            return uuid in self.readings(now)
        return now - self._answer.asked_at <= self._ttl_s and not self.unknown(now)

    @property
    def vanished(self) -> frozenset[str]:
        """The UUIDs of devices that were there once and are not in the last answer."""
        answer = self._answer
        return frozenset(answer.words) - answer.present

    @property
    def asked_at(self) -> float:
        """When the last answer was asked for: it tells of nothing that happened since. Minus infinity before any."""
        return self._answer.asked_at

    def _believed(self, answer: _Answer, now: float) -> dict[str, DeviceMemory]:
        words = ((uuid, answer.words[uuid]) for uuid in answer.present)
        return {uuid: word.device for uuid, word in words if now - word.at <= self._ttl_s}

    def _begin(self, waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]) -> bool:
        """Queue for the read under way, or for a new one; False where there is no thread to be had."""
        with self._lock:
            if not self._reading:
                began_at = self._began_at = self._clock()
                thread = threading.Thread(
                    target=self._read, args=(began_at,), name="smartrouter-memory-probe", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._reading = True
            self._waiters.append(waiter)
            return True

    def _read(self, asked_at: float) -> None:
        """Run in the thread."""
        answered = False
        try:
            self._take(asked_at, self._probe.read())
            answered = True
        except Exception as error:
            if not self._complained:
                self._complained = True
                logger.warning("GPU memory cannot be read: %s: %s", type(error).__name__, error)
        finally:
            with self._lock:
                self._reading = False
                waiters, self._waiters = self._waiters, []
            for loop, done in waiters:
                with contextlib.suppress(RuntimeError):  # a loop that was closed meanwhile
                    loop.call_soon_threadsafe(_settle, done, answered)

    def _take(self, asked_at: float, devices: tuple[DeviceMemory, ...]) -> None:
        words = dict(self._answer.words)
        for device in devices:
            before = words.get(device.uuid)
            fell_silent = device.free_bytes is None and before is not None and before.device.free_bytes is not None
            if not fell_silent:
                words[device.uuid] = _Word(device, asked_at)
        self._answer = _Answer(asked_at=asked_at, words=words, present=frozenset(device.uuid for device in devices))


def _settle(done: asyncio.Future[bool], answered: bool) -> None:
    if not done.done():
        done.set_result(answered)
