"""The gate as one frozen value, for people and metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .holding import HoldingState

if TYPE_CHECKING:
    from .effects import Decision
    from .holding import Holding
    from .ledger import VRAMLedger
    from .scheduler import Scheduler


MOST_WAIT_S = 24 * 3600.0
"""A wait without an end is shown as a day: JSON knows no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """One device. `total_bytes` None: a declared budget, of which no driver tells how much there is."""

    device: str
    name: str
    index: int
    total_bytes: int | None
    limit_bytes: int
    """What the gate may hold there."""
    used_bytes: int
    """What it holds: reserved, resident and unloading."""
    outside_bytes: int
    """What others hold."""
    free_bytes: int
    known: bool
    """It can be read, or needs no reading."""
    lost: bool
    """Nothing new is loaded there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentView:
    """A model in memory. `state` is `resident` or `unloading`; `leases` counts the draining ones too."""

    deployment: str
    state: str
    size_bytes: int
    placement: dict[str, int]
    """Bytes by device."""
    offloaded_bytes: int
    """What runs on the CPU because it did not fit."""
    measured: bool
    leases: int
    draining: int
    pinned: bool
    closed: bool
    """Takes no new requests, so that it drains for an older waiter."""
    fixed: bool
    """Its engine can neither load nor unload it."""
    last_used_age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationView:
    """Bytes promised to a model that is being loaded."""

    deployment: str
    size_bytes: int
    placement: dict[str, int]
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The requests that wait for one model."""

    deployment: str
    waiting: int
    oldest_age_s: float
    projected_wait_s: float
    """Until the model is in memory, as far as can be guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSnapshot:
    """What the gate knows at `at`, on its own clock. `budget_bytes` None: unknown, nothing is counted."""

    at: float
    budget_bytes: int | None
    used_bytes: int = 0
    free_bytes: int = 0
    """Negative when the engines took more than the budget by themselves."""
    above_threshold: bool = False
    devices: tuple[DeviceView, ...] = ()
    residents: tuple[ResidentView, ...] = ()
    reservations: tuple[ReservationView, ...] = ()
    queues: tuple[QueueView, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """The last ones, oldest first."""


def snapshot_of(scheduler: Scheduler, *, now: float) -> GateSnapshot:
    """Return the scheduler's state as a value."""
    ledger, queue = scheduler.ledger, scheduler.queue
    holdings = ledger.holdings()
    depths = queue.depths()
    threshold_bytes = ledger.budget_bytes * scheduler.policy.unload_threshold_pct / 100
    return GateSnapshot(
        at=now,
        budget_bytes=ledger.budget_bytes,
        used_bytes=ledger.used_bytes,
        free_bytes=ledger.free_bytes,
        above_threshold=ledger.used_bytes >= threshold_bytes,
        devices=_devices(ledger),
        residents=tuple(
            _resident(held, scheduler, now) for held in holdings if held.state is not HoldingState.RESERVED
        ),
        reservations=tuple(
            ReservationView(
                deployment=held.key.id,
                size_bytes=held.size_bytes,
                placement=dict(held.placement),
                age_s=now - held.since,
            )
            for held in holdings
            if held.state is HoldingState.RESERVED
        ),
        queues=tuple(
            QueueView(
                deployment=key.id,
                waiting=depths[key],
                oldest_age_s=now - min(waiter.came for waiter in queue if waiter.key == key),
                projected_wait_s=min(scheduler.projected_wait_s(key, now=now), MOST_WAIT_S),
            )
            for key in queue.models()
        ),
        decisions=tuple(scheduler.decisions),
    )


def _devices(ledger: VRAMLedger) -> tuple[DeviceView, ...]:
    room = ledger.room()
    return tuple(
        DeviceView(
            device=device.id,
            name=device.name,
            index=device.index,
            total_bytes=device.total_bytes,
            limit_bytes=device.limit_bytes,
            used_bytes=ledger.held_on(device.id),
            outside_bytes=device.outside_bytes,
            free_bytes=room[device.id],
            known=device.known,
            lost=device.lost,
        )
        for device in (ledger.devices[name] for name in ledger.devices)
    )


def _resident(held: Holding, scheduler: Scheduler, now: float) -> ResidentView:
    return ResidentView(
        deployment=held.key.id,
        state=held.state.value,
        size_bytes=held.size_bytes,
        placement=dict(held.placement),
        offloaded_bytes=held.offloaded_bytes,
        measured=held.measured,
        leases=held.leases,
        draining=held.draining,
        pinned=scheduler.ledger.names.is_pinned(held.key),
        closed=held.key in scheduler.closed,
        fixed=held.fixed,
        last_used_age_s=now - held.last_used if held.last_used > -math.inf else None,
    )
