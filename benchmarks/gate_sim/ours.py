"""The gate's own `Scheduler`, driven through its effects in virtual time: this file only carries them out.

What a real gate measures and asks is answered from the machine: how long a load took, what the engines hold.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

from smartrouter_asgi.deployment import LoadedModel
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.effects import Effect, Grant, Reject, StartLoad, StartReconcile, StartUnload
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import Scheduler

from .machine import Machine, State
from .values import Request

BACKEND = "engine"
ASK_S = 0.005
"""How long the engines take to say what they hold."""
UNBOUNDED = 1_000_000
"""A queue length that no pattern reaches."""

SchedulerFactory = Callable[[Machine, GatePolicy], Scheduler]


def real_scheduler(machine: Machine, policy: GatePolicy) -> Scheduler:
    """Make the gate's scheduler for the devices of a machine."""
    devices = Devices(
        Device(id=str(index), limit_bytes=limit_bytes, index=index) for index, limit_bytes in enumerate(machine.devices)
    )
    return Scheduler(VRAMLedger(devices, default_estimate_bytes=0), policy)


class Ours:
    """The gate.

    By default it is compared like for like with rivals that turn nobody away: the queue has no bound in number or time.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        fair_after_s: float = GatePolicy().fair_after_s,
        max_wait_s: float = math.inf,
        make: SchedulerFactory = real_scheduler,
    ) -> None:
        self._machine = machine
        policy = GatePolicy(fair_after_s=fair_after_s, max_wait_s=max_wait_s, max_queue=UNBOUNDED)
        self._scheduler = make(machine, policy)
        self._requests: dict[int, Request] = {}
        self._loads_since: dict[str, float] = {}
        self._wakeup = math.inf

    def arrived(self, request: Request) -> None:
        """Ask for a lease; footprints are known, as after a first load."""
        self._requests[request.ticket] = request
        size_bytes = self._machine.models[request.model].size_bytes
        key = ModelKey(BACKEND, request.model)
        self._apply(
            self._scheduler.request(key, ticket=request.ticket, now=self._machine.now, declared_bytes=size_bytes)
        )

    def finished(self, request: Request) -> None:
        """Give the lease back, and tell how long it was held."""
        now = self._machine.now
        held_s = now - (self._machine.records[request.ticket].admitted_at or 0.0)
        self._apply(self._scheduler.released(ModelKey(BACKEND, request.model), now=now, held_s=held_s))

    def loaded(self, model: str) -> None:
        """Report a load with the time it took."""
        now = self._machine.now
        load_s = now - self._loads_since.pop(model)
        self._apply(self._scheduler.load_finished(ModelKey(BACKEND, model), now=now, load_s=load_s))

    def unloaded(self, model: str) -> None:
        """Report that a model is gone."""
        self._apply(self._scheduler.unload_finished(ModelKey(BACKEND, model), now=self._machine.now))

    def _apply(self, effects: Iterable[Effect]) -> None:
        machine, pending = self._machine, deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Grant(ticket=ticket):
                    machine.admit(self._requests.pop(ticket))
                case Reject(ticket=ticket):
                    machine.reject(self._requests.pop(ticket))
                case StartLoad(key=key):
                    self._loads_since[key.model] = machine.now
                    held = self._scheduler.ledger.get(key)
                    assert held is not None, f"nothing is reserved for {key.model}"
                    (device,) = held.placement
                    machine.load(key.model, int(device))
                case StartUnload(key=key):
                    machine.unload(key.model)
                case StartReconcile():
                    self._ask()
                case _:
                    assert_never(effect)
        self._set_wakeup()

    def _ask(self) -> None:
        """Let the engines answer with what they hold at the moment they are asked."""
        asked_at = self._machine.now
        models = tuple(
            LoadedModel(id=name, vram_bytes=engine.model.size_bytes)
            for name, engine in self._machine.engines.items()
            if engine.state is not State.LOADING
        )

        def answer() -> None:
            now = self._machine.now
            self._apply(self._scheduler.reconciled({BACKEND: models}, asked_at=asked_at, now=now))

        self._machine.call_at(asked_at + ASK_S, answer)

    def _set_wakeup(self) -> None:
        at = self._scheduler.next_wakeup(now=self._machine.now)
        if at == self._wakeup:
            return
        self._wakeup = at
        if at == math.inf:
            return

        def wake() -> None:
            if self._wakeup == at:  # else another moment has taken its place
                self._wakeup = math.inf
                self._apply(self._scheduler.tick(now=self._machine.now))

        self._machine.call_at(max(at, self._machine.now), wake)
