"""aiobreaker's `CircuitBreaker` with permits, a sliding window, bounded probes and a monotonic clock.

aiobreaker keeps its vocabulary (`stock`); what moves the breaker is `Circuit`, pure. One breaker belongs to one
event loop. A `BreakerBoard` holds the breakers of a router.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..events import BreakerChanged
from ..exceptions import SmartRouterError
from .circuit import Circuit, CircuitState
from .hooks import Hooks
from .permit import NULL_PERMIT, Permit
from .policy import BreakerPolicy
from .states import MEMBERS, NAMES, CircuitOpenError
from .stock import StockInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import aiobreaker

    from ..events import Observer
    from ..types import Clock, Random

__all__ = ["BreakerBoard", "BreakerPolicy", "CircuitBreaker", "CircuitOpenError", "Permit"]


class CircuitBreaker(StockInterface):
    """Refuses attempts while its backend is down; see `Circuit` for when that is.

    A `state_storage` shares the state between breakers: another one's move is taken over before the next permit.
    Its counter is written, never read: what opens this breaker is its own window. Listeners and observer hear of
    every settled permit and every move, in the order these happened; one that raises is ignored and logged once.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        backend: str = "",
        operation: str = "",
        clock: Clock = time.monotonic,
        random: Random = random.random,
        probe_lease_s: float = 120.0,
        observer: Observer | None = None,
        exclude: Iterable[Callable[[Exception], bool] | type[Exception]] | None = None,
        listeners: Iterable[aiobreaker.CircuitBreakerListener] | None = None,
        state_storage: aiobreaker.storage.base.CircuitBreakerStorage | None = None,
    ) -> None:
        self._circuit = Circuit(policy or BreakerPolicy(), probe_lease_s=probe_lease_s, random=random)
        self._hooks = Hooks(f"{backend}/{operation}")
        self._backend = backend
        self._operation = operation
        self._clock = clock
        self._observer = observer
        self._shared = state_storage is not None
        self._heard: CircuitState = "closed"
        super().__init__(
            exclude=exclude, listeners=listeners, state_storage=state_storage, name=f"{backend}/{operation}"
        )
        if self._shared:
            self._adopt()

    def peek(self) -> float | None:
        """Return None when a permit may be had now, else the seconds after which to ask again (> 0)."""
        circuit = self._circuit
        if not circuit.policy.enabled:
            return None
        if self._shared:
            self._adopt()
        return circuit.wait_s(self._clock())

    def acquire(self) -> Permit:
        """Return a permit for one attempt or raise CircuitOpenError (503, a BreakerOpenError)."""
        circuit = self._circuit
        if not circuit.policy.enabled:
            return NULL_PERMIT
        if self._shared:
            self._adopt()
        if circuit.state == "closed":
            return Permit(self, circuit.epoch, 0)
        now, before = self._clock(), circuit.state
        probe = circuit.admit(now)
        if probe is None:
            raise CircuitOpenError(
                f"the circuit breaker of {self._name} is {before}", retry_after_s=circuit.wait_s(now) or 0.0
            )
        permit = Permit(self, circuit.epoch, probe)
        if circuit.state != before:
            self._moved(before)
            self._hooks.tell()
        return permit

    @property
    def state_name(self) -> CircuitState:
        """`closed`, `half-open` or `open`; an open one whose time is over stays so until somebody asks."""
        return self._circuit.state

    @property
    def stale(self) -> int:
        """How many outcomes came too late to count."""
        return self._circuit.stale

    def _settle(
        self,
        epoch: int,
        probe: int,
        failed: bool | None,
        exc: Exception | None = None,
        first_token_s: float | None = None,
    ) -> None:
        circuit = self._circuit
        if failed is False and not self._listeners and circuit.note_success(epoch):
            return
        before, current = circuit.state, circuit.epoch
        circuit.settle(epoch, probe, failed, self._clock(), first_token_s)
        if failed:
            if epoch == current:
                self._hooks.guard(self._state_storage.increment_counter)
            if self._listeners:
                self._note("failure", exc or SmartRouterError(f"an attempt at {self._name} failed"))
        if circuit.epoch != current:
            self._moved(before)
        elif not self._listeners:
            return
        if failed is False:
            self._note("success")
        self._hooks.tell()

    def _end(self, epoch: int, failed: bool) -> None:
        circuit = self._circuit
        before, current = circuit.state, circuit.epoch
        circuit.end(epoch, failed, self._clock())
        if failed and epoch == current:
            self._hooks.guard(self._state_storage.increment_counter)
        if circuit.epoch != current:
            self._moved(before)
            self._hooks.tell()

    def _force(self, state: CircuitState, *, publish: bool = True) -> None:
        before = self._circuit.state
        self._circuit.move(state, self._clock())
        self._moved(before, publish=publish)
        self._hooks.tell()

    def _adopt(self) -> None:
        try:
            state = NAMES[self._state_storage.state]
        except Exception as exc:  # a storage that is down: this breaker goes on alone
            self._hooks.complain(exc)
            return
        if state == self._heard:  # only what is news counts: a storage that lost our last move takes nothing back
            return
        self._heard = state
        if state != self._circuit.state:
            self._force(state, publish=False)

    def _moved(self, before: CircuitState, *, publish: bool = True) -> None:
        state = self._circuit.state
        old, self._state = self._state, self._create_new_state(MEMBERS[state])
        if publish:
            self._publish(state)
        if state == before:
            return
        self._note("state_change", old, self._state)
        if self._observer is not None:
            event = BreakerChanged(backend=self._backend, operation=self._operation, state=state)
            self._hooks.note(self._observer, "on_event", event)

    def _publish(self, state: CircuitState) -> None:
        storage, guard = self._state_storage, self._hooks.guard
        if state == "open":  # for eyes only, and without a time zone, as aiobreaker has it
            guard(setattr, storage, "opened_at", datetime.now(UTC).replace(tzinfo=None))
        elif state == "closed":
            guard(storage.reset_counter)
        guard(self._write, state)

    def _write(self, state: CircuitState) -> None:
        storage = self._state_storage
        storage.state = MEMBERS[state]
        # read back: aiobreaker's Redis storage swallows a write that fails and goes on answering with a default
        self._heard = NAMES[storage.state]


class BreakerBoard:
    """The breakers of a router, one per backend and operation, made when first asked for.

    Keys come from configuration only: a name a client sent would grow the board without bound.
    """

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        *,
        clock: Clock = time.monotonic,
        random: Random = random.random,
        observer: Observer | None = None,
        probe_lease_s: float = 120.0,
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._random = random
        self._observer = observer
        self._probe_lease_s = probe_lease_s
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}

    def get(self, backend: str, operation: str) -> CircuitBreaker:
        """Return the one breaker of this backend and operation."""
        breaker = self._breakers.get((backend, operation))
        if breaker is None:
            breaker = self._breakers[backend, operation] = CircuitBreaker(
                self._policy,
                backend=backend,
                operation=operation,
                clock=self._clock,
                random=self._random,
                probe_lease_s=self._probe_lease_s,
                observer=self._observer,
            )
        return breaker

    def forget(self, backend: str) -> None:
        """Drop the breakers of a name that turned out to be none."""
        for key in [key for key in self._breakers if key[0] == backend]:
            del self._breakers[key]

    def states(self) -> list[tuple[str, str, str]]:
        """List (backend, operation, state) of every breaker there is."""
        return [(*key, breaker.state_name) for key, breaker in self._breakers.items()]

    def stale(self) -> list[tuple[str, str, int]]:
        """List (backend, operation, how many outcomes came too late to count) of every breaker there is."""
        return [(*key, breaker.stale) for key, breaker in self._breakers.items()]
