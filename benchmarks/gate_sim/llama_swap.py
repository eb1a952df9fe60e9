"""llama-swap's scheduler since its change to one run loop (May 2026)."""

from __future__ import annotations

from itertools import combinations

from .machine import Engine, Machine, State
from .values import Request


class LlamaSwap:
    """llama-swap's rules: residents first.

    1. A request for a loaded model is served at once, even if others queued earlier (ABCABC becomes AABBCC).
    2. The others wait by model, the one with the oldest waiter first (all have one priority); one whose victims are
       busy is passed by those that can go ahead. All who wait for a model share its load.
    3. A swap is put off until the victims have drained. They stay open meanwhile, and nothing bounds that.
    4. No accounting of memory; an expert wrote its matrix instead: every set of models that fits a device may run
       together, the cost of an eviction is the time a load of the model takes, and the solver picks the cheapest set.
       To its favour: the cheapest that is idle, if there is one, then the least recently used. One load at a time a
       device.
    5. No time to live, and its limit of ten requests at once per model is lifted: it would turn most away.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._groups: dict[str, list[Request]] = {}

    def arrived(self, request: Request) -> None:
        if self._machine.is_resident(request.model):  # 1
            self._machine.admit(request)
            return
        self._groups.setdefault(request.model, []).append(request)
        self._pump()

    def finished(self, request: Request) -> None:
        if self._machine.engines[request.model].is_idle:
            self._pump()

    def loaded(self, model: str) -> None:
        for request in self._groups.pop(model):
            self._machine.admit(request)
        self._pump()

    def unloaded(self, model: str) -> None:
        self._pump()

    def _pump(self) -> None:
        for model in list(self._groups):  # 2: a group is as old as its place in the dict
            if model not in self._machine.engines:
                self._swap_in(model)

    def _swap_in(self, model: str) -> None:
        machine = self._machine
        wanted = machine.models[model]
        chosen: tuple[tuple[bool, float, float], int, tuple[Engine, ...]] | None = None
        for device in range(len(machine.devices)):
            there = [engine for engine in machine.engines.values() if engine.device == device]
            if any(engine.state is not State.RESIDENT for engine in there):
                continue  # 4: this device is swapping
            missing_bytes = wanted.size_bytes - machine.free_bytes(device)
            for count in range(len(there) + 1):
                for victims in combinations(there, count):
                    if sum(engine.model.size_bytes for engine in victims) < missing_bytes:
                        continue
                    busy = not all(engine.is_idle for engine in victims)
                    cost_s = sum(engine.model.load_s for engine in victims)
                    key = (busy, cost_s, max((engine.last_used for engine in victims), default=0.0))
                    if chosen is None or key < chosen[0]:
                        chosen = key, device, victims
        if chosen is None or chosen[0][0]:  # 3
            return
        _, device, victims = chosen
        for engine in victims:
            machine.unload(engine.model.name)
        if not victims:
            machine.load(model, device)
