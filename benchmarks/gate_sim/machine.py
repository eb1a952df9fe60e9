"""The world a policy rules: devices with memory, engines with slots, and a clock that jumps from event to event.

It enforces what no policy may break: memory is never over-committed, a model that works is never unloaded, and a
request gets one end.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .values import Model, Pattern, Request


class State(Enum):
    """How far an engine is in its life."""

    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"


@dataclass(slots=True, kw_only=True, eq=False)
class Engine:
    """A model on a device. What has no slot yet waits in `backlog`."""

    model: Model
    device: int
    state: State
    last_used: float
    running: int = 0
    backlog: deque[Request] = field(default_factory=deque)
    admitted_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it may be unloaded."""
        return self.state is State.RESIDENT and not self.running and not self.backlog


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """What became of one request. `ahead`: how many other models were waited for when it came."""

    request: Request
    ahead: int
    admitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    rejected_at: float | None = None


class Policy(Protocol):
    """Decides who is admitted, what is loaded and what is unloaded, by calling the machine."""

    def arrived(self, request: Request) -> None:
        """Take a request: admit it, reject it, or keep it."""

    def finished(self, request: Request) -> None:
        """Hear that an engine is done with a request."""

    def loaded(self, model: str) -> None:
        """Hear that a model is resident."""

    def unloaded(self, model: str) -> None:
        """Hear that a model's memory is back."""


class Machine:
    """Runs one pattern under one policy."""

    def __init__(self, pattern: Pattern) -> None:
        self.now = 0.0
        self.devices = pattern.devices
        self.models = {model.name: model for model in pattern.models}
        self.engines: dict[str, Engine] = {}
        self.records: dict[int, Record] = {}
        self.loads = self.swaps = 0
        self.longest_drain_s = 0.0
        self._pattern = pattern
        self._waiting: Counter[str] = Counter()
        self._unloaded_since_load = [False] * len(pattern.devices)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._policy: Policy

    def run(self, policy: Policy) -> None:
        """Let every request of the pattern come, and go on until each has its end."""
        self._policy = policy
        for request in self._pattern.requests:
            self.call_at(request.at, self._arrival(request))
        while self._events and not self._is_over():
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.check()

    def _is_over(self) -> bool:
        return len(self.records) == len(self._pattern.requests) and self._open == 0

    @property
    def _open(self) -> int:
        return sum(self._waiting.values()) + sum(
            engine.running + len(engine.backlog) for engine in self.engines.values()
        )

    def check(self) -> None:
        """Assert that every request had exactly one end, in order."""
        assert len(self.records) == len(self._pattern.requests), "requests that never came"
        for record in self.records.values():
            assert (record.finished_at is None) != (record.rejected_at is None), f"{record} has not one end"
            if record.finished_at is not None:
                assert record.admitted_at is not None
                assert record.started_at is not None
                assert record.request.at <= record.admitted_at <= record.started_at <= record.finished_at

    # -- reading

    def free_bytes(self, device: int) -> int:
        """Return what no engine holds: loading, resident or unloading."""
        held = sum(engine.model.size_bytes for engine in self.engines.values() if engine.device == device)
        return self.devices[device] - held

    def is_resident(self, model: str) -> bool:
        """Whether a model can take requests."""
        engine = self.engines.get(model)
        return engine is not None and engine.state is State.RESIDENT

    # -- what a policy may do

    def admit(self, request: Request) -> None:
        """Send a request to its engine, where it gets a slot at once or waits for one."""
        engine = self.engines[request.model]
        assert engine.state is State.RESIDENT, f"{request.model} is not resident"
        record = self._end_waiting(request)
        record.admitted_at = engine.last_used = engine.admitted_at = self.now
        engine.backlog.append(request)
        self._fill_slots(engine)

    def reject(self, request: Request) -> None:
        """Send a request away."""
        self._end_waiting(request).rejected_at = self.now

    def load(self, model: str, device: int) -> None:
        """Start to load a model; `Policy.loaded` follows."""
        wanted = self.models[model]
        assert model not in self.engines, f"{model} is there already"
        assert wanted.size_bytes <= self.free_bytes(device), f"{model} does not fit on device {device}"
        self.engines[model] = Engine(model=wanted, device=device, state=State.LOADING, last_used=self.now)
        self.loads += 1
        self.swaps += self._unloaded_since_load[device]
        self._unloaded_since_load[device] = False
        self.call_at(self.now + wanted.load_s, lambda: self._loaded(model))

    def unload(self, model: str) -> None:
        """Start to unload an idle model; `Policy.unloaded` follows."""
        engine = self.engines[model]
        assert engine.is_idle, f"{model} is in use"
        self.longest_drain_s = max(self.longest_drain_s, engine.last_used - engine.admitted_at)
        engine.state = State.UNLOADING
        self._unloaded_since_load[engine.device] = True
        self.call_at(self.now + engine.model.unload_s, lambda: self._unloaded(model))

    def call_at(self, at: float, event: Callable[[], None]) -> None:
        """Call back at a moment of virtual time; events of one moment in the order they were asked for."""
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, event))

    # -- events

    def _arrival(self, request: Request) -> Callable[[], None]:
        def arrive() -> None:
            ahead = sum(1 for model, count in self._waiting.items() if count and model != request.model)
            self.records[request.ticket] = Record(request=request, ahead=ahead)
            self._waiting[request.model] += 1
            self._policy.arrived(request)

        return arrive

    def _end_waiting(self, request: Request) -> Record:
        record = self.records[request.ticket]
        assert record.admitted_at is None, f"{request} was admitted before"
        assert record.rejected_at is None, f"{request} was rejected before"
        self._waiting[request.model] -= 1
        return record

    def _fill_slots(self, engine: Engine) -> None:
        while engine.backlog and engine.running < engine.model.parallel:
            request = engine.backlog.popleft()
            engine.running += 1
            self.records[request.ticket].started_at = self.now
            self.call_at(self.now + request.service_s, self._completion(engine, request))

    def _completion(self, engine: Engine, request: Request) -> Callable[[], None]:
        def complete() -> None:
            engine.running -= 1
            engine.last_used = self.now
            self.records[request.ticket].finished_at = self.now
            self._fill_slots(engine)
            self._policy.finished(request)

        return complete

    def _loaded(self, model: str) -> None:
        engine = self.engines[model]
        engine.state = State.RESIDENT
        engine.last_used = engine.admitted_at = self.now
        self._policy.loaded(model)

    def _unloaded(self, model: str) -> None:
        del self.engines[model]
        self._policy.unloaded(model)
