"""What do the gate and its scheduler cost? `python -m benchmarks.gate_operations [--quick] [--rounds N] ...`.

Single events of the state machine, with a queue of up to 256 and up to 64 models, and a lease through the gate around
it. In process; times are CPU time of the thread. Each operation leaves the state as it found it.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Callable
from itertools import count
from typing import Any

from smartrouter_asgi import LoadedModel, VRAMGate
from smartrouter_asgi.vram.devices import Device, Devices
from smartrouter_asgi.vram.effects import Grant, StartLoad
from smartrouter_asgi.vram.eviction import candidates_of, choose_victims
from smartrouter_asgi.vram.ledger import VRAMLedger
from smartrouter_asgi.vram.names import ModelKey
from smartrouter_asgi.vram.policy import GatePolicy
from smartrouter_asgi.vram.scheduler import Scheduler

from . import layer_report
from .child import new_loop
from .figures import assemble, commit, figure
from .layers import time_calls, time_operation
from .processes import cores, pinned
from .progress import Progress
from .question import Options, Question, ask
from .stub import StubBackend, deployment

GIB = 1024**3
NOW = 1000.0
Operation = Callable[[], object]


def key(number: int) -> ModelKey:
    """Return one of many models."""
    return ModelKey("engine", f"model{number}")


def scheduler(models: int) -> Scheduler:
    """Return a scheduler with so many models of 1 GiB resident, and room for no other."""
    devices = Devices([Device(id="0", limit_bytes=models * GIB, index=0)])
    made = Scheduler(
        VRAMLedger(devices, default_estimate_bytes=GIB), GatePolicy(max_queue=10_000, reconcile_ttl_s=math.inf)
    )
    _told(made, 0)
    for number in range(models):
        effects = made.request(key(number), ticket=-number - 1, now=0.0, declared_bytes=GIB)
        assert any(isinstance(effect, StartLoad) for effect in effects)
        granted = made.load_finished(key(number), now=0.0, load_s=1.0)
        assert any(isinstance(effect, Grant) for effect in granted)
        made.released(key(number), now=0.0)
        _told(made, number + 1)
    return made


def _told(made: Scheduler, models: int) -> None:
    """Let the engine say what it holds, as it is asked to after each load."""
    held = tuple(LoadedModel(id=key(number).model, vram_bytes=GIB) for number in range(models))
    made.reconciled({"engine": held}, asked_at=0.0, now=0.0)


def operations() -> dict[str, Operation]:
    """Return the synchronous operations by the name to show."""
    found: dict[str, Operation] = {}
    for models in (1, 64):
        found[f"scheduler: lease of a resident and back, {models} model(s)"] = _leased(scheduler(models), key(0))
        found[f"scheduler: tick, nobody waits, {models} model(s)"] = _ticked(scheduler(models))
    for waiting in (1, 16, 256):
        found[f"scheduler: one more comes and leaves, {waiting} wait for 8 models"] = _queued(waiting)
        found[f"scheduler: tick, {waiting} wait for 8 models"] = _ticked(_crowded(waiting))
        found[f"scheduler: projected wait, {waiting} wait for 8 models"] = _projected(_crowded(waiting))
    for models in (4, 64):
        found[f"eviction: choose among {models}, lru"] = _evicting(models)
    found["ledger: lease and release"] = _ledger(scheduler(8).ledger)
    return found


def _leased(made: Scheduler, model: ModelKey) -> Operation:
    def run() -> None:
        assert made.take(model, now=NOW) is not None
        made.released(model, now=NOW)

    return run


def _ticked(made: Scheduler) -> Operation:
    return lambda: made.tick(now=NOW)


def _crowded(waiting: int) -> Scheduler:
    """Eight models in use and no room: so many wait for eight others."""
    made = scheduler(8)
    for number in range(8):
        assert made.take(key(number), now=NOW) is not None
    for number in range(waiting):
        made.request(key(100 + number % 8), ticket=number, now=NOW, declared_bytes=GIB)
    assert len(made.queue) == waiting
    return made


def _queued(waiting: int) -> Operation:
    made, tickets = _crowded(waiting), count(10_000)

    def run() -> None:
        ticket = next(tickets)
        made.request(key(100), ticket=ticket, now=NOW, declared_bytes=GIB)
        made.cancel(ticket, now=NOW)

    return run


def _projected(made: Scheduler) -> Operation:
    return lambda: made.projected_wait_s(key(100), now=NOW)


def _evicting(models: int) -> Operation:
    ledger = scheduler(models).ledger

    def run() -> None:
        candidates = candidates_of(ledger, now=NOW)
        assert choose_victims(candidates, lambda gone: len(gone) >= 2, now=NOW)

    return run


def _ledger(ledger: VRAMLedger) -> Operation:
    def run() -> None:
        ledger.lease(key(0), now=NOW)
        ledger.release(key(0), now=NOW)

    return run


async def measure_all(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measure everything, interleaved over the rounds."""
    resident, remote = deployment(gated=True), deployment()
    gate = VRAMGate(budget_bytes=8 * GIB, lifecycles={"stub": StubBackend()})
    await gate.load(resident)

    async def admitted() -> None:
        (await gate.admit(resident)).release()

    async def passed() -> None:
        (await gate.admit(remote)).release()

    calls = {
        "gate: lease of a resident model and back, a task each": admitted,
        "gate: not covered, a task each": passed,
    }
    single, found = operations(), dict[str, list[float]]()
    progress = Progress(QUESTION.name, rounds * (len(calls) + len(single)))
    for _ in range(rounds):
        for name, call in calls.items():
            progress.step(name)
            found.setdefault(name, []).append(await time_calls(call, seconds))
        for name, operation in single.items():
            progress.step(name)
            found.setdefault(name, []).append(time_operation(operation, seconds))
        gc.collect()
    progress.end()
    await gate.aclose()
    return found


def measure(options: Options) -> dict[str, Any]:
    """Measure and return the result."""
    rounds, seconds, revision = options.rounds_or(5), 0.005 if options.quick else 0.08, commit()
    with pinned(cores()[0]), asyncio.Runner(loop_factory=new_loop) as runner:
        found = runner.run(measure_all(rounds, seconds))
    method = {"rounds": rounds, "seconds_per_case": seconds, "quick": options.quick}
    rows = [{"name": name, **figure(values, "us")} for name, values in found.items()]
    return assemble(QUESTION.name, revision, method, {}, operations=rows)


QUESTION = Question(
    name="gate_operations",
    asks="what the gate and its scheduler cost",
    takes_s=12,
    measure=measure,
    render=layer_report.gate_operations,
)

if __name__ == "__main__":
    ask(QUESTION)
