"""What a naive gate does: a lock, a queue, and the least recently used model goes."""

from __future__ import annotations

from collections import deque

from .machine import Machine
from .room import device_with_room, idle_victims, is_loading, is_under_way
from .values import Request


class FirstComeFirstServed:
    """First come first served with LRU.

    1. One queue. Nobody passes its head, not even for a model that is resident.
    2. The head's model is resident: the head is admitted, whatever else runs.
    3. It is not: it is loaded when it fits, one load at a time; else idle models leave, least recently used first; else
       the head waits until some are idle.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._queue: deque[Request] = deque()

    def arrived(self, request: Request) -> None:
        self._queue.append(request)
        self._pump()

    def finished(self, request: Request) -> None:
        self._pump()

    def loaded(self, model: str) -> None:
        self._pump()

    def unloaded(self, model: str) -> None:
        self._pump()

    def _pump(self) -> None:
        machine = self._machine
        while self._queue and machine.is_resident(self._queue[0].model):
            machine.admit(self._queue.popleft())
        if not self._queue or self._queue[0].model in machine.engines or is_loading(machine):
            return
        model = machine.models[self._queue[0].model]
        device = device_with_room(machine, model.size_bytes)
        if device is not None:
            machine.load(model.name, device)
        elif not is_under_way(machine, model.size_bytes):
            for victim in idle_victims(machine, model.size_bytes, rank=lambda engine: engine.last_used) or ():
                machine.unload(victim)
