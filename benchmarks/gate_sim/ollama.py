"""Ollama's scheduler (sched.go), as far as memory and order go."""

from __future__ import annotations

from collections import deque

from .machine import Engine, Machine, State
from .room import is_loading
from .values import Request

MIB = 1024**2
RESERVE_BYTES = 457 * MIB
FREE_SHARE = 0.8
KEEP_ALIVE_S = 300.0
MODELS_PER_DEVICE = 3


class Ollama:
    """Ollama's rules.

    1. One pending queue, one head at a time: while it waits for an eviction or a load, every other request that needs
       a load waits behind it.
    2. A request whose model is loaded passes that queue and waits at the engine, without bound; one whose model is
       being loaded waits for that load.
    3. Fit: the model's need is at most 80 % of what is free, less 457 MiB a device. Alone on a device it is loaded
       whatever that says, and at most 3 models a device are loaded in all.
    4. No fit: one victim at a time. Sorted by keep_alive, here the same for all (300 s), then by name; the first idle
       one goes. All busy: the first of the order is waited for; it is not closed, and requests that come for it still
       pass. Work in flight is never killed.
    5. After an unload it waits until the memory is back, and looks again.
    6. A model idle for its keep_alive is unloaded.

    What is left out: reloads for other load-time options, offload to the CPU, and the limit of the pending queue.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pending: deque[Request] = deque()
        self._joined: dict[str, list[Request]] = {}
        """Requests for models that are being loaded."""
        self._victim: str | None = None

    def arrived(self, request: Request) -> None:
        engine = self._machine.engines.get(request.model)
        if engine is not None and engine.state is State.RESIDENT:  # 2
            self._machine.admit(request)
        elif engine is not None and engine.state is State.LOADING:
            self._joined.setdefault(request.model, []).append(request)
        else:
            self._pending.append(request)
            self._pump()

    def finished(self, request: Request) -> None:
        engine = self._machine.engines[request.model]
        if engine.is_idle:
            idle_since = self._machine.now
            self._machine.call_at(idle_since + KEEP_ALIVE_S, lambda: self._expire(engine, idle_since))
        self._pump()

    def loaded(self, model: str) -> None:
        for request in self._joined.pop(model):
            self._machine.admit(request)
        self._pump()

    def unloaded(self, model: str) -> None:
        if model == self._victim:
            self._victim = None
        self._pump()

    def _pump(self) -> None:
        machine = self._machine
        while self._pending:
            head = self._pending[0]
            engine = machine.engines.get(head.model)
            if engine is not None and engine.state is State.RESIDENT:
                machine.admit(self._pending.popleft())
                continue
            if engine is not None and engine.state is State.LOADING:
                self._joined[head.model].append(self._pending.popleft())
                continue
            if engine is not None or is_loading(machine):
                return
            device = self._device_for(head.model)
            if device is None:
                self._evict()
                return
            self._victim = None
            machine.load(head.model, device)  # 1: no other head until this one is loaded
            self._joined[head.model] = [self._pending.popleft()]

    def _device_for(self, model: str) -> int | None:
        machine = self._machine
        if len(machine.engines) >= MODELS_PER_DEVICE * len(machine.devices):
            return None
        need_bytes = machine.models[model].size_bytes
        for device in sorted(range(len(machine.devices)), key=machine.free_bytes, reverse=True):
            alone = all(engine.device != device for engine in machine.engines.values())
            if alone or need_bytes <= FREE_SHARE * (machine.free_bytes(device) - RESERVE_BYTES):  # 3
                return device
        return None

    def _evict(self) -> None:
        engines = self._machine.engines
        if any(engine.state is State.UNLOADING for engine in engines.values()):
            return
        if self._victim is None or self._victim not in engines:  # 4
            order = sorted(engines.values(), key=lambda engine: engine.model.name)
            idle = [engine for engine in order if engine.is_idle]
            self._victim = (idle or order)[0].model.name
        if engines[self._victim].is_idle:
            self._machine.unload(self._victim)

    def _expire(self, engine: Engine, idle_since: float) -> None:
        if self._machine.engines.get(engine.model.name) is engine and engine.is_idle and engine.last_used == idle_since:
            self._machine.unload(engine.model.name)  # 6
