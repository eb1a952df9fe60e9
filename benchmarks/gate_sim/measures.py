"""What a run comes to, and how much a pattern asks of its devices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .machine import Machine, Record
from .values import Model, Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run comes to.

    A wait lasts until the request has a slot in the engine, the gate's queue and the engine's together; `queued` is the
    gate's part of it. Both are of those that were served.
    """

    requests: int
    served: int
    rejected: int
    loads: int
    swaps: int
    mean_wait_s: float
    p95_wait_s: float
    max_wait_s: float
    mean_queued_s: float
    max_queued_s: float
    earliest_rejection_s: float
    """After how long the first of the rejected was sent away; infinity when none was."""
    makespan_s: float
    longest_drain_s: float
    worst_bound_ratio: float
    """Longest time in the gate's queue as a share of what the fairness law allows that request; see `aims.py`."""


def outcome_of(machine: Machine, pattern: Pattern, *, fair_after_s: float) -> Outcome:
    """Sum up a run that is over."""
    served = [record for record in machine.records.values() if record.finished_at is not None]
    rejected = [record for record in machine.records.values() if record.rejected_at is not None]
    waits = sorted(_since(record, record.started_at) for record in served)
    queued = [_since(record, record.admitted_at) for record in served]
    turn_s = machine.longest_drain_s + max(model.swap_s for model in pattern.models)
    bounds = [fair_after_s + (record.ahead + 1) * turn_s for record in served]
    return Outcome(
        requests=len(machine.records),
        served=len(served),
        rejected=len(rejected),
        loads=machine.loads,
        swaps=machine.swaps,
        mean_wait_s=sum(waits) / len(waits),
        p95_wait_s=waits[math.ceil(0.95 * len(waits)) - 1],
        max_wait_s=waits[-1],
        mean_queued_s=sum(queued) / len(queued),
        max_queued_s=max(queued),
        earliest_rejection_s=min((_since(record, record.rejected_at) for record in rejected), default=math.inf),
        makespan_s=max(record.finished_at or 0.0 for record in served),
        longest_drain_s=machine.longest_drain_s,
        worst_bound_ratio=max(wait / bound for wait, bound in zip(queued, bounds, strict=True)),
    )


def _since(record: Record, moment: float | None) -> float:
    assert moment is not None
    return moment - record.request.at


def utilisation(pattern: Pattern, *, round_s: float) -> float:
    """Return service and swap work as a share of what the devices can do, if each model is visited once a `round_s`.

    In device-time: a model holds one of the `places` that its size leaves on the devices. A visit serves what came in
    the meantime, `parallel` at once but no quicker than one request, and costs a load and an unload, unless all models
    fit together. Models asked for more rarely than once a round are visited per request.
    """
    span_s = pattern.span_s
    resident = _all_fit(pattern)
    total = 0.0
    for model in pattern.models:
        services = [request.service_s for request in pattern.requests if request.model == model.name]
        if not services:
            continue
        visits_per_s = min(len(services) / span_s, 1 / round_s)
        mean_s = sum(services) / len(services)
        per_visit = len(services) / span_s / visits_per_s
        busy_s = mean_s * per_visit / model.parallel if resident else max(mean_s, mean_s * per_visit / model.parallel)
        swap_s = 0.0 if resident else model.swap_s
        total += visits_per_s * (busy_s + swap_s) / places(model, pattern.devices)
    return total


def swap_pressure(pattern: Pattern, naive: Outcome) -> float:
    """Return how much of the devices' time the swaps of first come first served would take while requests come."""
    counts = Counter(request.model for request in pattern.requests)
    mean_swap_s = sum(model.swap_s * counts[model.name] for model in pattern.models) / len(pattern.requests)
    return naive.swaps * mean_swap_s / (pattern.span_s * len(pattern.devices))


def places(model: Model, devices: Sequence[int]) -> int:
    """Return how many models of this size the devices hold."""
    return sum(capacity // model.size_bytes for capacity in devices)


def _all_fit(pattern: Pattern) -> bool:
    free = list(pattern.devices)
    for model in sorted(pattern.models, key=lambda model: -model.size_bytes):
        device = max(range(len(free)), key=lambda index: free[index])
        if free[device] < model.size_bytes:
            return False
        free[device] -= model.size_bytes
    return True
