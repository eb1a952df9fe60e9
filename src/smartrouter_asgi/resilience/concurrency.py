"""Limits on how much runs at once on a deployment and on a backend; see `slots` for who gets a slot, and when.

Here a request waits for its turn: a future per waiter, none for a request that finds a slot free. Between two awaits
everything is synchronous, so there is no lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from types import TracebackType

from ..deployment import Deployment
from ..exceptions import DeadlineExceededError, QueueFullError
from .slots import Refused, Slots

MAX_QUEUE = 64


class ConcurrencyLimit:
    """The slots of one name, of the event loop that runs now. What another loop left behind is gone with it."""

    __slots__ = ("_loop", "_slots", "label")

    def __init__(self, label: str, max_parallel: int, *, max_queue: int) -> None:
        self.label = label
        self._slots: Slots[Slot] = Slots(max_parallel, max_queue=max_queue)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return 0 if self._loop is None or self._loop.is_closed() else self._slots.waiting

    def here(self) -> Slots[Slot]:
        """Return the slots of the running loop: new ones on a new loop, with the service time learnt so far."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            old = self._slots
            self._slots = Slots(old.max_parallel, max_queue=old.max_queue, service_s=old.service_s)
            self._loop = loop
        return self._slots


class Slot:
    """A slot of each of some limits, taken in their order, for the length of one `async with`.

    Entering raises `QueueFullError` (503) when there is no place in line, or no slot and `wait` is false, and
    `DeadlineExceededError` (504) when the deadline passes first. Cancelled while it waits, it is gone at once, and what
    it was granted in that very moment goes to the next in line.
    """

    __slots__ = ("_deadline", "_entered", "_limits", "_priority", "_turn", "_wait")

    def __init__(self, limits: tuple[ConcurrencyLimit, ...], priority: int, deadline: float, wait: bool) -> None:
        self._limits = limits
        self._priority = priority
        self._deadline = deadline
        self._wait = wait
        self._entered: list[Slots[Slot]] = []
        self._turn: asyncio.Future[bool] | None = None
        """True: the slot is there. False: the deadline came first."""

    async def __aenter__(self) -> None:
        try:
            for limit in self._limits:
                slots = limit.here()
                self._entered.append(slots)
                entry = slots.enter(
                    self, now=time.monotonic(), priority=self._priority, deadline=self._deadline, wait=self._wait
                )
                if entry == "granted":
                    continue
                if isinstance(entry, Refused):
                    raise self._full(limit, slots, entry)
                if entry == "late" or not await self._take_turn():
                    raise DeadlineExceededError(f"{limit.label} was busy until the request's time was up")
        except BaseException:
            self._leave(used=False)
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(used=True)

    def hand_over(self) -> None:
        """Tell a waiter that it has the slot. One that is about to leave gives it to the next when it does."""
        turn = self._turn
        if turn is not None and not turn.done() and not turn.get_loop().is_closed():
            turn.set_result(True)

    async def _take_turn(self) -> bool:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._turn = turn
        if self._deadline == math.inf:
            return await turn
        timer = loop.call_later(self._deadline - time.monotonic(), _too_late, turn)
        try:
            return await turn
        finally:
            timer.cancel()

    def _leave(self, *, used: bool) -> None:
        """Give back whatever it holds or waits for, the last first, and wake those who get it."""
        now = time.monotonic()
        while self._entered:
            slots = self._entered.pop()
            heir = slots.leave(self, now=now, used=used)
            if heir is not None:
                heir.hand_over()

    def _full(self, limit: ConcurrencyLimit, slots: Slots[Slot], refused: Refused) -> QueueFullError:
        rest = f"{refused.waiting} more wait already" if self._wait else "none is free now"
        return QueueFullError(
            f"{limit.label} serves {slots.max_parallel} requests at a time and {rest}", retry_after_s=refused.wait_s
        )


def _too_late(turn: asyncio.Future[bool]) -> None:
    # Time can be up in the same round of the loop as a grant or a cancellation.
    if not turn.done():
        turn.set_result(False)


class ConcurrencyLimits:
    """The limits of backends, by name, and those that deployments carry themselves. One event loop at a time.

    `max_queue` is how many may wait in each of the lines.
    """

    def __init__(self, backends: Mapping[str, int] | None = None, *, max_queue: int = MAX_QUEUE) -> None:
        self._max_queue = max_queue
        # A tuple of the limits to pass, made once, so that a request only looks it up.
        self._backends = {
            name: (ConcurrencyLimit(f"backend '{name}'", max_parallel, max_queue=max_queue),)
            for name, max_parallel in (backends or {}).items()
        }
        self._deployments: dict[str, tuple[ConcurrencyLimit, ...]] = {}

    def apply(self, deployment: Deployment) -> bool:
        """Tell whether any limit holds for a deployment."""
        return deployment.max_parallel is not None or deployment.backend in self._backends

    def has_room(self, deployment: Deployment) -> bool:
        """Tell whether a request to a deployment would get its slots at once; asked from the event loop."""
        return all(limit.here().free for limit in self._of(deployment))

    def slot(self, deployment: Deployment, *, priority: int = 0, deadline: float = math.inf, wait: bool = True) -> Slot:
        """Hold a slot of the deployment, then one of its backend, for the length of an `async with`; see `Slot`.

        `priority`: lower goes first, a step is worth ten seconds. `deadline` is on `time.monotonic`.
        """
        return Slot(self._of(deployment), priority, deadline, wait)

    def depths(self) -> dict[str, int]:
        """Return how many requests wait, by the deployment id or the name of the backend they wait for."""
        lines = self._backends | self._deployments
        return {name: limits[0].waiting for name, limits in lines.items()}

    def _of(self, deployment: Deployment) -> tuple[ConcurrencyLimit, ...]:
        shared = self._backends.get(deployment.backend, ())
        if deployment.max_parallel is None:
            return shared
        own = self._deployments.get(deployment.id)
        if own is None:
            limit = ConcurrencyLimit(
                f"deployment '{deployment.id}'", deployment.max_parallel, max_queue=self._max_queue
            )
            own = self._deployments[deployment.id] = (limit, *shared)
        return own
